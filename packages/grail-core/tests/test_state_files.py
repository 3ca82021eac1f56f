"""A small state file is what was written, or healed, or one clear error; never a number that nobody wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.checkpoints.manifests import CheckpointSequence, EquivocationError, RollbackError, StoredManifest
from grail_core.checkpoints.seen import SeenCheckpoints
from grail_core.errors import DamagedStateError, DiskFullError, StorageError
from grail_core.state_file import read_state, write_state
from grail_core.storage.filesystem import FilesystemStore
from tooling.testing.checkpoints import WeightsTrainer, weights
from tooling.testing.faults import events

VALUE = {"decided": 300, "names": ["a", "ü"], "pending": None}


def read(path: Path) -> dict[str, object] | None:
    return read_state(path, what="the file", recovery="move it away")


def test_what_was_written_is_read_and_nothing_is_where_nothing_was(tmp_path: Path) -> None:
    assert read(tmp_path / "a.json") is None
    write_state(tmp_path / "a.json", VALUE)
    assert read(tmp_path / "a.json") == VALUE
    (tmp_path / "old.json").write_text(json.dumps(VALUE))
    assert read(tmp_path / "old.json") == VALUE


def told_or_had(path: Path) -> DamagedStateError | dict[str, object] | None:
    try:
        return read(path)
    except DamagedStateError as error:
        return error


@given(st.data())
def test_a_file_with_any_byte_changed_or_cut_is_told_or_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("state") / "a.json"
    write_state(path, VALUE)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    path.write_bytes(raw)
    found = told_or_had(path)
    if isinstance(found, DamagedStateError):
        assert (found.exit_code, found.where, found.hint) == (3, str(path), "move it away")
    else:
        # a digest whose name is turned leaves an older version's file, which has the turned name in it
        assert {key: value for key, value in (found or {}).items() if key in VALUE} == VALUE


@pytest.mark.parametrize("raw", [b"", b"\0" * 4096, b"[1]", b"7", b"null", b"{" * 100_000, b"\xff\xfe", b'{"sha256": 3}'])
def test_a_strange_file_is_told_in_one_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(DamagedStateError, match="the file is damaged"):
        read(tmp_path / "a.json")


def test_a_folder_in_a_file_s_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(StorageError) as caught:
        read(tmp_path / "a.json")
    assert (caught.value.where, bool(caught.value.hint)) == (str(tmp_path / "a.json"), True)


# --- which checkpoints were seen --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> CheckpointSequence:
    trainer = WeightsTrainer(FilesystemStore(tmp_path_factory.mktemp("store"), "trainer"), tmp_path_factory.mktemp("cache"))
    for number in range(3):
        trainer.publish(number)
    return trainer.view()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> CheckpointSequence:
    """Another history under the same numbers."""
    trainer = WeightsTrainer(FilesystemStore(tmp_path_factory.mktemp("store"), "trainer"), tmp_path_factory.mktemp("cache"))
    for number in range(3):
        trainer.publish(number, weights(number + 50))
    return trainer.view()


def shorter(view: CheckpointSequence) -> CheckpointSequence:
    return CheckpointSequence(tuple[StoredManifest, ...](view.stored[:1]))


STRANGE = [b"", b"{", b'{"seen": {"0": "ab"}}', b"[]", b'{"a": "b"}', b'{"0": "zz"}', b"PAR1", b"folder"]


@pytest.mark.parametrize("raw", STRANGE)
def test_a_damaged_memory_is_restored_from_its_earlier_generation_and_voids_nothing(
    tmp_path: Path, view: CheckpointSequence, other: CheckpointSequence, raw: bytes
) -> None:
    path = tmp_path / "seen.json"
    SeenCheckpoints(path).check(view)
    path.unlink()
    if raw == b"folder":
        path.mkdir()
        (path / "x").write_bytes(b"x")
    else:
        path.write_bytes(raw)
    with events() as names:
        SeenCheckpoints(path).check(view)
    assert names == ["seen_damaged", "seen_restored"]
    with pytest.raises(RollbackError):
        SeenCheckpoints(path).check(shorter(view))
    with pytest.raises(EquivocationError):
        SeenCheckpoints(path).check(other)


def test_a_memory_of_one_generation_has_two_again_once_it_is_looked_at(tmp_path: Path, view: CheckpointSequence) -> None:
    """As a process leaves it that is killed between the two, with nothing new in the store since."""
    path = tmp_path / "seen.json"
    SeenCheckpoints(path).check(view)
    whole = path.read_bytes()
    path.unlink()
    SeenCheckpoints(path).check(view)
    assert path.read_bytes() == whole


def test_a_turned_digit_is_no_accusation_of_the_trainer(tmp_path: Path, view: CheckpointSequence) -> None:
    path = tmp_path / "seen.json"
    SeenCheckpoints(path).check(view)
    digest = view.stored[0].manifest.digest.hex()
    turned = ("0" if digest[0] != "0" else "1") + digest[1:]
    for file in tmp_path.glob("seen*.json"):  # both generations
        file.write_text(file.read_text().replace(digest, turned))
    with events() as names:
        SeenCheckpoints(path).check(view)
    assert names == ["seen_damaged", "seen_damaged"]
    with pytest.raises(RollbackError):  # and what is seen now is remembered
        SeenCheckpoints(path).check(shorter(view))


def test_an_older_copy_that_is_brought_back_only_loosens(tmp_path: Path, view: CheckpointSequence) -> None:
    path = tmp_path / "seen.json"
    SeenCheckpoints(path).check(shorter(view))
    older = path.read_bytes()
    SeenCheckpoints(path).check(view)
    path.write_bytes(older)
    SeenCheckpoints(path).check(view)
    with pytest.raises(RollbackError):
        SeenCheckpoints(path).check(shorter(view))


def test_what_an_earlier_version_wrote_is_understood(tmp_path: Path, view: CheckpointSequence) -> None:
    path = tmp_path / "seen.json"
    path.write_text(json.dumps({str(s.manifest.sequence): s.manifest.digest.hex() for s in view.stored}))
    with pytest.raises(RollbackError):
        SeenCheckpoints(path).check(shorter(view))


def test_two_processes_add_to_one_memory(tmp_path: Path, view: CheckpointSequence) -> None:
    path = tmp_path / "seen.json"
    one, two = SeenCheckpoints(path), SeenCheckpoints(path)
    one.check(shorter(view))
    two.check(view)
    one.check(CheckpointSequence(view.stored[:2] + view.stored[2:]))
    with pytest.raises(RollbackError):
        SeenCheckpoints(path).check(shorter(view))


def test_a_memory_that_cannot_be_written_holds_for_as_long_as_the_process_lives(
    tmp_path: Path, view: CheckpointSequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    memory = SeenCheckpoints(tmp_path / "seen.json")
    with monkeypatch.context() as patched, events() as names:
        patched.setattr(os, "fsync", refused)
        memory.check(view)
    assert names == ["seen_unwritable"]
    with pytest.raises(RollbackError):
        memory.check(shorter(view))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError):
        SeenCheckpoints(tmp_path / "seen.json").check(view)
