"""A miner draws and proves with one checkpoint, or not at all, whatever fails while it changes from one to the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.loaded import LiveCheckpoint, LoadedCheckpoint, PreparedCheckpoint
from grail_core.errors import CheckpointError, EngineError, GrailError, MachineFaultError, StorageError
from grail_core.generation.base import Drawn, GenerationRequest, ServedWeights
from grail_core.generation.engine_folder import CURRENT, EngineFolders
from grail_core.proof.batch import RolloutProof
from grail_core.proof.sketches import Projections
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.storage.filesystem import FilesystemStore
from grail_miner.weight_roll import WeightRoll
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.next_checkpoint import NextCheckpoints

NAME = "model.embed_tokens.weight"


class Side:
    """A generator and a prover in one, which keep of a checkpoint's weights what tells them apart from others'."""

    numerics_class = proof_class = "test"
    slots = 1

    def __init__(self) -> None:
        self.weights: bytes | None = None
        self.version: str | None = None
        self.loads = 0
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def serve(self, weights: ServedWeights) -> None:
        self.before()
        self.version = None
        self.weights = _first_row(weights.model.state()) if weights.model is not None else _of(weights.folder)
        self.loads += 1
        self.version = weights.version
        self.after()

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        self.before()
        self.weights = None
        loaded = isinstance(checkpoint, LoadedCheckpoint)
        self.weights = _first_row(checkpoint.model.state()) if loaded else _of(checkpoint.folder)  # type: ignore[attr-defined]
        self.loads += 1
        self.after()

    def distrust(self) -> None:
        self.version = None

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        raise NotImplementedError

    def prove(self, rows: Any, prompt_lengths: Any, projections: Projections) -> list[RolloutProof]:
        raise NotImplementedError

    def measure(self, *asked: Any) -> list[RolloutMeasurement]:
        raise NotImplementedError

    def close(self) -> None: ...


def _of(folder: Path) -> bytes:
    return bytes(map_weights(folder)[NAME].bits[:64].tobytes())


def _first_row(state: Any) -> bytes:
    return bytes(state[NAME].reshape(-1)[:64].view(torch.int16).numpy().tobytes())


class Trainer(NextCheckpoints):
    """The network's checkpoints, with what tells their weights apart."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.network = network
        self.first_rows = [_first_row(self.weights)]

    def publish(self, changed: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor * 1.01) -> CheckpointManifest:
        manifest = super().publish(changed)
        self.first_rows.append(_first_row(self.weights))
        return manifest


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    network = Network(tmp_path, miners=1, validators=0)
    network.advance_to(FIRST_WINDOW + 1)
    return Trainer(network)


class Miner:
    """A weight roll between two sides, in one of the three ways in which weights are held."""

    def __init__(self, trainer: Trainer, kind: str) -> None:
        self.trainer = trainer
        self.generator, self.prover = Side(), Side()
        self.source = trainer.network.participant("miner-0").checkpoints
        self.folders = EngineFolders(trainer.network.root / "engine") if kind != "in place" else None
        live = LiveCheckpoint(self.source) if kind != "engine" else None
        self.roll = WeightRoll(self.source, self.generator, self.prover, live=live, folders=self.folders, poll_seconds=0.001)

    def require_both_at(self, number: int) -> None:
        manifest = self.trainer.manifests[number]
        checkpoint = self.roll.at(manifest)
        assert checkpoint.manifest == manifest
        assert self.generator.version == manifest.digest.hex()
        assert self.generator.weights == self.trainer.first_rows[number]
        assert self.prover.weights == self.trainer.first_rows[number]


KINDS = ("engine", "in place", "model here, proof elsewhere")


@pytest.fixture(params=KINDS)
def miner(trainer: Trainer, request: pytest.FixtureRequest) -> Iterator[Miner]:
    made = Miner(trainer, request.param)
    yield made
    made.roll.close()


def test_both_sides_have_the_windows_checkpoint_and_are_asked_once(miner: Miner) -> None:
    miner.require_both_at(0)
    miner.require_both_at(0)
    assert (miner.generator.loads, miner.prover.loads) == (1, 1)
    miner.trainer.publish()
    miner.require_both_at(1)
    miner.require_both_at(0)  # and back, as an examination of an older window would


