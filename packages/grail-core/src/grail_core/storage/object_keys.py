"""Object keys: relative paths of `[A-Za-z0-9._-]` parts, the same rule in every store.

The rule keeps keys valid in S3 and in file systems alike, leaves no way out of a bucket, and leaves names free that only a
store itself uses.
"""

from __future__ import annotations

import re

from grail_core.errors import StorageError

MAX_KEY_LENGTH = 1024  # bytes, as in S3
_PART = re.compile(r"[A-Za-z0-9._-]{1,255}")


def is_key(text: str) -> bool:
    """Whether a text somebody else wrote is a key."""
    parts = text.split("/")
    return len(text) <= MAX_KEY_LENGTH and all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)


def split_key(key: str) -> tuple[str, ...]:
    """The parts of a key.

    Raises:
        StorageError: empty, absolute, too long, or with a part that is "." or ".." or has other characters.
    """
    if not is_key(key):
        raise StorageError("an object key is a relative path of letters, digits, '.', '_' and '-'", where=repr(key[:200]))
    return tuple(key.split("/"))


def check_prefix(prefix: str) -> str:
    """A prefix of keys: any beginning of one, "" included. Raises `StorageError` for what no key begins with."""
    if prefix:
        split_key(prefix + "x")  # "windows/" and "windows/5F" both begin keys
    return prefix
