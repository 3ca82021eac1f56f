"""A participant finds the trainer's bucket on chain, follows its checkpoints, and takes one out with `grail checkpoint`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.inspection import inspect_sequence
from grail_core.checkpoints.retention import retire
from grail_core.checkpoints.source import CheckpointSource
from grail_core.commands.checkpoint import checkpoint
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Digest, Window
from grail_core.storage.filesystem import FilesystemDirectory
from tooling.testing.checkpoints import PARAMS, TRAINER, WeightsTrainer, bucket_of, first_window, holds_weights


@dataclass
class Network:
    """A development chain with a registered trainer, whose bucket is in a folder."""

    root: Path
    chain: LocalChain
    params: NetworkParameters
    directory: FilesystemDirectory

    @property
    def network_id(self) -> Digest:
        return self.params.network_id(self.chain.genesis_hash)

    def publish(self, number: int) -> CheckpointManifest:
        own = self.directory.own()
        return WeightsTrainer(own, self.root / "trainer-cache", self.network_id, self.params).publish(number)

    def reader(self) -> CheckpointSource:
        return CheckpointSource(self.chain, self.directory, self.params, self.network_id, self.root / "reader-cache")


@pytest.fixture
def network(tmp_path: Path) -> Network:
    chain = LocalChain.create(tmp_path / "chain.db", seed=4, clock=ClockMode.VIRTUAL, genesis_time_ms=1_000_000)
    (tmp_path / "buckets").mkdir()
    directory = FilesystemDirectory(tmp_path / "buckets", "trainer", clock=chain.now_ms)
    return Network(tmp_path, chain, PARAMS, directory)


def join(network: Network) -> None:
    network.chain.register(TRAINER)
    network.chain.advance(2)
    network.chain.commit(TRAINER, network.directory.commitment())
    network.chain.advance(3)


def test_a_trainer_that_is_not_there_yet_is_said_plainly(network: Network) -> None:
    network.chain.advance(2)
    with pytest.raises(CheckpointError, match="the network's trainer is not registered"):
        network.reader().valid_at(Window(0))
    network.chain.register(TRAINER)
    network.chain.advance(3)
    with pytest.raises(CheckpointError, match="the network's trainer has committed no bucket"):
        network.reader().valid_at(Window(0))


def test_a_reader_follows_the_chain_window_by_window(network: Network) -> None:
    join(network)
    network.publish(0)
    source = network.reader()
    for number in range(4):
        if number:
            network.publish(number)
        window = first_window(number)
        while network.chain.current_block() < window:
            network.chain.advance(10)
        manifest = source.valid_at(window)
        assert manifest.sequence == number
        assert holds_weights(source.materialise(manifest), number)


def test_the_report_says_what_a_late_reader_would_fetch(network: Network) -> None:
    join(network)
    manifests = [network.publish(number) for number in range(12)]
    report = network.reader().inspect(check_objects=True)
    assert [row.kind for row in report.rows] == ["FULL", *["DELTA"] * 9, "FULL", "DELTA"]
    assert all(not row.missing for row in report.rows)
    assert report.rows[8].skips == (1, 2, 4, 8)
    by_distance = {reader.behind: reader for reader in report.late}
    assert by_distance[1].bytes == manifests[11].deltas[0].size
    assert by_distance[10].objects >= 1
    assert "root" in report.lines()[0]
    json.dumps(report.to_json())
    store = network.directory.own()
    store.delete(manifests[5].index.key)
    again = inspect_sequence(network.reader().bucket(), network.params, lambda block: block, check_objects=True)
    assert again.rows[5].missing == (manifests[5].index.key,)


def test_what_retention_keeps_can_still_be_fetched(network: Network) -> None:
    join(network)
    for number in range(24):
        network.publish(number)
    plan = retire(bucket_of(network.directory.own(), network.root / "own", network.network_id), newest=3)
    assert [m.sequence for m in plan.keep] == [0, 10, 20, 21, 22, 23]
    source = network.reader()
    kept = source.view().stored
    assert [item.manifest.sequence for item in kept] == [0, 10, 20, 21, 22, 23]
    for item in kept:
        folder = source.materialise(item.manifest)
        assert holds_weights(folder, item.manifest.sequence)
    network.publish(24)
    head = source.view().head
    assert head is not None
    assert head.sequence == 24


def test_grail_checkpoint_exports_and_shows(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    join(network)
    network.publish(0)
    network.publish(1)
    network.chain.advance(90)
    (network.root / "network.json").write_text(json.dumps(network.params.to_json()))
    for name, value in {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": network.root / "chain.db",
        "GRAIL_NETWORK": network.root / "network.json",
        "GRAIL_STORAGE_ROOT": network.root / "buckets",
        "GRAIL_CACHE_DIR": network.root / "cli-cache",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(network.root)
    runner = CliRunner()
    done = runner.invoke(checkpoint, ["export", "95", "out"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert holds_weights(network.root / "out", 1)
    (stored,) = network.root.glob("buckets/*/grail/checkpoints/90/manifest.json")
    assert (network.root / "out" / "grail-manifest.json").read_bytes() == stored.read_bytes()
    shown = runner.invoke(checkpoint, ["show", "--json"], catch_exceptions=False)
    assert [row["sequence"] for row in json.loads(shown.stdout)["rows"]] == [0, 1]
    assert runner.invoke(checkpoint, ["export", "soon", "out2"]).exit_code == 2
    with pytest.raises(CheckpointError, match="something in this folder already"):
        runner.invoke(checkpoint, ["export", "latest", "out"], catch_exceptions=False)