def _fail(error: GrailError) -> Callable[[], None]:
    def now() -> None:
        raise error

    return now


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("which", ["generator", "prover"])
def test_a_side_that_fails_leaves_no_mixture(miner: Miner, which: str, when: str) -> None:
    """Whatever is asked for next, the new checkpoint or the old one, both sides have it or nothing is returned."""
    miner.require_both_at(0)
    miner.trainer.publish()
    side = miner.generator if which == "generator" else miner.prover
    for following in (0, 1):
        setattr(side, when, _fail(EngineError("it broke") if which == "generator" else MachineFaultError("it broke")))
        with pytest.raises(MachineFaultError, match="it broke"):
            miner.roll.at(miner.trainer.manifests[1])
        setattr(side, when, lambda: None)
        miner.require_both_at(following)


def test_a_generator_that_lies_about_what_it_took_is_found_out(miner: Miner) -> None:
    miner.require_both_at(0)
    miner.trainer.publish()
    miner.generator.after = lambda: setattr(miner.generator, "version", "00" * 32)
    with pytest.raises(EngineError, match="serves 0000000000000000"):
        miner.roll.at(miner.trainer.manifests[1])
    miner.generator.after = lambda: None
    miner.require_both_at(0)


def test_a_server_that_lost_its_weights_is_told_them_again_and_the_proof_is_not(trainer: Trainer) -> None:
    miner = Miner(trainer, "engine")
    miner.require_both_at(0)
    miner.generator.version, miner.generator.weights = None, None  # it has died
    miner.require_both_at(0)
    assert (miner.generator.loads, miner.prover.loads) == (2, 1)


def test_a_checkpoint_that_cannot_be_had_leaves_both_sides_where_they_are(
    miner: Miner, monkeypatch: pytest.MonkeyPatch
) -> None:
    miner.require_both_at(0)
    miner.trainer.publish()
    name = "materialise" if miner.folders is not None else "download_step"
    error: GrailError
    for error in (StorageError("503"), CheckpointError("a tensor is wrong")):
        with monkeypatch.context() as patched:
            patched.setattr(type(miner.source), name, lambda *_, error=error: _fail(error)())
            with pytest.raises(type(error)):
                miner.roll.at(miner.trainer.manifests[1])
        miner.require_both_at(0)
    miner.require_both_at(1)


@pytest.mark.parametrize("damage", ["gone", "overwritten"])
def test_a_folder_damaged_once_it_was_ready_costs_a_try_and_not_its_checkpoint(trainer: Trainer, damage: str) -> None:
    miner = Miner(trainer, "engine")
    assert miner.folders is not None
    manifest = trainer.publish()
    miner.roll.ahead(manifest)
    while manifest.digest not in miner.roll.ready():
        threading.Event().wait(0.01)
    for file in miner.folders.root.glob("*/*.safetensors"):
        data = file.read_bytes()
        if damage == "gone":
            file.unlink()
        else:  # the cache's too: both names are of one file
            start = 8 + int.from_bytes(data[:8], "little")
            file.write_bytes(data[:start] + bytes(len(data) - start))
    miner.prover.before = _fail(CheckpointError("a proof worker loaded other weights than the manifest names"))
    with pytest.raises(GrailError):
        miner.roll.at(manifest)
    miner.prover.before = lambda: None
    miner.require_both_at(1)
    miner.roll.close()


def test_the_next_checkpoint_is_at_hand_when_its_window_begins(miner: Miner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, decoded or hashed any more then: what is left is each side's own load."""
    miner.require_both_at(0)
    manifest = miner.trainer.publish()
    miner.roll.follow(manifest.valid_from)
    while manifest.digest not in miner.roll.ready():
        threading.Event().wait(0.01)
    monkeypatch.setattr(FilesystemStore, "get", lambda *_, **__: pytest.fail("something was fetched"))
    monkeypatch.setattr(type(miner.source), "materialise", lambda *_: pytest.fail("all weights were hashed"))
    miner.require_both_at(1)


def test_no_more_than_two_checkpoints_lie_in_folders(trainer: Trainer) -> None:
    miner = Miner(trainer, "engine")
    assert miner.folders is not None
    for number in range(4):
        if number:
            trainer.publish()
        miner.require_both_at(number)
        folders = {path for path in miner.folders.root.iterdir() if path.is_dir() and not path.is_symlink()}
        assert len(folders) <= 2
        current = (miner.folders.root / CURRENT).resolve()
        assert current in {folder.resolve() for folder in folders}
        assert _of(current) == trainer.first_rows[number]
    miner.roll.close()


def test_weights_must_be_somewhere(trainer: Trainer) -> None:
    with pytest.raises(ValueError, match="in this process, or in folders"):
        WeightRoll(trainer.network.participant("miner-0").checkpoints, Side(), Side())
