"""Getting content-addressed objects onto the disk: ranged, parallel, resumable, and never wrong.

An object is downloaded into a preallocated file; a range counts as done once its bytes are on the device and its line is in
the journal beside it, so that a killed download goes on where it was. Ranges of one download are of one ETag: what is replaced
meanwhile ends it, and not when all has come. The file takes its final name only when its SHA-256 is the one that names it; if
it is not, everything is thrown away and fetched once more before giving up.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from pathlib import Path
from typing import Protocol

from grail_core.disk import remove_any, storage_errors, sync_folder
from grail_core.errors import CheckpointError, MissingObjectError, StorageError
from grail_core.protocol.manifest import ObjectRef
from grail_core.storage.base import (
    NoAnswerError,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
)
from grail_core.storage.time_limits import seconds_left
from grail_core.telemetry import get_logger

log = get_logger(__name__)

RANGE_BYTES = 8 << 20
PARALLEL_RANGES = 4
RANGE_TRIES = 3


class Ranges(Protocol):
    """The part of a store that objects are fetched from; also what puts one together from elsewhere."""

    def head(self, key: str) -> ObjectInfo | None: ...

    def get(
        self, key: str, *, max_bytes: int, if_match: str | None = None, offset: int = 0, length: int | None = None
    ) -> bytes: ...


Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done and bytes in all; from any thread."""


def no_progress(what: str, done: int, total: int) -> None:
    """Says nothing."""


def fetch_object(store: Ranges, ref: ObjectRef, folder: Path, *, progress: Progress = no_progress) -> Path:
    """The verified object as a file `folder/<sha256>`; at once if it is there already.

    Raises:
        CheckpointError: the object is missing, of another size, or its bytes are not those that the manifest names.
        StorageError: the store or the disk fails; what was downloaded is kept for the next try.
    """
    target = folder / ref.sha256.hex()
    lock = folder / f"{target.name}.lock"
    with storage_errors(folder):
        if _is_there(target, ref):
            for left in (_journal(folder, ref), lock):  # of a download that was killed at its very end
                remove_any(left)
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(lock):
            if _is_there(target, ref):
                return target
            for _attempt in range(2):
                part = _download(store, ref, folder, progress)
                if _sha256(part) == ref.sha256:
                    os.replace(part, target)
                    sync_folder(folder)
                    _journal(folder, ref).unlink(missing_ok=True)
                    return target
                part.unlink()
                _journal(folder, ref).unlink(missing_ok=True)
    raise _other_bytes(ref)


def _is_there(path: Path, ref: ObjectRef) -> bool:
    """Is it here, and whole? What is here and is not goes. Hashing costs a read of what is about to be read anyway; without it
    one turned bit would keep a checkpoint from being built for as long as the file lies here."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):
        if stat.S_ISREG(there.st_mode) and there.st_size == ref.size and _sha256(path) == ref.sha256:
            return True
    log.event("cached_object_dropped", path=str(path), reason="its bytes are not those that its name says")
    remove_any(path)
    return False


def fetch_bytes(store: ObjectStore, ref: ObjectRef, folder: Path) -> bytes:
    """A small object's verified bytes, kept in `folder` too."""
    path = fetch_object(store, ref, folder)
    with storage_errors(path):
        data = path.read_bytes()
    if ObjectRef.of(data) != ref:
        raise StorageError(
            "the disk does not keep what is written to it", where=str(path), hint="look at the system's log (dmesg)"
        )
    return data


def read_object(store: ObjectStore, ref: ObjectRef, folder: Path) -> bytes:
    """A small object's verified bytes: those in `folder`, where they are whole, else the store's. Nothing is written.

    Raises:
        CheckpointError: the object is missing, of another size, or its bytes are not those that the manifest names.
        StorageError: the store does not answer.
    """
    with contextlib.suppress(OSError):
        path = folder / ref.sha256.hex()
        if path.stat().st_size == ref.size and ObjectRef.of(data := path.read_bytes()) == ref:
            return data
    for _attempt in range(2):
        data = fetch_range(store, ref, 0, ref.size)
        if ObjectRef.of(data) == ref:
            return data
    raise _other_bytes(ref)


