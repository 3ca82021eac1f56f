"""Files that can be fetched again, kept on this disk within a budget, each checked against its digest whenever it is read.

A damaged, half-written or strange file is no entry: it is removed, and whoever asked fetches again. The oldest entries go
first, before a write that would exceed the budget, and also where the device is full before the budget is. Processes may share
a folder, be killed in it, and find it removed under them: what is lost is lost time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grail_core.disk import is_full, remove_any, storage_errors, write_all
from grail_core.protocol.types import Digest
from grail_core.telemetry import get_logger

log = get_logger(__name__)

DEFAULT_BUDGET_BYTES = 16 << 30
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}){0,7}")
_TRIES = 3  # of a write under which the folder vanishes


class FileCache:
    """Entries by key: parts of letters, digits, `.`, `_` and `-`, joined by `/`. What `get` has given is the caller's own."""

    def __init__(self, root: Path, *, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        if budget_bytes < 0:
            raise ValueError("a budget is not negative")
        self.root = root
        self.budget_bytes = budget_bytes

    def get(self, key: str, digest: Digest) -> bytes | None:
        """The bytes of this SHA-256, or None: not here, or not whole, and then removed. Using an entry makes it young."""
        path = self._path(key)
        try:
            data = self._read(path)
            reason = None if hashlib.sha256(data).digest() == digest else "its content is not what was put here"
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = error.strerror or str(error)
        if reason is not None:
            log.event("cached_file_dropped", path=str(path), reason=reason)
            remove_any(path)
            return None
        with suppress(OSError):
            os.utime(path, ns=(self._next_age(),) * 2)
        return data

    def put(self, key: str, data: bytes, digest: Digest) -> None:
        """Keep these bytes; other entries may go for it. More than the whole budget is not kept.

        Raises:
            ValueError: the bytes do not have this SHA-256.
            DiskFullError: no space is left, with nothing of ours left to remove.
            StorageError: the folder cannot be written.
        """
        path = self._path(key)
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("these bytes have another digest")
        if len(data) > self.budget_bytes:
            log.event("cached_file_not_kept", path=str(path), reason=f"{len(data)} bytes; the budget is {self.budget_bytes}")
            return
        with storage_errors(path):
            for attempt in range(_TRIES):
                try:
                    with self._alone():
                        remove_any(path)
                        self._make_room(len(data))
                        self._write(path, data)
                    return
                except FileNotFoundError:  # somebody emptied the cache meanwhile
                    if attempt == _TRIES - 1:
                        raise

    def adopt(self, key: str, path: Path) -> None:
        """Take over a file of our own whose bytes the caller has hashed, without a copy; other entries may go for it.

        Raises:
            StorageError: the folder cannot be written, or the file is on another device.
        """
        target = self._path(key)
        with storage_errors(target), self._alone():
            remove_any(target)
            self._make_room(path.stat().st_size)
            _make_parents(target, self.root)
            os.utime(path, ns=(self._next_age(),) * 2)
            os.replace(path, target)

    def make_room(self, needed: int) -> None:
        """Remove the oldest entries until so many bytes more are within the budget: of files that lie beside the cache until
        they are adopted.

        Raises:
            StorageError: the folder cannot be written.
        """
        with storage_errors(self.root), self._alone():
            self._make_room(needed)

    def has(self, key: str) -> bool:
        """Whether something lies under a key; whether it is whole is found out by `get`."""
        return self._path(key).is_file()

    def forget(self, prefix: str) -> None:
        """Remove the entry of this key, or all below it."""
        remove_any(self._path(prefix))

    def bytes_used(self) -> int:
        return sum(size for _, size, _ in self._entries())

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"no key of a cache: {key[:100]!r}")
        return self.root / "files" / key

    def _read(self, path: Path) -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            there = os.fstat(descriptor)
            if not stat.S_ISREG(there.st_mode):
                raise OSError("it is no file")
            if there.st_size > self.budget_bytes:
                raise OSError("it is larger than all that is kept here")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(there.st_size)
        finally:
            os.close(descriptor)

    def _write(self, path: Path, data: bytes) -> None:
        """The caller is alone. Not flushed: a file that a power cut halves is found out by its digest."""
        temporary = self.root / "writing"
        while True:
            try:
                _make_parents(path, self.root)
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                try:
                    write_all(descriptor, data)
                finally:
                    os.close(descriptor)
                os.utime(temporary, ns=(self._next_age(),) * 2)
                os.replace(temporary, path)
                return
            except OSError as error:
                remove_any(temporary)
                if not is_full(error) or not self._evict_oldest():
                    raise

    def _make_room(self, needed: int) -> None:
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        used = sum(size for _, size, _ in entries)
        for path, size, _ in entries:
            if used + needed <= self.budget_bytes:
                return
            remove_any(path)
            used -= size

    def _evict_oldest(self) -> bool:
        oldest = min(self._entries(), key=lambda entry: entry[2], default=None)
        if oldest is not None:
            log.event("cached_file_evicted", path=str(oldest[0]), reason="the device is full")
            remove_any(oldest[0])
        return oldest is not None

    def _entries(self) -> list[tuple[Path, int, int]]:
        """Path, bytes and age of every file."""
        found = []
        for folder, _, names in os.walk(self.root / "files"):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):
                    there = path.lstat()
                    found.append((path, there.st_size, there.st_mtime_ns))
        return found

    def _next_age(self) -> int:
        """Later than every entry's, whatever this machine's clock was set to since."""
        return max((age for _, _, age in self._entries()), default=0) + 1

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process writes or evicts meanwhile; the kernel ends it with the process."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _make_parents(path: Path, root: Path) -> None:
    """Folders up to a file's; what stands in their way is no entry that anybody can ask for."""
    for folder in reversed(path.parents):
        if root in folder.parents and (folder.is_symlink() or (folder.exists() and not folder.is_dir())):
            remove_any(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
