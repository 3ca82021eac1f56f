"""What the protocol takes from a store, kept by every one of them: whole objects, ETags, conditions, ranges, order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from grail_core.errors import StorageError
from grail_core.storage.base import ObjectNotFoundError, ObjectStore, ObjectTooLargeError, PreconditionFailedError
from grail_core.storage.filesystem import FilesystemDirectory, FilesystemStore
from tooling.testing.s3_server import S3Server

KEY = "grail/windows/5F-window-60.parquet"


@dataclass(frozen=True)
class Bucket:
    """One bucket: each call is another handle on it, as another thread or participant has it."""

    writer: Callable[[], ObjectStore]
    reader: Callable[[], ObjectStore]


@pytest.fixture(params=["filesystem", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return Bucket(server.store, server.store)
    return Bucket(lambda: FilesystemStore(tmp_path, "alice"), lambda: FilesystemDirectory(tmp_path, "bob").open("fs:alice"))


@pytest.fixture
def store(bucket: Bucket) -> ObjectStore:
    return bucket.writer()


def test_what_is_put_is_read_with_its_etag_and_the_stores_time(bucket: Bucket, store: ObjectStore) -> None:
    before = int(time.time()) * 1000
    info = store.put(KEY, b"rollouts")
    assert (info.key, info.size) == (KEY, 8)
    assert before <= info.stored_at_ms <= time.time() * 1000
    other = bucket.reader()
    assert other.head(KEY) == info
    assert other.get(KEY, max_bytes=8, if_match=info.etag) == b"rollouts"
    assert store.put("empty", b"").size == 0
    assert store.get("empty", max_bytes=0) == b""


def test_an_object_that_is_not_there_is_none_or_not_found(store: ObjectStore) -> None:
    assert store.head("a/b/c") is None
    with pytest.raises(ObjectNotFoundError) as caught:
        store.get("a/b/c", max_bytes=10)
    assert caught.value.where.endswith("alice/a/b/c")
    store.delete("a/b/c")
    assert list(store.list("")) == []


def test_a_file_replaced_after_first_sight_is_not_read(store: ObjectStore) -> None:
    seen = store.put(KEY, b"first")
    assert store.put(KEY, b"other").etag != seen.etag
    for length in (None, 2, 0):
        with pytest.raises(PreconditionFailedError):
            store.get(KEY, max_bytes=100, if_match=seen.etag, length=length)


def test_a_conditional_put_keeps_what_is_there(store: ObjectStore) -> None:
    store.put(KEY, b"first", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        store.put(KEY, b"second", if_absent=True)
    assert store.get(KEY, max_bytes=100) == b"first"


def test_of_many_who_create_an_object_at_once_one_wins(bucket: Bucket) -> None:
    barrier = threading.Barrier(8)
    won: list[int] = []

    def race(number: int) -> None:
        store = bucket.writer()
        barrier.wait()
        try:
            store.put(KEY, bytes([number]) * 1000, if_absent=True)
            won.append(number)
        except PreconditionFailedError:
            pass

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert bucket.reader().get(KEY, max_bytes=1000) == bytes(won) * 1000


def test_readers_see_the_old_object_or_the_new_one_never_a_mixture(bucket: Bucket, store: ObjectStore) -> None:
    other, done = bucket.reader(), threading.Event()
    store.put(KEY, bytes([0]) * 100_000)

    def rewrite() -> None:
        for number in range(1, 40):
            store.put(KEY, bytes([number]) * 100_000)
        done.set()

    thread = threading.Thread(target=rewrite)
    thread.start()
    while not done.is_set():
        data = other.get(KEY, max_bytes=100_000)
        assert len(data) == 100_000
        assert len(set(data)) == 1
    thread.join()


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, None, b"abcdef"), (2, None, b"cdef"), (2, 3, b"cde"), (4, 9, b"ef"), (0, 0, b"")],
)
def test_ranges_are_read_and_pinned(store: ObjectStore, offset: int, length: int | None, expected: bytes) -> None:
    etag = store.put(KEY, b"abcdef").etag
    assert store.get(KEY, max_bytes=6, if_match=etag, offset=offset, length=length) == expected


def test_no_more_than_max_bytes_are_read(store: ObjectStore) -> None:
    store.put(KEY, b"abcdef")
    with pytest.raises(ObjectTooLargeError):
        store.get(KEY, max_bytes=5)
    assert store.get(KEY, max_bytes=5, length=5) == b"abcde"
    with pytest.raises(StorageError):
        store.get(KEY, max_bytes=5, offset=7)


def test_list_finds_keys_by_prefix_in_order(store: ObjectStore) -> None:
    keys = ["grail/windows/b", "grail/windows/a", "grail/objects/c", "top", "grail/w"]
    for key in keys:
        store.put(key, key.encode())
    assert [info.key for info in store.list("")] == sorted(keys)
    assert [info.key for info in store.list("grail/w")] == ["grail/w", "grail/windows/a", "grail/windows/b"]
    assert [info.key for info in store.list("grail/windows/")] == ["grail/windows/a", "grail/windows/b"]
    assert [info.key for info in store.list("none/")] == []
    store.delete("grail/windows/a")
    assert store.head("grail/windows/a") is None
    assert [info.key for info in store.list("grail/windows/")] == ["grail/windows/b"]


@pytest.mark.parametrize(
    "key",
    ["", "/", "/etc/passwd", "..", "../bob/x", "a/../b", "a//b", "a/", "./a", "a b", "a\0b", "ä", "~tmp/x", "a\\b", "x" * 2000],
)
def test_keys_that_are_no_keys_are_refused_everywhere(store: ObjectStore, key: str) -> None:
    for attempt in (
        lambda: store.put(key, b""),
        lambda: store.head(key),
        lambda: store.get(key, max_bytes=1),
        lambda: store.delete(key),
    ):
        with pytest.raises(StorageError, match="relative path"):
            attempt()
