"""What a role must not lose, apart from what it can fetch again, and held by one process at a time.

    GRAIL_STATE_DIR/{network}-{network id}/
        seen.json                     which checkpoints of this network were seen on this machine
        {hotkey}/lock                 held by the process that runs this hotkey
        {hotkey}/validator/           the ledger
        {hotkey}/trainer/             journal, masters and moments
        {hotkey}/uploads              objects on their way into the own bucket

Everything under GRAIL_CACHE_DIR may be deleted at any time; this may not.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from grail_core.disk import storage_errors, sync_folder, write_all
from grail_core.errors import GrailError
from grail_core.keys import ss58
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Digest, Hotkey
from grail_core.telemetry import get_logger

log = get_logger(__name__)

MAX_HOLDER_BYTES = 4096


class AlreadyRunningError(GrailError):
    """Another process of this hotkey holds its state on this machine."""

    exit_code = 18


def network_state(state_dir: Path, params: NetworkParameters, network_id: Digest) -> Path:
    """The folder of a network's state, whatever the hotkey. A network made anew has another id, and so another folder."""
    return state_dir / f"{params.name}-{network_id.hex()[:16]}"


@dataclass(frozen=True)
class StateFolder:
    """The state of one hotkey in one network on this machine."""

    network: Path
    hotkey: Hotkey

    @property
    def root(self) -> Path:
        return self.network / ss58(self.hotkey)

    @property
    def seen(self) -> Path:
        return self.network / "seen.json"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def ledger(self) -> Path:
        return self.root / "validator" / "ledger.sqlite"

    @property
    def trainer(self) -> Path:
        return self.root / "trainer"

    @property
    def announcement(self) -> Path:
        """What a trainer's next checkpoint announces."""
        return self.trainer / "upgrade.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """For as long as the block lasts, nobody else runs this hotkey on this machine: no other process, nor this one again.

        The lock is the kernel's and ends with the process, however it ends; processes that it forks do not inherit it.

        Raises:
            AlreadyRunningError: another process holds it; says which.
            StorageError: the folder cannot be made or written.
        """
        with only_process(
            self.root / "lock",
            f"hotkey {ss58(self.hotkey)} runs on this machine already",
            hint="stop that process, or use another hotkey; with another GRAIL_STATE_DIR two of one write over each other",
        ):
            yield


@contextmanager
def only_process(path: Path, what: str, *, hint: str) -> Iterator[None]:
    """For as long as the block lasts, nobody else gets past this line with this file: no other process, nor this one again.

    What is held is the folder that the file lies in, since a file in it can be removed by somebody who thinks it stale; the
    file says who holds it.

    Raises:
        AlreadyRunningError: somebody holds it: `what`, and who.
        StorageError: the folder cannot be made, locked or written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = _open_unforked(path.parent)
    try:
        with storage_errors(path):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _write_in_place(path, _who_we_are())
            except BlockingIOError as error:
                raise AlreadyRunningError(f"{what}: {_holder(path)}", where=str(path), hint=hint) from error
        yield
    finally:
        _close_unforked(folder)


_UNFORKED: set[int] = set()
"""Descriptors that a child of this process closes first of all: a lock belongs to all who have its descriptor."""


def _close_in_child() -> None:
    for descriptor in _UNFORKED:
        with suppress(OSError):
            os.close(descriptor)
    _UNFORKED.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _open_unforked(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _UNFORKED.add(descriptor)
    return descriptor


def _close_unforked(descriptor: int) -> None:
    if descriptor in _UNFORKED:  # not in a child, where it was closed and may be another file's number by now
        _UNFORKED.discard(descriptor)
        os.close(descriptor)


def _write_in_place(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def adopt_folder(former: Path, folder: Path, *, last: str) -> bool:
    """Bring a folder of files from where an earlier version kept it. Returns whether there was something to bring.

    Files are copied and flushed, `last` (the one that makes the others count) at the end, and the old one then gets another
    name; so a process killed anywhere begins again or finds it done. Nothing happens where the new folder has that file.
    """
    if (folder / last).exists() or not (former / last).is_file():
        return False
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(former.iterdir()):
            if path.is_file() and path.name != last:
                _copy(path, folder / path.name)
        _copy(former / last, folder / last)
        os.replace(former / last, former / f"{last}.moved")
    log.event("state_moved", former=str(former), folder=str(folder))
    return True


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(source, temporary)
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, target)
    sync_folder(target.parent)


def _who_we_are() -> bytes:
    command = Path(sys.argv[0]).name or "python"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"pid": os.getpid(), "command": command[:200], "since": since}).encode()


def _holder(path: Path) -> str:
    """What the holder wrote of itself, for a message; it may be in the middle of writing."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_HOLDER_BYTES))
        return f"process {int(value['pid'])}, {value['command']}, since {value['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
