"""Window files in a validator's bucket, each under its SHA-256: for other validators, who lack one, and for the trainer.

Nobody's word is taken for the bytes: whoever reads one hashes it.
"""

from __future__ import annotations

import hashlib

from grail_core.protocol.types import Digest
from grail_core.storage.base import ObjectStore, PreconditionFailedError
from grail_core.storage.layout import file_key


def put_file(store: ObjectStore, digest: Digest, data: bytes) -> None:
    """Into one's own bucket; what lies under a digest already is the same bytes.

    Raises:
        StorageError: it may or may not lie there now.
    """
    try:
        store.put(file_key(digest), data, if_absent=True)
    except PreconditionFailedError:
        return


def get_file(store: ObjectStore, key: str, digest: Digest, *, size: int) -> bytes | None:
    """The object's bytes, None where they are not those of the digest. Reads at most `size`.

    Raises:
        StorageError: it is not there, larger, or the store does not answer.
    """
    data = store.get(key, max_bytes=size)
    return data if hashlib.sha256(data).digest() == digest else None
