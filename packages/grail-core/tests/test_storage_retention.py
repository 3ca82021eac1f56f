"""Retention deletes what has fallen out, keeps what is of another kind, and tries again what a store refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.errors import ChainError, StorageError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.storage.base import ObjectInfo
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import (
    evidence_key,
    file_key,
    seal_key,
    training_log_key,
    valid_from_of_key,
    verdict_key,
    window_key,
    window_of_key,
)
from grail_core.storage.retention import Retention, evidence, seals, shared_files, window_files

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
        for key in (verdict_key(window), evidence_key(window), training_log_key(window)):
            store.put(key, b"object")
    store.put(window_key(MINER, windows[0]), b"somebody's file")
    Retention(store, [evidence(3)]).sweep(windows[-1])
    left = {info.key for info in store.list("grail/")}
    assert {verdict_key(window) for window in windows} <= left
    assert {training_log_key(window) for window in windows} <= left
    assert window_key(MINER, windows[0]) in left
    assert {window for window in windows if evidence_key(window) in left} == set(windows[-4:])


def test_a_miner_keeps_its_seals_as_it_keeps_its_files(store: CountingStore) -> None:
    kept = Retention(store, [window_files(MINER, 2), seals(MINER, 1)])
    for number in range(5):
        window = Window(number * WINDOW_LENGTH)
        store.put(window_key(MINER, window), b"file")
        store.put(seal_key(MINER, window), b"seal")
        kept.sweep(window)
    assert windows_of(store, "grail/windows/") == [60, 90, 120]
    assert windows_of(store, "grail/seals/") == [90, 120]


MILLISECONDS = 1000 * WINDOW_LENGTH


def time_of_ms(window: Window) -> int:
    """One block a second, from the time 10⁹."""
    return 10**9 + 1000 * window


@pytest.fixture
def dated(tmp_path: Path) -> tuple[CountingStore, list[int]]:
    """A store whose clock says what the list's only entry says."""
    now = [time_of_ms(Window(0))]
    return CountingStore(tmp_path, "bucket", clock=lambda: now[0]), now


def digest_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_files_named_by_their_content_are_kept_by_their_age(dated: tuple[CountingStore, list[int]]) -> None:
    store, now = dated
    kept = Retention(store, [shared_files(3, time_of_ms)])
    for number in range(8):
        now[0] = time_of_ms(Window(number * WINDOW_LENGTH)) + 500
        store.put(file_key(digest_of(number)), b"file")
        store.put(verdict_key(Window(number * WINDOW_LENGTH)), b"verdict")
        kept.sweep(Window(number * WINDOW_LENGTH))
    left = {info.key for info in store.list("grail/")}
    assert {number for number in range(8) if file_key(digest_of(number)) in left} == {4, 5, 6, 7}
    assert {number for number in range(8) if verdict_key(Window(number * WINDOW_LENGTH)) in left} == set(range(8))


def test_a_network_younger_than_what_is_kept_loses_nothing_and_asks_for_no_block(
    dated: tuple[CountingStore, list[int]],
) -> None:
    store, _ = dated

    def unborn(window: Window) -> int:
        raise AssertionError(window)

    store.put(file_key(digest_of(1)), b"file")
    Retention(store, [shared_files(48, unborn)]).sweep(Window(48 * WINDOW_LENGTH))
    assert [info.key for info in store.list("grail/files/")] == [file_key(digest_of(1))]


def test_a_chain_that_does_not_answer_costs_one_sweep(dated: tuple[CountingStore, list[int]]) -> None:
    store, now = dated
    answers = [False, True]

    def asked(window: Window) -> int:
        if not answers.pop(0):
            raise ChainError("no answer")
        return time_of_ms(window)

    store.put(file_key(digest_of(1)), b"file")
    now[0] += 10 * MILLISECONDS
    kept = Retention(store, [shared_files(1, asked)])
    kept.sweep(Window(4 * WINDOW_LENGTH))
    assert len(list(store.list("grail/files/"))) == 1
    kept.sweep(Window(4 * WINDOW_LENGTH))
    assert not list(store.list("grail/files/"))


def test_a_key_tells_its_window_and_a_content_name_tells_none() -> None:
    window = Window(330)
    for key in (window_key(MINER, window), seal_key(MINER, window), verdict_key(window), evidence_key(window)):
        assert window_of_key(key) == window
        assert valid_from_of_key(key) is None
    for key in (file_key(digest_of(330)), "grail/seals/x-window-030.json", "grail/seals/../x-window-30.json", "grail/probe"):
        assert window_of_key(key) is None


@given(st.lists(st.booleans(), min_size=1, max_size=12))
@settings(max_examples=20)
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