def pinned_etag(store: Ranges, ref: ObjectRef) -> str:
    """What several ranges of one object are pinned by.

    Raises:
        MissingObjectError: no such object, or of another size than the manifest says.
    """
    info = store.head(ref.key)
    if info is None:
        raise _not_there(ref)
    if info.size != ref.size:
        raise MissingObjectError(f"the object has {info.size} bytes, not the {ref.size} that the manifest names", where=ref.key)
    return info.etag


def fetch_range(store: Ranges, ref: ObjectRef, offset: int, length: int, *, etag: str | None = None) -> bytes:
    """Bytes offset … offset + length of an object; the caller verifies them.

    Args:
        etag: of all ranges that belong together (`pinned_etag`).

    Raises:
        MissingObjectError: no such object, it is shorter than the manifest says, or no longer the one of this ETag.
    """
    try:
        data = store.get(ref.key, max_bytes=length, if_match=etag, offset=offset, length=length) if length else b""
    except ObjectNotFoundError as error:
        raise _not_there(ref) from error
    except PreconditionFailedError as error:
        raise MissingObjectError("the object was replaced while it was read", where=ref.key, hint="read it again") from error
    except ObjectTooLargeError as error:
        raise MissingObjectError("the store returned more than was asked for", where=ref.key) from error
    if len(data) != length:
        raise MissingObjectError(f"the object is shorter than the {ref.size} bytes that the manifest names", where=ref.key)
    return data


def _other_bytes(ref: ObjectRef) -> CheckpointError:
    return CheckpointError(
        "the object's bytes are not those that the manifest names",
        where=ref.key,
        hint="the store returned other bytes twice; the trainer must publish again, or the store is not to be trusted",
    )


def _not_there(ref: ObjectRef) -> MissingObjectError:
    return MissingObjectError(
        "an object that the manifest names is not in the store",
        where=ref.key,
        hint="a checkpoint this old may have been retired: fetch a newer one",
    )


def _download(store: Ranges, ref: ObjectRef, folder: Path, progress: Progress) -> Path:
    part, journal = folder / f"{ref.sha256.hex()}.part", _journal(folder, ref)
    for path in (part, journal):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            remove_any(path)
    done = _read_journal(journal) if part.exists() and part.stat().st_size == ref.size else set()
    etag = pinned_etag(store, ref) if ref.size > RANGE_BYTES else None
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
    lines = os.open(journal, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if done else os.O_TRUNC), 0o644)
    try:
        os.ftruncate(descriptor, ref.size)
        starts = [start for start in range(0, ref.size, RANGE_BYTES) if start not in done]
        finished = ref.size - sum(min(RANGE_BYTES, ref.size - start) for start in starts)

        def get(start: int) -> int:
            length = min(RANGE_BYTES, ref.size - start)
            data = memoryview(_persistently(lambda: fetch_range(store, ref, start, length, etag=etag)))
            written = 0
            while written < length:
                written += os.pwrite(descriptor, data[written:], start + written)
            os.fsync(descriptor)
            os.write(lines, b"%d\n" % start)
            return length

        with ThreadPoolExecutor(PARALLEL_RANGES) as pool:
            try:
                # Each with its caller's limits of time (`time_limits`), which are of a thread's context.
                for got in as_completed([pool.submit(copy_context().run, get, start) for start in starts]):
                    finished += got.result()
                    progress(ref.key, finished, ref.size)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # what is under way ends and counts, the rest is for the next try
                raise
        os.fsync(descriptor)
    finally:
        os.close(lines)
        os.close(descriptor)
    return part


def _persistently(fetch: Callable[[], bytes]) -> bytes:
    """A range that broke off is asked for again, alone: the others need not be."""
    for _attempt in range(RANGE_TRIES - 1):
        try:
            return fetch()
        except NoAnswerError:
            raise  # it has had its tries
        except StorageError as error:
            if seconds_left() <= 0:
                raise
            log.debug("a range is read again: %s", error.what)
    return fetch()


def _journal(folder: Path, ref: ObjectRef) -> Path:
    return folder / f"{ref.sha256.hex()}.ranges"


def _read_journal(path: Path) -> set[int]:
    """Whole lines only: one cut short by a crash is not counted."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return set()
    return {int(line) for line in lines if line.isdigit() and len(line) < 20}


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time downloads an object; the lock goes with the process that held it."""
    if path.is_dir():
        remove_any(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)
