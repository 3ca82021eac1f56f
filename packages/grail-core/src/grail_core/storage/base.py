"""Object storage as the protocol needs it: conditional puts, ETags, and the store's own clock.

One bucket per participant. A reader of somebody else's bucket trusts nothing but the store's clock and its consistency:
reads are capped in size and time (`time_limits`), pinned by ETag, and hashed by the caller. Whatever a store answers, what
comes out is bytes, an `ObjectInfo`, or a `StorageError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from grail_core.errors import StorageError

MAX_ETAG = 128
"""Characters; those of S3 and R2 have 32, or up to 38 after a multipart upload."""

MAX_LISTED_KEYS = 100_000
"""A listing that goes on beyond this ends in `StorageError`; a bucket of ours holds some ten thousand objects."""


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    size: int  # bytes
    etag: str  # 1 … MAX_ETAG printable ASCII characters, what `if_match` takes; a "-" in it marks a multipart upload
    stored_at_ms: int  # the store's time of the last write, Unix milliseconds


class ObjectNotFoundError(StorageError):
    """No object under this key."""


class PreconditionFailedError(StorageError):
    """The object exists already (`if_absent`), or is no longer the one named (`if_match`)."""


class ObjectTooLargeError(StorageError):
    """The object is larger than the reader allows."""


class AccessDeniedError(StorageError):
    """The store knows these credentials not, or does not let them do this. Some say so of a key that is not there, too."""


class UnknownKeyError(AccessDeniedError):
    """The store knows no such key, or the secret is not its."""


class NoSuchBucketError(StorageError):
    """The store has no bucket of this name under this account."""


class SkewedClockError(StorageError):
    """The store finds this machine's clock wrong."""


class ElsewhereError(StorageError):
    """The store says that the bucket is elsewhere, or signed for in another region."""


class UnsupportedError(StorageError):
    """The store does not know this kind of request."""


class NoAnswerError(StorageError):
    """Nothing came, not in time, or only "later" (429, 5xx), in every try."""


class UnreachableError(NoAnswerError):
    """Nothing listens there, or under no such name."""


class ObjectStore(Protocol):
    """A bucket. Keys are relative paths of `[A-Za-z0-9._-]` parts; anything else raises `StorageError`."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write the whole object at once: readers see the old one or the new one."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """What lies there, None if nothing does. Never reads the content."""
        ...

    def get(
        self, key: str, *, max_bytes: int, if_match: str | None = None, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read bytes offset … offset+length of the object (to its end if None), at most `max_bytes` in all.

        With `if_match` the answer's own ETag is compared too, so that a cache which ignores conditions deceives nobody.
        """
        ...

    def read(self, key: str, *, max_bytes: int) -> tuple[ObjectInfo, bytes]:
        """The whole object, and what the same answer says of it: one request."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key begins with `prefix`, in order, at most MAX_LISTED_KEYS; what is no key of ours is left out."""
        ...

    def delete(self, key: str) -> None:
        """Remove; no error if absent."""
        ...


@runtime_checkable
class LargeObjectStore(Protocol):
    """What a store can do that takes large objects in parts. Readers see such an object when it is whole, as any other."""

    def put_large(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """As `ObjectStore.put`; the ETag has a "-" where it went in parts."""
        ...

    def abandon_uploads(self, prefix: str) -> int:
        """Remove the parts that a killed process left below a prefix of one's own bucket. Returns of how many objects."""
        ...


class StoreDirectory(Protocol):
    """Opens buckets: one's own to write, others' from what they committed on chain."""

    def own(self) -> ObjectStore: ...

    def commitment(self) -> str:
        """The text to commit on chain so that others can read this bucket."""
        ...

    def open(self, commitment: str) -> ObjectStore:
        """Read-only view of somebody's bucket; `StorageError` if the text is not of the network's form or host list."""
        ...
