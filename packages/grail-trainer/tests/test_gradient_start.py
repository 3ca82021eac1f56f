"""A network of gradient work begins with one command: a real float32 model, whole, with the numbers of a preset."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.due import complete
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.gradient.layout import Layout
from grail_core.gradient.update_file import assemble, sketch_bytes, sketch_rows
from grail_core.keys import LocalSigner, write_wallet
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import CheckpointKind, CheckpointManifest
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Window
from grail_core.storage.filesystem import FilesystemDirectory
from grail_core.work import Work, work_of
from grail_envs.corpus import bytes_1
from grail_envs.corpus.opening import corpus_of
from grail_trainer.cli import cli
from grail_trainer.gradient_presets import TINY
from grail_trainer.merging.merge import ChosenUpdate, merged_record
from grail_trainer.merging.publication import publish_merged
from tooling.testing.gradient_states import update
from tooling.testing.merging import WITHOUT_TORCH
from tooling.testing.models.tiny_qwen2 import save_byte_model

SEED = bytes(range(32))
TRAINER = LocalSigner.from_seed(SEED)
PARAMS = dataclasses.replace(LOCALNET, trainer_hotkey=TRAINER.hotkey)


@dataclasses.dataclass(frozen=True)
class Place:
    root: Path
    chain: LocalChain

    def bucket(self) -> CheckpointBucket:
        store = FilesystemDirectory(self.root / "buckets", "bucket-trainer", clock=self.chain.now_ms).own()
        network_id = PARAMS.network_id(self.chain.genesis_hash)
        return CheckpointBucket(store, self.root / "own-cache", trainer=TRAINER.hotkey, network_id=network_id)

    def first(self) -> CheckpointManifest:
        return self.bucket().sequence().stored[0].manifest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A chain on which the trainer is registered, and its settings in the environment."""
    root = tmp_path_factory.mktemp("place")
    chain = LocalChain.create(root / "chain.db", seed=4, clock=ClockMode.VIRTUAL, genesis_time_ms=1_000_000)
    (root / "buckets").mkdir()
    chain.register(TRAINER)
    chain.advance(43)
    write_wallet(root / "wallets", "cold", "trainer", coldkey_seed=bytes(32), hotkey_seed=SEED)
    (root / "params.json").write_text(json.dumps(PARAMS.to_json()))
    values = {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": root / "chain.db",
        "BT_WALLET_PATH": root / "wallets",
        "BT_WALLET_COLD": "cold",
        "BT_WALLET_HOT": "trainer",
        "NETUID": PARAMS.netuid,
        "GRAIL_NETWORK": root / "params.json",
        "GRAIL_STORAGE_ROOT": root / "buckets",
        "GRAIL_STORAGE_BUCKET": "bucket-trainer",
        "GRAIL_BEACON_URLS": "http://127.0.0.1:9",
        "GRAIL_CACHE_DIR": root / "cache",
        "GRAIL_STATE_DIR": root / "state",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, str(value))
        patch.chdir(root)
        yield Place(root, chain)


def init(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["init", *arguments], catch_exceptions=False)


BEGIN = ("--work", "gradient", "--preset", "tiny")


def test_one_command_publishes_a_float32_checkpoint_with_the_numbers_of_the_preset(place: Place) -> None:
    done = init(*BEGIN, "--out", "model", "--uncovered")
    assert done.exit_code == 0
    first = place.first()
    assert done.stdout == f"checkpoint 0 ({first.digest.hex()[:16]}…), in force from round 60\n"
    assert (first.kind, first.valid_from, work_of(first)) == (CheckpointKind.FULL, 60, Work.GRADIENT)
    assert GradientSpec.of(first.environment) == TINY
    assert corpus_of(first.environment).spec.digest == bytes_1.DIGEST
    index = place.bucket().index(first)
    assert {entry.layout.dtype.name for entry in index.tensors.values()} == {"F32"}
    assert digest_state(map_weights(place.root / "model")).root == first.weights_root
    again = init(*BEGIN, "--out", "model", "--uncovered")  # of a trainer that does not know whether it came through
    assert again.stdout == done.stdout
    assert [item.manifest.sequence for item in place.bucket().sequence().stored] == [0]
    with pytest.raises(ConfigurationError, match="has a first checkpoint already, and it is another"):
        init(*BEGIN, "--out", "other", "--seed", "5", "--uncovered")


def test_its_first_merge_is_repeated_by_a_stranger_without_torch(place: Place) -> None:
    init(*BEGIN, "--out", "model", "--uncovered")
    first, bucket = place.first(), place.bucket()
    index = bucket.index(first)
    layout = Layout.of([(name, entry.layout.shape) for name, entry in index.tensors.items()], TINY)
    chosen = []
    for uid in (3, 1):
        hotkey = LocalSigner.from_seed(bytes([uid]) * 32).hotkey
        header = canonical_json({"batch": 4, "hotkey": hotkey.hex(), "window": 60})
        sketches = bytes(sketch_bytes(TINY, sketch_rows(4)))
        chosen.append(ChosenUpdate(uid, hotkey, assemble(header, bytes(64), sketches, update(layout, TINY, uid))))
    merged = merged_record(Window(60), chosen, TINY, parent_sequence=0)
    manifest = publish_merged(bucket, first, chosen, merged, Window(90), TRAINER, PARAMS)
    complete(bucket)
    place.chain.commit(TRAINER, FilesystemDirectory(place.root / "buckets", "bucket-trainer").commitment())
    place.chain.advance(3)
    command = [sys.executable, "-c", WITHOUT_TORCH, "merge", "60", "--json"]
    environment = os.environ | {"GRAIL_CACHE_DIR": str(place.root / "stranger"), "GRAIL_STATE_DIR": str(place.root / "away")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["root"] == manifest.weights_root.hex() != first.weights_root.hex()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--out", "x", "--preset", "tiny"), "--preset is not used without --work gradient"),
        (("--out", "x", "--uncovered"), "--uncovered is not used without --work gradient"),
        (("--out", "x", *BEGIN, "--quick"), "--quick is not used with --work gradient"),
        (("--out", "x", "--work", "gradient"), "begins with the numbers of a preset"),
        (("--out", "x", "--work", "gradient", "--preset", "huge"), "there is no preset 'huge'"),
    ],
)
def test_options_of_the_other_work_are_refused(place: Place, arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        init(*arguments)
    assert not (place.root / "x").exists()


def test_a_folder_in_another_type_is_refused(place: Place) -> None:
    save_byte_model(place.root / "bf16")
    with pytest.raises(CheckpointError, match="float32 weights, these are BF16"):
        init(*BEGIN, "--out", "bf16", "--uncovered")
