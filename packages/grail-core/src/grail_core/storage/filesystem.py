"""Buckets as folders of one machine, with the guarantees that the protocol takes from S3.

An object is one regular file. A put writes a temporary file, flushes it and gives it its name in one step: a hard link where
the object must not exist yet (of two racers one wins), a rename otherwise. The store time is the file's modification time, set
from the store's clock, which on a network of one machine is the chain's. A bucket may belong to somebody hostile: every path is
opened part by part without following symbolic links, only regular files are read, and a listing ends.

The ETag is a digest of what the file system says of the file (inode, size, times of modification and change), so that nobody
pays for the size of what somebody else put there: hashing a sparse file of 4 GiB takes 20 seconds. The kernel moves the time of
change with every write and nobody can set it back; a file whose time of change is the clock's present tick is looked at once
more after it. What an ETag does not see are bytes changed in memory that another process shares with the file: whoever
relies on content compares its digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from grail_core.clock import wall_clock_ms
from grail_core.disk import storage_error, storage_errors, write_all
from grail_core.errors import ConfigurationError, StorageError
from grail_core.storage.base import (
    MAX_LISTED_KEYS,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
)
from grail_core.storage.object_keys import check_prefix, is_key, split_key

TimeSource = Callable[[], int]
"""Unix milliseconds."""

_TEMPORARY = "~tmp"  # "~" is in no key, so nobody can address what is inside
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3's rule for bucket names
_CHUNK = 1 << 20
_TICK_NS = 20_000_000  # longer than any kernel's clock tick, by which files' times of change move
_LOOKS = 50
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a FIFO must not hold the reader
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # ELOOP: a symbolic link is no object


class FilesystemStore:
    """One bucket, the folder `root/bucket`.

    Args:
        clock: the store's time; the wall clock unless given.
        read_only: refuse every write; the folder need not exist.
    """

    def __init__(
        self, root: str | os.PathLike[str], bucket: str, *, read_only: bool = False, clock: TimeSource | None = None
    ) -> None:
        self._folder = Path(root) / check_bucket_name(bucket)
        self._read_only = read_only
        self._clock = clock or wall_clock_ms
        if not read_only:
            with storage_errors(self._folder):
                (self._folder / _TEMPORARY).mkdir(parents=True, exist_ok=True)
                self._remove_leftovers()

    @classmethod
    def reading(cls, folder: str | os.PathLike[str]) -> FilesystemStore:
        """A folder that is laid out like a bucket, whatever it is called, to read from."""
        store = cls(folder, "any-name", read_only=True)
        store._folder = Path(folder)
        return store

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write the whole object durably.

        Raises:
            PreconditionFailedError: `if_absent`, and the object exists.
            DiskFullError, StorageError: nothing was changed.
        """
        *folders, name = split_key(key)
        where = self._where(key)
        self._require_writable(where)
        with storage_errors(where), self._open_folder(folders, create=True) as folder, self._open_folder([_TEMPORARY]) as spare:
            temporary = f"{os.getpid()}-{secrets.token_hex(8)}"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=spare)
            try:
                try:
                    write_all(descriptor, data)
                    stored_at = self._store_time(folder, name)
                    os.utime(descriptor, ns=(stored_at * 1_000_000, stored_at * 1_000_000))
                    os.fsync(descriptor)
                    if if_absent:
                        try:
                            os.link(temporary, name, src_dir_fd=spare, dst_dir_fd=folder, follow_symlinks=False)
                        except FileExistsError as error:
                            raise PreconditionFailedError("the object exists already", where=where) from error
                    else:
                        os.replace(temporary, name, src_dir_fd=spare, dst_dir_fd=folder)
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(temporary, dir_fd=spare)
                os.fsync(folder)
                # Of our own descriptor, not of the name: somebody else may have replaced the object already.
                return _info(key, _settled(descriptor, where))
            finally:
                os.close(descriptor)

    def head(self, key: str) -> ObjectInfo | None:
        """Size, ETag and store time, or None. Reads no content."""
        where = self._where(key)
        with self._open_object(key) as descriptor:
            return None if descriptor is None else _info(key, _settled(descriptor, where))

    def get(
        self, key: str, *, max_bytes: int, if_match: str | None = None, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read the object or a range of it; with `if_match`, only of the file that has this ETag before and after.

        Raises:
            ObjectNotFoundError, PreconditionFailedError, ObjectTooLargeError
            StorageError: it was changed while it was read, or the range begins after its end.
        """
        if offset < 0 or max_bytes < 0 or (length is not None and length < 0):
            raise ValueError("offset, length and max_bytes are not negative")
        where = self._where(key)
        with self._open_object(key) as descriptor:
            if descriptor is None:
                raise ObjectNotFoundError("there is no such object", where=where)
            status = _settled(descriptor, where) if if_match is not None else os.fstat(descriptor)
            if if_match is not None and _etag(status) != if_match:
                raise PreconditionFailedError("the object is no longer the one asked for", where=where)
            end = status.st_size if length is None else min(status.st_size, offset + length)
            if offset > status.st_size:
                raise StorageError(f"the object has {status.st_size} bytes; the range begins at {offset}", where=where)
            if end - offset > max_bytes:
                raise ObjectTooLargeError(f"{end - offset} bytes; at most {max_bytes} are read", where=where)
            with storage_errors(where):
                data = _read(descriptor, offset, end - offset)
            if if_match is not None and _etag(os.fstat(descriptor)) != if_match:
                raise PreconditionFailedError("the object was written or replaced while it was read", where=where)
        if len(data) != end - offset:
            raise StorageError("the object changed while it was read", where=where, hint="read it again")
        return data

    def read(self, key: str, *, max_bytes: int) -> tuple[ObjectInfo, bytes]:
        """The whole object with its info, from one open file.

        Raises:
            ObjectNotFoundError, ObjectTooLargeError
            StorageError: it was changed while it was read.
        """
        where = self._where(key)
        with self._open_object(key) as descriptor:
            if descriptor is None:
                raise ObjectNotFoundError("there is no such object", where=where)
            status = _settled(descriptor, where)
            if status.st_size > max_bytes:
                raise ObjectTooLargeError(f"{status.st_size} bytes; at most {max_bytes} are read", where=where)
            info = _info(key, status)
            with storage_errors(where):
                data = _read(descriptor, 0, status.st_size)
            if _etag(os.fstat(descriptor)) != info.etag or len(data) != info.size:
                raise StorageError("the object changed while it was read", where=where, hint="read it again")
        return info, data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key begins with `prefix`, in order of their keys."""
        check_prefix(prefix)
        top = prefix.rpartition("/")[0]
        for key in sorted(key for key in self._keys(top.split("/") if top else []) if key.startswith(prefix)):
            info = self.head(key)
            if info is not None:
                yield info

    def delete(self, key: str) -> None:
        *folders, name = split_key(key)
        where = self._where(key)
        self._require_writable(where)
        try:
            with self._open_folder(folders) as folder:
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
        except OSError as error:
            if error.errno not in _MISSING:
                raise storage_error(error, where) from error

    def _where(self, key: str) -> str:
        return str(self._folder / key)

    def _require_writable(self, where: str) -> None:
        if self._read_only:
            raise StorageError("this bucket is somebody else's: it is read only", where=where)

    @contextlib.contextmanager
    def _open_folder(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """A descriptor of a folder inside the bucket, reached without following any symbolic link."""
        descriptor = os.open(self._folder, _FOLDER_FLAGS)
        try:
            for part in parts:
                try:
                    inner = os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)
                except FileNotFoundError:
                    if not create:
                        raise
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=descriptor)
                        os.fsync(descriptor)
                    inner = os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _open_object(self, key: str) -> Iterator[int | None]:
        """A descriptor of the object's file, or None if there is no such regular file."""
        *folders, name = split_key(key)
        try:
            with self._open_folder(folders) as folder:
                descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno not in (*_MISSING, errno.ENXIO):  # ENXIO: a socket or device
                raise storage_error(error, self._where(key)) from error
            yield None
            return
        try:
            yield descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        finally:
            os.close(descriptor)

    def _store_time(self, folder: int, name: str) -> int:
        """Now by the store's clock, never before the store time of the object that is replaced."""
        try:
            before = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns // 1_000_000
        except OSError:
            before = 0
        return max(self._clock(), before)

    def _keys(self, folders: Sequence[str]) -> Iterator[str]:
        """Keys of the files below a folder, as its entries come.

        Raises:
            StorageError: there are more than MAX_LISTED_KEYS entries, whatever they are.
        """
        waiting, seen = ["/".join(folders)], 0
        while waiting:
            top = waiting.pop()
            try:
                with self._open_folder(top.split("/") if top else []) as descriptor, os.scandir(descriptor) as entries:
                    for entry in entries:
                        seen += 1
                        if seen > MAX_LISTED_KEYS:
                            raise StorageError(f"more than {MAX_LISTED_KEYS} files and folders", where=str(self._folder))
                        path = f"{top}/{entry.name}" if top else entry.name
                        if not is_key(path):
                            continue  # the temporary folder, or a file that no put made
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(path)
                        elif entry.is_file(follow_symlinks=False):
                            yield path
            except OSError as error:
                if error.errno not in _MISSING:
                    raise storage_error(error, self._folder) from error

    def _remove_leftovers(self) -> None:
        """Remove temporary files whose process died; those of a live process are its own business."""
        for path in (self._folder / _TEMPORARY).iterdir():
            process = path.name.partition("-")[0]
            if not (process.isdigit() and _is_alive(int(process))):
                with contextlib.suppress(OSError):
                    path.unlink()


