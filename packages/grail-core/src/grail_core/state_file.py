"""Small files of `GRAIL_STATE_DIR` that say of themselves whether they are what was written: JSON with its own digest in it.

A file cut short, emptied, with a digit turned, or with another program's JSON in it is told apart from one that is whole, so
that nobody acts on a number that was never written. Files without a digest, as earlier versions wrote them, are read too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from grail_core.disk import storage_errors, write_atomically
from grail_core.errors import DamagedStateError

DIGEST = "sha256"
MAX_STATE_BYTES = 256 << 20


def write_state(path: Path, value: dict[str, Any]) -> None:
    """Replace the file, durably and whole. Errors: as `write_atomically`."""
    write_atomically(path, json.dumps({DIGEST: _digest(value), **value}, indent=1).encode())


def read_state(path: Path, *, what: str, recovery: str) -> dict[str, Any] | None:
    """The value that was written, None where there is no such file.

    Args:
        what: the file in words, for an error; `recovery`: what its owner can do about its loss.

    Raises:
        DamagedStateError: it is not whole, or no JSON object.
        StorageError: it cannot be read.
    """
    with storage_errors(path):
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return None

    def damaged(how: str) -> DamagedStateError:
        return DamagedStateError(f"{what} is damaged: {how}", where=str(path), hint=recovery)

    if not raw.strip(b"\0 \t\r\n"):
        raise damaged("it is empty")
    if len(raw) > MAX_STATE_BYTES:
        raise damaged(f"it has more than {MAX_STATE_BYTES} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise damaged("it is no JSON") from None
    if not isinstance(value, dict):
        raise damaged("it is no JSON object")
    stated = value.pop(DIGEST, None)
    if stated is not None and stated != _digest(value):
        raise damaged("its content is not what was written")
    return value


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
