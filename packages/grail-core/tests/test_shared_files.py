"""A file in a validator's bucket is the bytes that its name says, or none; putting it again changes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from grail_core.errors import StorageError
from grail_core.files.shared import get_file, put_file
from grail_core.protocol.types import Digest
from grail_core.storage.base import ObjectNotFoundError, ObjectTooLargeError
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import file_key

DATA = b"a window file"
DIGEST = Digest(hashlib.sha256(DATA).digest())


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path, "bucket")


def test_what_is_shared_is_read_by_its_digest(store: FilesystemStore) -> None:
    put_file(store, DIGEST, DATA)
    assert get_file(store, file_key(DIGEST), DIGEST, size=len(DATA)) == DATA


def test_sharing_again_writes_nothing(store: FilesystemStore) -> None:
    put_file(store, DIGEST, DATA)
    before = store.head(file_key(DIGEST))
    put_file(store, DIGEST, DATA)
    assert store.head(file_key(DIGEST)) == before


def test_other_bytes_under_a_digest_are_none(store: FilesystemStore) -> None:
    for other in (DATA[:-1], DATA[:-1] + b"!", b""):
        store.put(file_key(DIGEST), other)
        assert get_file(store, file_key(DIGEST), DIGEST, size=len(DATA)) is None


def test_a_longer_object_is_not_read(store: FilesystemStore) -> None:
    store.put(file_key(DIGEST), DATA + b"!")
    with pytest.raises(ObjectTooLargeError):
        get_file(store, file_key(DIGEST), DIGEST, size=len(DATA))


def test_what_is_not_there_is_an_error_of_the_store(store: FilesystemStore) -> None:
    with pytest.raises(ObjectNotFoundError):
        get_file(store, file_key(DIGEST), DIGEST, size=len(DATA))
    assert issubclass(ObjectNotFoundError, StorageError)
