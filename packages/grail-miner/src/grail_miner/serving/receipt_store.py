"""Receipts of the last seven days, one file each, and who may read them.

An answer's digest is public, what was asked is not: a receipt is read with its token, a keyed hash of the digest that only
whoever got the answer was told. A digest that is not here and a wrong token look alike. The oldest go when the folder is full.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from grail_core.clock import WallClock, wall_clock_ms
from grail_core.disk import storage_errors, write_atomically
from grail_core.errors import DamagedStateError, StorageError
from grail_core.inference.constants import MAX_RECEIPT_BYTES

KEEP_MS: Final = 7 * 86_400_000
MAX_BYTES: Final = 1 << 30
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SECRET_BYTES: Final = 32


class ReceiptStore:
    """A folder of `{answer digest}.json`, readable for this user alone. Safe to call from several threads.

    Args:
        folder: made if it is not there. secret_file: the key of the tokens; made at first start, mode 0600.
        max_bytes: of all receipts together; at least one of the largest.

    Raises:
        DamagedStateError: the secret file holds no key.
        DiskFullError, StorageError
    """

    def __init__(
        self, folder: Path, secret_file: Path, *, clock: WallClock = wall_clock_ms, max_bytes: int = MAX_BYTES
    ) -> None:
        if max_bytes < MAX_RECEIPT_BYTES:
            raise ValueError(f"max_bytes: one receipt may have {MAX_RECEIPT_BYTES}")
        self._folder = folder
        self._clock = clock
        self._max_bytes = max_bytes
        self._secret = _secret(secret_file)
        self._lock = threading.Lock()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = sorted(self._scan(), key=lambda entry: entry[1][0])
        self._kept: dict[str, tuple[int, int]] = dict(found)  # digest → (Unix ms when put, bytes), oldest first
        self._bytes = sum(size for _, size in self._kept.values())
        with self._lock:
            self._prune()

    def put(self, digest: bytes, receipt: bytes) -> str:
        """Keep a receipt, and return the token that reads it. Raises: DiskFullError, StorageError."""
        name, now = digest.hex(), self._clock()
        path = self._path(name)
        write_atomically(path, receipt, mode=0o600)  # by several threads side by side: each waits for the disk
        with storage_errors(path):
            os.utime(path, ns=(now * 1_000_000, now * 1_000_000))  # its age by the clock that it is judged by
        with self._lock:
            _, former = self._kept.pop(name, (0, 0))
            self._kept[name] = (now, len(receipt))
            self._bytes += len(receipt) - former
            self._prune()
        return self.token(name)

    def get(self, digest: str, token: str) -> bytes | None:
        """The receipt of a digest in hex; None where it is not here, no longer, or not for who has this token.

        Raises:
            StorageError: it cannot be read.
        """
        found = self.open(digest, token)
        if found is None:
            return None
        with found, storage_errors(self._path(digest)):
            return found.read()

    def open(self, digest: str, token: str) -> BinaryIO | None:
        """As `get`, to be read piece by piece: it stays whole when it is removed meanwhile."""
        if not _DIGEST.fullmatch(digest):
            return None
        if not hmac.compare_digest(self.token(digest).encode(), token.encode(errors="replace")):
            return None
        with self._lock:
            self._prune()
            if digest not in self._kept:
                return None
            with storage_errors(self._path(digest)):
                try:
                    return self._path(digest).open("rb")
                except FileNotFoundError:  # removed by its owner
                    return None

    def token(self, digest: str) -> str:
        """64 hex digits: HMAC-SHA-256 of the digest under the secret of this server."""
        return hmac.new(self._secret, bytes.fromhex(digest), hashlib.sha256).hexdigest()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _scan(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for entry in os.scandir(self._folder):
            name = entry.name.removesuffix(".json")
            if entry.name.endswith(".tmp"):
                os.unlink(entry.path)  # of a process that was killed while it wrote
            elif _DIGEST.fullmatch(name) and entry.is_file(follow_symlinks=False):
                about = entry.stat(follow_symlinks=False)
                yield name, (about.st_mtime_ns // 1_000_000, about.st_size)

    def _prune(self) -> None:
        """Remove what is too old, and the oldest while all of it is too large."""
        oldest = self._clock() - KEEP_MS
        for name, (put, size) in tuple(self._kept.items()):
            if put >= oldest and self._bytes <= self._max_bytes:
                return
            with storage_errors(self._path(name)):
                self._path(name).unlink(missing_ok=True)
            del self._kept[name]
            self._bytes -= size


def _secret(path: Path) -> bytes:
    try:
        with storage_errors(path):
            text = path.read_bytes()[: 4 * _SECRET_BYTES]
    except StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        made = secrets.token_bytes(_SECRET_BYTES)
        write_atomically(path, made.hex().encode() + b"\n", mode=0o600)
        return made
    if not _DIGEST.fullmatch(text.strip().decode(errors="replace")):
        raise DamagedStateError(
            "the file holds no key for receipts' tokens",
            where=str(path),
            hint="bring it back from a copy, or remove it: a new one is made, and tokens that were given out read nothing more",
        )
    return bytes.fromhex(text.strip().decode())
