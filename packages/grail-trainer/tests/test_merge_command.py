"""Anybody repeats a published merge to the bit, without torch; a trainer that comes back finishes what it began."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import raw_state
from grail_core.checkpoints.due import DueObjects, complete
from grail_core.checkpoints.fetch import materialise
from grail_core.checkpoints.publish import CheckpointParts, ReadyDelta, publish
from grail_core.errors import CheckpointError, ProtocolViolationError
from grail_core.keys import ss58
from grail_core.protocol.gradient.merged import OUTER
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Block, Window
from grail_core.storage.filesystem import FilesystemDirectory, FilesystemStore
from grail_core.storage.layout import update_key
from grail_trainer.cli import cli
from grail_trainer.gradient_presets import TINY
from grail_trainer.merging.merge import merge, merged_record
from grail_trainer.merging.publication import merge_valid_from, publish_merged
from grail_trainer.merging.recomputed import recompute
from tooling.testing.checkpoints import MODEL_FILES, PARAMS, TRAINER
from tooling.testing.gradient_states import SPEC
from tooling.testing.merging import MINERS, WITHOUT_TORCH, MergingTrainer, update_file


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, MergingTrainer]]:
    """A development network whose trainer has merged two rounds; a reader's settings are in the environment."""
    root = tmp_path_factory.mktemp("network")
    chain = LocalChain.create(root / "chain.db", seed=4, clock=ClockMode.VIRTUAL, genesis_time_ms=1_000_000)
    (root / "buckets").mkdir()
    for signer, name in ((TRAINER, "trainer"), *((signer, f"miner-{n}") for n, signer in enumerate(MINERS[:3]))):
        chain.register(signer)
        chain.advance(2)
        chain.commit(signer, FilesystemDirectory(root / "buckets", name, clock=chain.now_ms).commitment())
    chain.advance(3)
    store = FilesystemDirectory(root / "buckets", "trainer", clock=chain.now_ms).own()
    trainer = MergingTrainer(store, root / "trainer-cache", PARAMS.network_id(chain.genesis_hash))
    trainer.publish_first()
    trainer.merge(1)
    trainer.merge(2)
    (root / "network.json").write_text(json.dumps(PARAMS.to_json()))
    settings = {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": root / "chain.db",
        "GRAIL_NETWORK": root / "network.json",
        "GRAIL_STORAGE_ROOT": root / "buckets",
        "GRAIL_CACHE_DIR": root / "reader-cache",
        "GRAIL_STATE_DIR": root / "reader-state",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, str(value))
        patch.chdir(root)
        yield root, trainer


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["merge", *arguments], catch_exceptions=False)


