"""Files that are either the old ones or the new ones, whatever instruction a process dies at.

Data goes to a temporary file in the same file system, is flushed to the device, and takes its name in one step; the folder
is flushed too. A device that is full ends with `DiskFullError`, which names the path, and leaves no partial file behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from grail_core.errors import DiskFullError, StorageError

_TEMPORARY_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FULL = {errno.ENOSPC, errno.EDQUOT}
_HINTS = {
    errno.EACCES: "give this user the right to read and write it",
    errno.EPERM: "give this user the right to read and write it",
    errno.EROFS: "mount the device for writing, or point the setting at another one",
    errno.EIO: "the device fails: look at the system's log (dmesg), and move to another one",
    errno.EFBIG: "the file is larger than this user or file system may have: raise the limit (ulimit -f)",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.EISDIR: "a folder stands where a file belongs: move it away",
    errno.ENOTDIR: "a file stands where a folder belongs: move it away",
}


@contextlib.contextmanager
def storage_errors(where: str | os.PathLike[str]) -> Iterator[None]:
    """Turn `OSError` inside the block into `StorageError`, or `DiskFullError` where no space is left."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, where) from error


def storage_error(error: OSError, where: str | os.PathLike[str]) -> StorageError:
    """The typed form of an `OSError` met at `where`."""
    if is_full(error):
        return disk_full(where)
    hint = _HINTS.get(error.errno or 0, "check the path, and what this user may do there")
    return StorageError(f"the file system refused: {error.strerror or error}", where=str(where), hint=hint)


def is_full(error: OSError) -> bool:
    """Does it say that no space, or none of this user's, is left?"""
    return error.errno in _FULL


def is_of_the_device(error: OSError) -> bool:
    """Does it say that the device, or what this process may have of it, is at its end? Such errors come without a path."""
    return is_full(error) or error.errno in (errno.EIO, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE)


def disk_full(where: str | os.PathLike[str]) -> DiskFullError:
    return DiskFullError(
        "no space is left on the device",
        where=str(where),
        hint="free some space (GRAIL_CACHE_DIR is safe to delete), or point the setting at another device; then start again",
    )


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; `os.write` may take fewer."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_atomically(path: str | os.PathLike[str], data: bytes | Iterable[bytes | memoryview], *, mode: int = 0o644) -> None:
    """Replace `path` by `data`, durably. The parent folder is made if it is not there.

    Args:
        data: all of it, or its parts one after the other, so that what is large need not be in memory twice.

    Raises:
        DiskFullError, StorageError: nothing was changed.
    """
    target = Path(path)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        descriptor = _open_alone(temporary, mode)
        try:
            for part in (data,) if isinstance(data, bytes) else data:
                write_all(descriptor, part)
            os.fsync(descriptor)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)  # only now somebody else may write beside this file
        sync_folder(target.parent)


def _open_alone(temporary: Path, mode: int) -> int:
    """The one temporary file beside a file, empty, and ours until it is closed. What a process that was killed has left of it
    is begun anew, so that no name of its own stays behind."""
    while True:
        try:
            descriptor = os.open(temporary, _TEMPORARY_FLAGS, mode)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.ELOOP, errno.ENXIO) or not _taken_away(temporary):
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            there = os.fstat(descriptor)
            if _is_at(there, temporary):
                if stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and there.st_uid == os.geteuid():
                    os.ftruncate(descriptor, 0)
                    return descriptor
                os.unlink(temporary)  # who made it could write into it later
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # or who had it before has given it its name, or has removed it


def _taken_away(path: Path) -> bool:
    """Another user's file, a link or a pipe: whoever may write into the folder may take it away."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def _is_at(there: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(there, os.lstat(path))
    except FileNotFoundError:
        return False


def remove_any(path: str | os.PathLike[str]) -> None:
    """Remove what stands there, whatever it is; what cannot be removed stays. For caches alone."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