class FilesystemDirectory:
    """Buckets side by side under one root; what is committed on chain is `fs:` and the bucket's name."""

    def __init__(self, root: str | os.PathLike[str], own_bucket: str, *, clock: TimeSource | None = None) -> None:
        self._root = Path(root)
        self._own_bucket = check_bucket_name(own_bucket)
        self._clock = clock
        self._opened: dict[str, FilesystemStore] = {}

    def own(self) -> ObjectStore:
        return FilesystemStore(self._root, self._own_bucket, clock=self._clock)

    def commitment(self) -> str:
        return f"fs:{self._own_bucket}"

    def open(self, commitment: str) -> ObjectStore:
        """Read-only view of the bucket a commitment names; the same text gives the same store.

        Raises:
            StorageError: the text is not `fs:` and a bucket name.
        """
        scheme, _, bucket = commitment.partition(":")
        if scheme != "fs" or not _BUCKET.fullmatch(bucket):
            raise StorageError("not a commitment of this network: expected fs:BUCKET", where=repr(commitment[:160]))
        return self._opened.setdefault(bucket, FilesystemStore(self._root, bucket, read_only=True))


def check_bucket_name(bucket: str) -> str:
    """The name itself; `ConfigurationError` if it is not 3 to 63 lower-case letters, digits, '.' and '-'."""
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(
            "a bucket name has 3 to 63 lower-case letters, digits, '.' and '-'",
            where=repr(bucket[:80]),
            hint="set GRAIL_STORAGE_BUCKET",
        )
    return bucket


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, _etag(status), max(0, status.st_mtime_ns // 1_000_000))


def _etag(status: os.stat_result) -> str:
    told = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return hashlib.sha256(told.encode()).hexdigest()


def _settled(descriptor: int, where: str) -> os.stat_result:
    """What the file system says of a file, such that a later write gives another time of change.

    Raises:
        StorageError: the file is written all the time.
    """
    status = os.fstat(descriptor)
    for _ in range(_LOOKS):
        while 0 <= status.st_ctime_ns - _stamping_clock_ns() < _TICK_NS:  # further ahead: the clock was set back since
            time.sleep(0.0005)
        before, status = status, os.fstat(descriptor)
        if _etag(before) == _etag(status):
            return status
    raise StorageError("the object is being written all the time", where=where, hint="read it again later")


def _stamping_clock_ns() -> int:
    """The clock that the kernel stamps files by: it stands still within a tick."""
    coarse = getattr(time, "CLOCK_REALTIME_COARSE", None)
    return time.time_ns() if coarse is None else time.clock_gettime_ns(coarse)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes from `offset`; fewer only where the file ends."""
    parts: list[bytes] = []
    while length > 0 and (part := os.pread(descriptor, min(length, 64 * _CHUNK), offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
