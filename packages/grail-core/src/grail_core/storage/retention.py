"""Every role deletes its own old objects, and nobody else's.

The first sweep lists what is there; later ones delete by name what has fallen out since, so that a bucket that keeps its
verdicts for ever is listed once in a process's life. A store that does not answer costs nothing but the next try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grail_core.errors import ChainError, StorageError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import (
    FILE_PREFIX,
    OPENING_PREFIX,
    SEAL_PREFIX,
    UPDATE_PREFIX,
    VERDICT_PREFIX,
    WINDOW_PREFIX,
    evidence_key,
    opening_key,
    seal_key,
    update_key,
    window_key,
    window_of_key,
)
from grail_core.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Kept:
    """One kind of own objects: where they are listed, what they are called, for how many windows they are kept."""

    prefix: str
    key_of: Callable[[Window], str]
    windows: int


def window_files(hotkey_ss58: str, windows: int) -> Kept:
    """A miner's files: needed until every validator has judged them."""
    return Kept(WINDOW_PREFIX, lambda window: window_key(hotkey_ss58, window), windows)


def seals(hotkey_ss58: str, windows: int) -> Kept:
    """A miner's seals: as long as the files they fix."""
    return Kept(SEAL_PREFIX, lambda window: seal_key(hotkey_ss58, window), windows)


def updates(hotkey_ss58: str, windows: int) -> Kept:
    """A miner's updates of rounds: needed until every checkpoint that merged them has a newer anchor."""
    return Kept(UPDATE_PREFIX, lambda window: update_key(hotkey_ss58, window), windows)


def openings(hotkey_ss58: str, windows: int) -> Kept:
    """What a miner showed of its updates: needed until every validator has judged the round."""
    return Kept(OPENING_PREFIX, lambda window: opening_key(hotkey_ss58, window), windows)


def evidence(windows: int) -> Kept:
    """What a validator measured: for whoever judges a window again."""
    return Kept(VERDICT_PREFIX, evidence_key, windows)


@dataclass(frozen=True)
class KeptByAge:
    """Own objects that are named by their content, so that only the store's time says how old they are."""

    prefix: str
    windows: int
    time_of_ms: Callable[[Window], int]  # Unix milliseconds of a window's first block, on the store's clock


def shared_files(windows: int, time_of_ms: Callable[[Window], int]) -> KeptByAge:
    """The window files a validator hands on to other validators and to the trainer: needed as long as window files."""
    return KeptByAge(FILE_PREFIX, windows, time_of_ms)


class Retention:
    """Sweeps one's own bucket. Verdicts and training logs are kept for ever and are not among the kinds."""

    def __init__(self, store: ObjectStore, kinds: Sequence[Kept | KeptByAge]) -> None:
        self._store = store
        self._kinds = tuple(kinds)
        self._swept: dict[Kept | KeptByAge, Window] = {}

    def sweep(self, current: Window) -> None:
        """Delete what is older than it is kept, as of this window."""
        for kind in self._kinds:
            first = Window(current - kind.windows * WINDOW_LENGTH)
            try:
                deleted = self._sweep(kind, first)
            except (ChainError, StorageError) as error:
                log.event("retention_failed", prefix=kind.prefix, reason=error.what, retry="with the next window")
                continue
            self._swept[kind] = first
            if deleted:
                log.event("old_objects_deleted", prefix=kind.prefix, objects=deleted, before=first)

    def _sweep(self, kind: Kept | KeptByAge, first: Window) -> int:
        if isinstance(kind, KeptByAge):
            return self._sweep_by_age(kind, first)
        swept = self._swept.get(kind)
        if swept is None:
            there = {info.key for info in self._store.list(kind.prefix)}
            old = {window for key in there if (window := window_of_key(key)) is not None and window < first}
            keys = {kind.key_of(window) for window in old} & there
        else:
            keys = {kind.key_of(Window(window)) for window in range(swept, first, WINDOW_LENGTH) if window >= 0}
        for key in sorted(keys):
            self._store.delete(key)
        return len(keys)

    def _sweep_by_age(self, kind: KeptByAge, first: Window) -> int:
        if first <= 0:
            return 0  # the network is younger than what is kept
        before_ms = kind.time_of_ms(first)
        old = [info.key for info in self._store.list(kind.prefix) if info.stored_at_ms < before_ms]
        for key in old:
            self._store.delete(key)
        return len(old)
