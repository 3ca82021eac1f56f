"""The disk cache: checkpoints as ordinary Transformers folders, whole or absent.

A folder is built under a temporary name and takes its own, the manifest's digest, in one rename; what a dead process left
behind is swept away by the next one. Entries are evicted least recently used first when the cache outgrows its limit, except
those the caller names. Deleting the whole cache loses nothing but time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from grail_core.disk import remove_any, storage_errors, sync_folder
from grail_core.errors import StorageError
from grail_core.protocol.types import Digest
from grail_core.telemetry import get_logger

log = get_logger(__name__)

MANIFEST_FILE = "grail-manifest.json"
DEFAULT_LIMIT_BYTES = 200 << 30
_NAME = re.compile("[0-9a-f]{64}")


class CheckpointCache:
    """A folder shared by the processes of one machine."""

    def __init__(self, root: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.root = root
        self.limit_bytes = limit_bytes

    @property
    def objects(self) -> Path:
        """Downloaded objects, complete and in progress."""
        return self.root / "objects"

    def folder(self, digest: Digest) -> Path:
        return self.root / "checkpoints" / digest.hex()

    def entry(self, digest: Digest) -> Path | None:
        """The checkpoint's folder if it is here; using it makes it young."""
        folder = self.folder(digest)
        if not (folder / MANIFEST_FILE).is_file():
            return None
        with contextlib.suppress(OSError):
            os.utime(folder, ns=(self._next_age(),) * 2)
        return folder

    def entries(self) -> list[Digest]:
        names = sorted(path.parent.name for path in (self.root / "checkpoints").glob(f"*/{MANIFEST_FILE}"))
        return [Digest(bytes.fromhex(name)) for name in names if _NAME.fullmatch(name)]

    def _next_age(self) -> int:
        """Later than every entry's, whatever this machine's clock was set to since: it must not make the newest the oldest."""
        ages = [path.lstat().st_mtime_ns for path in (self.root / "checkpoints").iterdir()]
        return max([time.time_ns(), *(age + 1 for age in ages)])

    def discard(self, digest: Digest) -> None:
        """Remove an entry. The manifest goes first, so that a half-removed folder is no entry."""
        folder = self.folder(digest)
        remove_any(folder / MANIFEST_FILE)
        remove_any(folder)

    @contextlib.contextmanager
    def building(self, digest: Digest, manifest: bytes) -> Iterator[Path]:
        """A temporary folder to fill; it becomes the entry if the block ends without an error, and vanishes otherwise."""
        parent = self.root / "checkpoints"
        with storage_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{digest.hex()[:16]}.", suffix=f".{os.getpid()}", dir=parent))
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
            with storage_errors(folder):
                for path in folder.iterdir():
                    _sync_file(path)
                os.utime(folder, ns=(self._next_age(),) * 2)
                (folder / MANIFEST_FILE).write_bytes(manifest)
                _sync_file(folder / MANIFEST_FILE)
                sync_folder(folder)
                try:
                    os.rename(folder, self.folder(digest))
                except OSError:
                    if self.entry(digest) is None:  # what stands there is half of an evicted entry, not another's whole one
                        remove_any(self.folder(digest))
                        os.rename(folder, self.folder(digest))
                sync_folder(parent)
            if self.entry(digest) is None:
                raise StorageError("the checkpoint could not be put into the cache", where=str(self.folder(digest)))
        finally:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """While this is held, by however many processes, none removes downloaded objects or evicts entries."""
        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """True if nobody else uses the cache; then nobody begins to while this is held. Never waits."""
        descriptor = self._open_lock()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        try:
            yield free
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            if (self.root / "lock").is_dir():
                remove_any(self.root / "lock")
            return os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o644)

    def sweep(self) -> None:
        """Remove what dead processes left: temporary folders nobody holds, and folders without a manifest."""
        parent = self.root / "checkpoints"
        for folder in parent.iterdir() if parent.is_dir() else ():
            unfinished = folder.name.startswith(".") or not (folder / MANIFEST_FILE).is_file()
            if folder.is_dir() and unfinished and not _in_use(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def make_room(self, needed: int, keep: Collection[Digest] = ()) -> None:
        """Before so many bytes are written: evict until they fit the limit, what is in use excepted."""
        with self.alone() as alone:
            if alone:
                self.trim(keep, needed)

    def evict_oldest(self, keep: Collection[Digest] = ()) -> bool:
        """The device is full before the limit is reached: remove one old entry. False: there is none that nobody uses."""
        with self.alone() as alone:
            ages = {digest: self.folder(digest).stat().st_mtime_ns for digest in self.entries() if digest not in keep}
            if not alone or not ages:
                return False
            oldest = min(ages, key=ages.__getitem__)
            log.event("cached_checkpoint_evicted", path=str(self.folder(oldest)), reason="the device is full")
            self.discard(oldest)
            return True

    def trim(self, keep: Collection[Digest] = (), needed: int = 0) -> None:
        """Evict until the cache and `needed` bytes more fit its limit: downloaded objects first (they are in the folders), then
        old entries."""
        self.sweep()
        sizes = {digest: _size(self.folder(digest)) for digest in self.entries()}
        loose = [path for path in self.objects.glob("*") if path.is_file()] if self.objects.is_dir() else []
        total = needed + sum(sizes.values()) + sum(path.stat().st_size for path in loose)
        for path in sorted(loose, key=lambda item: item.stat().st_mtime):
            if total <= self.limit_bytes:
                return
            if path.suffix != ".lock":
                total -= path.stat().st_size
                path.unlink(missing_ok=True)
        for digest in sorted(sizes, key=lambda item: self.folder(item).stat().st_mtime):
            if total <= self.limit_bytes:
                return
            if digest not in keep:
                total -= sizes[digest]
                self.discard(digest)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_use(folder: Path) -> bool:
    """Does a living process build in this folder? It holds a lock; its id, in the name, covers the moment before it has it."""
    with contextlib.suppress(ValueError, ProcessLookupError, PermissionError):
        pid = int(folder.name.rpartition(".")[2])
        if pid != os.getpid():
            os.kill(pid, 0)
            return True
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
