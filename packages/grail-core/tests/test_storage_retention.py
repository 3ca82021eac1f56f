"""Retention deletes what has fallen out, keeps what is of another kind, and tries again what a store refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import StorageError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.storage.base import ObjectInfo
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import evidence_key, rollouts_key, training_log_key, verdict_key, window_key
from grail_core.storage.retention import Retention, accepted_files, evidence, window_files

MINER = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM"


class CountingStore(FilesystemStore):
    """Counts listings and can refuse deletions."""

    listings = 0
    refuses = False

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.listings += 1
        return super().list(prefix)

    def delete(self, key: str) -> None:
        if self.refuses:
            raise StorageError("the store is away", where=key)
        super().delete(key)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path, "bucket")


def windows_of(store: FilesystemStore, prefix: str) -> list[int]:
    return sorted(int(info.key.split("-window-")[1].split(".")[0]) for info in store.list(prefix))


def test_a_miner_keeps_its_last_files_and_lists_its_bucket_once(store: CountingStore) -> None:
    kept = Retention(store, [window_files(MINER, 3)])
    for number in range(8):
        window = Window(number * WINDOW_LENGTH)
        store.put(window_key(MINER, window), b"file")
        kept.sweep(window)
    assert store.listings == 1
    assert windows_of(store, "grail/windows/") == [120, 150, 180, 210]


def test_a_restarted_role_finds_what_is_old(store: CountingStore) -> None:
    for number in range(8):
        store.put(window_key(MINER, Window(number * WINDOW_LENGTH)), b"file")
    Retention(store, [window_files(MINER, 3)]).sweep(Window(210))
    assert windows_of(store, "grail/windows/") == [120, 150, 180, 210]


def test_a_validator_keeps_every_verdict_and_what_is_not_its_own_kind(store: CountingStore) -> None:
    windows = [Window(number * WINDOW_LENGTH) for number in range(6)]
    for window in windows:
        for key in (verdict_key(window), evidence_key(window), rollouts_key(window), training_log_key(window)):
            store.put(key, b"object")
    store.put(window_key(MINER, windows[0]), b"somebody's file")
    Retention(store, [accepted_files(1), evidence(3)]).sweep(windows[-1])
    left = {info.key for info in store.list("grail/")}
    assert {verdict_key(window) for window in windows} <= left
    assert {training_log_key(window) for window in windows} <= left
    assert window_key(MINER, windows[0]) in left
    assert {window for window in windows if rollouts_key(window) in left} == set(windows[-2:])
    assert {window for window in windows if evidence_key(window) in left} == set(windows[-4:])


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_whatever_fails_in_between_the_same_is_left_in_the_end(refusals: list[bool]) -> None:

    with tempfile.TemporaryDirectory() as folder:
        store = CountingStore(Path(folder), "bucket")
        kept = Retention(store, [window_files(MINER, 2)])
        for number, refuses in enumerate([*refusals, False]):
            window = Window(number * WINDOW_LENGTH)
            store.put(window_key(MINER, window), b"file")
            store.refuses = refuses
            kept.sweep(window)
        last = len(refusals)
        assert windows_of(store, "grail/windows/") == [n * WINDOW_LENGTH for n in range(max(0, last - 2), last + 1)]
