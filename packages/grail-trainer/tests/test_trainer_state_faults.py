"""What a trainer finds on its disk is what it wrote, or it says so; it never goes on from numbers that nobody wrote."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import CheckpointError, ConfigurationError, DamagedStateError, GrailError, StorageError
from grail_core.keys import LocalSigner
from grail_core.protocol.types import Digest, Window
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.optimiser import Masters, state_digest
from grail_trainer.state import TrainerState
from grail_trainer.steps import Beginning, Published, TrainedWindow
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

OWNER = LocalSigner.from_seed(bytes(32)).hotkey


def masters(seed: int = 0) -> Any:
    return Masters(random_model(Qwen2Shape(64, hidden=16, heads=2, tied=True), seed), OptimiserSettings(learning_rate=1e-3))


def opened(folder: Path) -> TrainerState:
    return TrainerState(folder, network_id=Digest(bytes(32)), trainer=OWNER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trainer that has learned from one window and published it."""
    state = opened(tmp_path)
    state.take(Beginning(Window(0)))
    state.take(TrainedWindow(Window(30), {"window": 30}, {"groups": 3}, {"loss": 0.5}), masters())
    state.take(Published(Window(30)))
    return tmp_path


def resumed(folder: Path) -> str | GrailError:
    """Digest of the masters that a restart ends with, or what it says."""
    new = masters(seed=9)
    try:
        state = opened(folder)
        state.resume(new)
    except GrailError as error:
        return error
    assert state.journal is not None
    assert (state.journal.decided, state.journal.learned) == (30, 1)
    return state_digest(new.tensors())


def test_a_restart_finds_what_was_written(folder: Path) -> None:
    assert resumed(folder) == state_digest(masters().tensors())


def test_weights_that_are_not_published_yet_come_back_with_a_restart_whatever_was_learned_since(tmp_path: Path) -> None:
    state = opened(tmp_path)
    state.take(Beginning(Window(0)))
    trained = [TrainedWindow(Window(window), {"window": window}, {}, {}) for window in (30, 60)]
    for seed, one in enumerate(trained):
        state.take(one, masters(seed))
    again, latest = opened(tmp_path), masters(9)
    again.resume(latest)
    found = again.unpublished(latest)
    assert [one for one, _ in found] == trained
    for seed, (_, weights) in enumerate(found):
        expected = masters(seed).published()
        assert all(weights[name].equal(expected[name]) for name in expected)
    assert state_digest(latest.tensors()) == state_digest(masters(1).tensors())
    again.take(Published(Window(30)))
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-60.safetensors"]


@pytest.mark.parametrize("name", ["journal.json", "state-30.safetensors"])
def test_turned_bits_are_told_and_never_trained_on(folder: Path, name: str) -> None:
    good, expected = (folder / name).read_bytes(), resumed(folder)
    for seed in range(25):
        chance, data = random.Random(seed), bytearray(good)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (folder / name).write_bytes(data)
        found = resumed(folder)
        if isinstance(found, GrailError):
            assert isinstance(found, ConfigurationError | CheckpointError)
            assert found.where
            assert found.hint
        else:
            assert found == expected  # a digest whose name was turned states nothing
            assert name == "journal.json"


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\0" * 999, b'{"format": 1, "owner": {}, "pending": 3}', b"{" * 9999])
def test_a_journal_that_is_none_says_how_to_go_on(folder: Path, raw: bytes) -> None:
    (folder / "journal.json").write_bytes(raw)
    with pytest.raises(ConfigurationError) as caught:
        opened(folder)
    assert caught.value.exit_code == 3
    assert "move it away" in caught.value.hint


def test_a_training_state_that_is_gone_or_a_folder_is_told(folder: Path) -> None:
    path = folder / "state-30.safetensors"
    path.unlink()
    assert isinstance(resumed(folder), StorageError)
    path.mkdir()
    assert isinstance(resumed(folder), StorageError)


@pytest.mark.parametrize("pending", [False, True])
def test_a_state_as_an_earlier_version_left_it_is_read(folder: Path, pending: bool) -> None:
    """Its journal held one window that is not published, or none, and no digests."""
    value = json.loads((folder / "journal.json").read_text())
    for name in ("sha256", "states_sha256"):
        del value[name]
    trained = {"window": 30, "log": {"window": 30}, "summary": {"groups": 3}, "event": {"loss": 0.5}}
    (folder / "journal.json").write_text(json.dumps(value | {"format": 1, "pending": trained if pending else None}))
    assert resumed(folder) == state_digest(masters().tensors())
    state = opened(folder)
    state.resume(masters())
    assert [one.window for one in state.pending] == [30] * pending
    if pending:
        state.take(Published(Window(30)))
    state.take(TrainedWindow(Window(60), {"window": 60}, {"groups": 3}, {"loss": 0.5}), masters(seed=3))
    (folder / "state-60.safetensors").write_bytes((folder / "state-60.safetensors").read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DamagedStateError):
        opened(folder).resume(masters())