def test_a_round_is_merged_again_to_the_published_root_without_torch(network: tuple[Path, MergingTrainer]) -> None:
    root, trainer = network
    command = [sys.executable, "-c", WITHOUT_TORCH, "merge", "60", "--json", "--out", str(root / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ.copy())
    assert done.returncode == 0, done.stderr
    told, head = json.loads(done.stdout), trainer.bucket.sequence().stored[2].manifest
    assert (told["equal"], told["different"], told["round"], told["updates"]) == (True, [], 60, 3)
    assert told["root"] == told["published_root"] == head.weights_root.hex()
    assert digest_state(map_weights(root / "out")).root == head.weights_root
    assert (root / "out" / "grail-manifest.json").read_bytes() == head.to_bytes()
    assert json.loads((root / "out" / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]


def test_the_miners_files_do_where_the_trainer_has_no_parts(network: tuple[Path, MergingTrainer]) -> None:
    root, trainer = network
    head = trainer.bucket.sequence().stored[2].manifest
    kept = {part.key: trainer.store.get(part.key, max_bytes=part.size) for part in head.deltas[0].parts}
    for miner in range(3):
        store = FilesystemStore(root / "buckets", f"miner-{miner}")
        store.put(update_key(ss58(MINERS[miner].hotkey), Window(60)), update_file(miner, 60).data)
    try:
        for key in kept:
            trainer.store.delete(key)
        for path in (root / "reader-cache").rglob("objects/*"):
            path.unlink()
        done = run("60")
    finally:
        for key, data in kept.items():
            trainer.store.put(key, data)
    assert done.exit_code == 0
    assert "checkpoint 2 from checkpoint 1 and 3 updates" in done.output
    assert "as published" in done.output


def test_a_round_that_was_not_merged_is_said_with_those_that_were(network: tuple[Path, MergingTrainer]) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint was merged from round 90") as refused:
        run("90")
    assert "30, 60" in refused.value.hint


def test_weights_that_do_not_follow_are_told_by_tensor_and_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = MergingTrainer(FilesystemStore(tmp_path, "trainer"), tmp_path / "cache")
    first = trainer.publish_first()
    chosen = [update_file(miner, 30) for miner in range(2)]
    merged = merged_record(Window(30), chosen, SPEC, parent_sequence=0)
    weights = merge(trainer.first_weights(), [update.data for update in chosen], merged, SPEC)
    weights["c"] = weights["c"] + np.float32(1e-3)
    parts = CheckpointParts(
        trainer.network_id,
        Window(30),
        Window(60),
        first.environment,
        first.policy,
        first.end_token_ids,
        first.thinking_mode,
        merged.to_json(),
        uncovered=True,
    )
    data = {update.hotkey: update.data for update in chosen}
    ready = ReadyDelta(first, OUTER, (b"".join(data[row.hotkey] for row in merged.merged),))
    publish(trainer.bucket, parts, weights, MODEL_FILES, TRAINER, PARAMS, profile=None, ready=[ready])
    result = recompute(trainer.bucket, Window(30), out=tmp_path / "out")
    assert (result.equal, result.different) == (False, ("c",))
    assert not (tmp_path / "out" / "grail-manifest.json").exists()

    class Reader:
        checkpoints = None

        def view(self) -> None: ...

        def bucket(self) -> object:
            return trainer.bucket

    reader = Reader()
    reader.checkpoints = reader  # type: ignore[assignment]
    monkeypatch.setattr("grail_trainer.merging.merge_command.open_checkpoints", lambda settings: reader)
    with pytest.raises(ProtocolViolationError, match="1 of its tensors differ, first c") as refused:
        run("30")
    assert refused.value.exit_code == 11


def test_order_and_threads_do_not_show_in_a_merge() -> None:
    trainer = MergingTrainer(FilesystemStore(Path("/nowhere"), "trainer"), Path("/nowhere"))
    parent, chosen = trainer.first_weights(), [update_file(miner, 30) for miner in range(4)]
    merged = merged_record(Window(30), chosen, SPEC, parent_sequence=0)
    files = [update.data for update in chosen]
    roots = {
        digest_state(raw_state(merge(parent, order, merged, SPEC, threads=threads))).root
        for order in (files, files[::-1], files[2:] + files[:2])
        for threads in (1, 4)
    }
    assert len(roots) == 1
    with pytest.raises(CheckpointError, match="not those that the merge names"):
        merge(parent, files[:3], merged, SPEC)
    with pytest.raises(CheckpointError, match="stand in the order of their hotkeys' bytes, each once"):
        merged_record(Window(30), [chosen[0], chosen[0]], SPEC, parent_sequence=0)
    with pytest.raises(CheckpointError, match="more than the 2 that a round merges"):
        merged_record(Window(30), chosen, dataclasses.replace(SPEC, peers=2), parent_sequence=0)


def test_a_trainer_that_comes_back_finishes_the_same_merge_and_refuses_another(tmp_path: Path) -> None:
    store = FilesystemStore(tmp_path, "trainer")
    first = MergingTrainer(store, tmp_path / "cache").publish_first()
    manifest = MergingTrainer(store, tmp_path / "cache").merge(1, completed=False)
    again = MergingTrainer(store, tmp_path / "cache")
    again.bucket.cache.discard(manifest.digest)  # killed right after it put the manifest
    assert again.merge(1, completed=False) == manifest
    assert again.bucket.cache.entry(manifest.digest) is not None
    assert complete(again.bucket) == 1
    assert DueObjects(again.bucket).owed() == []
    reader = MergingTrainer(store, tmp_path / "reader").bucket
    assert digest_state(map_weights(materialise(manifest, reader))).root == manifest.weights_root
    with pytest.raises(CheckpointError, match="another merge of round 30 is published already"):
        again.merge(1, updates=2)
    chosen = [update_file(0, 60)]
    with pytest.raises(CheckpointError, match="starts from the chain's head"):
        publish_merged(
            again.bucket,
            first,
            chosen,
            merged_record(Window(60), chosen, SPEC, parent_sequence=0),
            Window(90),
            TRAINER,
            PARAMS,
        )


def test_a_merge_comes_into_force_in_the_next_round_or_that_being_past_the_one_after() -> None:
    head = dataclasses.make_dataclass("Head", ["valid_from"])(Window(60))
    two = dataclasses.replace(TINY, round_windows=2)
    lead = LOCALNET.checkpoint_lead
    for spec, block, expected in (
        (TINY, 70, 90),
        (TINY, 90 - lead - 2, 90),
        (TINY, 90 - lead - 1, 120),
        (TINY, 200, 210),
        (two, 100, 120),
        (two, 119, 180),
    ):
        assert merge_valid_from(Window(60), spec, head, Block(block), LOCALNET) == expected
