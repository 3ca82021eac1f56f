"""State apart from cache: one holder a hotkey, however the last one ended, and what an earlier version left is brought over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grail_core.errors import StorageError
from grail_core.keys import LocalSigner, ss58
from grail_core.participant.state import AlreadyRunningError, StateFolder, adopt_folder, network_state
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Digest

HOTKEY = LocalSigner.from_seed(b"s" * 32).hotkey
OTHER = LocalSigner.from_seed(b"o" * 32).hotkey

HOLD = """
import sys, time
from pathlib import Path
from grail_core.participant.state import StateFolder
with StateFolder(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])).held():
    print("held", flush=True)
    {work}
"""
WAIT = "sys.stdin.read()"
# The child says that it runs: what it does first of all, it has done by then.
FORK = "import os; os.fork() or (print(os.getpid(), flush=True), time.sleep(600)); sys.stdin.read()"


def holder(folder: Path, work: str = WAIT) -> subprocess.Popen[str]:
    """Another process that holds the folder by the time this returns."""
    command = [sys.executable, "-c", HOLD.format(work=work), str(folder), HOTKEY.hex()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_of_a_hotkey_ends_and_says_who_the_first_is(tmp_path: Path) -> None:
    first = holder(tmp_path)
    with pytest.raises(AlreadyRunningError) as caught, StateFolder(tmp_path, HOTKEY).held():
        pass
    assert caught.value.exit_code == 18
    assert f"process {first.pid}" in caught.value.what
    assert ss58(HOTKEY) in caught.value.what
    assert "or GRAIL_STATE_DIR" not in caught.value.hint  # which would only hide it
    assert "with another GRAIL_STATE_DIR two of one write over each other" in caught.value.hint
    with StateFolder(tmp_path, OTHER).held():
        pass  # another hotkey is nobody's concern
    first.communicate("")
    with StateFolder(tmp_path, HOTKEY).held():
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_hold_ends_with_the_process_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    first = holder(tmp_path)
    first.send_signal(number)
    first.communicate()
    with StateFolder(tmp_path, HOTKEY).held():
        pass


def test_a_child_that_outlives_a_killed_process_does_not_hold_in_its_place(tmp_path: Path) -> None:
    first = holder(tmp_path, FORK)
    assert first.stdout is not None
    child = int(first.stdout.readline())
    try:
        first.kill()
        first.wait()
        with StateFolder(tmp_path, HOTKEY).held():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_one_process_does_not_run_a_hotkey_twice(tmp_path: Path) -> None:
    with StateFolder(tmp_path, HOTKEY).held():
        with pytest.raises(AlreadyRunningError) as caught, StateFolder(tmp_path, HOTKEY).held():
            pass
        assert f"process {os.getpid()}" in caught.value.what
        with pytest.raises(AlreadyRunningError), StateFolder(tmp_path, HOTKEY).held():  # nor has the refused one let it go
            pass
    with StateFolder(tmp_path, HOTKEY).held():
        pass


@pytest.mark.parametrize("how", ["removed", "replaced", "emptied"])
def test_a_lock_file_that_somebody_thought_stale_does_not_let_a_second_process_in(tmp_path: Path, how: str) -> None:
    first = holder(tmp_path)
    lock = StateFolder(tmp_path, HOTKEY).root / "lock"
    if how != "emptied":
        lock.unlink()
    if how != "removed":
        lock.write_bytes(b"")
    with pytest.raises(AlreadyRunningError) as caught, StateFolder(tmp_path, HOTKEY).held():
        pass
    assert caught.value.exit_code == 18
    first.communicate("")
    with StateFolder(tmp_path, HOTKEY).held():
        assert str(os.getpid()) in lock.read_text()


def test_a_folder_or_a_link_in_the_lock_s_place_is_named(tmp_path: Path) -> None:
    lock = StateFolder(tmp_path, HOTKEY).root / "lock"
    lock.mkdir(parents=True)
    with pytest.raises(StorageError) as caught, StateFolder(tmp_path, HOTKEY).held():
        pass
    assert (caught.value.where, bool(caught.value.hint)) == (str(lock), True)
    lock.rmdir()
    (tmp_path / "precious").write_bytes(b"not a lock")
    lock.symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError), StateFolder(tmp_path, HOTKEY).held():
        pass
    assert (tmp_path / "precious").read_bytes() == b"not a lock"


def test_a_folder_that_cannot_be_made_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught, StateFolder(tmp_path / "file", HOTKEY).held():
        pass
    assert str(tmp_path / "file") in caught.value.where


def test_networks_and_hotkeys_have_folders_of_their_own(tmp_path: Path) -> None:
    one, two = (network_state(tmp_path, LOCALNET, Digest(byte * 32)) for byte in (b"a", b"b"))
    paths = [StateFolder(network, hotkey).ledger for network in (one, two) for hotkey in (HOTKEY, OTHER)]
    assert len(set(paths)) == 4
    assert StateFolder(one, HOTKEY).seen == StateFolder(one, OTHER).seen != StateFolder(two, HOTKEY).seen


def former(folder: Path) -> Path:
    folder.mkdir()
    (folder / "state-30.bin").write_bytes(b"state")
    (folder / "journal.json").write_bytes(b"names state-30.bin")
    return folder


def test_what_an_earlier_version_kept_elsewhere_is_brought_over_once(tmp_path: Path) -> None:
    old, new = former(tmp_path / "old"), tmp_path / "state" / "new"
    assert adopt_folder(old, new, last="journal.json")
    assert sorted(path.name for path in new.iterdir()) == ["journal.json", "state-30.bin"]
    (new / "journal.json").write_bytes(b"newer")
    assert not adopt_folder(old, new, last="journal.json")
    former(tmp_path / "older")
    assert not adopt_folder(tmp_path / "older", new, last="journal.json")
    assert (new / "journal.json").read_bytes() == b"newer"


class _KilledError(BaseException):
    pass


def test_killed_anywhere_bringing_it_over_begins_again_or_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, step = os.replace, 0
    while True:
        old, new = former(tmp_path / f"old-{step}"), tmp_path / f"new-{step}"
        left = step

        def dying(source: Path, target: Path) -> None:
            nonlocal left
            if left == 0:
                raise _KilledError
            left -= 1
            real(source, target)

        killed = _run_until_killed(monkeypatch, dying, lambda old=old, new=new: adopt_folder(old, new, last="journal.json"))  # type: ignore[misc]
        adopt_folder(old, new, last="journal.json")
        assert (new / "journal.json").read_bytes() == b"names state-30.bin"
        assert (new / "state-30.bin").read_bytes() == b"state"
        if not killed:
            break
        step += 1
    assert step == 3


def _run_until_killed(monkeypatch: pytest.MonkeyPatch, dying: Callable[[Path, Path], None], work: Callable[[], bool]) -> bool:
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying)
        try:
            work()
        except _KilledError:
            return True
    return False
