"""Section 10's memory: a miner's last windows added up, of whatever kind their work is.

What a window counts is said by its own type (`scores.MinerWindow`, `gradient.scores.MinerRound`); how far apart
windows are, how many count and up to what is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from grail_core.protocol.types import Window


class Counted(Protocol):
    """What a window, or a round, of any kind of work counts for one miner."""

    @property
    def window(self) -> Window: ...

    @property
    def declared(self) -> int: ...

    @property
    def active(self) -> bool: ...

    @property
    def audited(self) -> bool: ...

    @property
    def valid(self) -> int: ...


C = TypeVar("C", bound=Counted)


@dataclass(frozen=True, slots=True)
class Tally(Generic[C]):
    """One miner's memory added up. `audits` are (entry, declared, valid) up to the cap, without those that declared nothing."""

    work: int
    audits: tuple[tuple[C, int, int], ...]

    @property
    def declared(self) -> int:
        return sum(declared for _, declared, _ in self.audits)

    @property
    def valid(self) -> int:
        return sum(valid for _, _, valid in self.audits)


def tally(history: Iterable[C], window: Window, *, spacing: int, cap: int, work: int, memory: int) -> Tally[C]:
    """Add up entries as of `window`, which is itself the last of the "last n".

    Entries outside the memory are passed over; a window without an entry counts nothing. No more than `declared` of an entry
    counts as valid.

    Args:
        history: in ascending order of window.
        spacing: blocks from one window, or round, to the next. cap: of what one can declare.
        work, memory: how many of them count for work and for audits.

    Raises:
        ValueError: windows out of order, or two entries for one.
    """
    done = 0
    audits: list[tuple[C, int, int]] = []
    oldest, oldest_work = window - (memory - 1) * spacing, window - (work - 1) * spacing
    previous = -1
    for entry in history:
        at = entry.window
        if at <= previous:
            raise ValueError(f"window {at} follows {previous}: a history is in ascending order, each window once")
        previous = at
        if not oldest <= at <= window:
            continue
        counted = min(entry.declared, cap)
        if entry.active and at >= oldest_work:
            done += counted
        if entry.audited and counted:
            audits.append((entry, counted, min(entry.valid, counted)))
    return Tally(done, tuple(audits))
