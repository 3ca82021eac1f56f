"""Whether the head of a chain goes on: what was seen of it at the endpoint in use, by this machine's clock.

A head that stands while the connection looks alive has kept whole subnets waiting for days. Two things are suspicious: a number
that has not risen for `STANDS_BLOCKS` block times, and a head whose own time lies that far back. Neither proves anything alone
(a clock may be wrong, and a network may really stand), so what follows is a comparison: another endpoint is taken only where it
is at least `FURTHER_BLOCKS` further. The clock is the network's: where it is moved by hand it
stands too, and nothing is suspicious. It is read before a number is asked for: an answer that took long, or a clock that jumped
meanwhile, makes no head look older than it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

STANDS_BLOCKS: Final = 3
"""Block times after which a head that does not move is looked into: one or two empty slots are nothing."""
FURTHER_BLOCKS: Final = 2
AGE_EVERY_BLOCKS: Final = 10
"""How often a head that moves is asked for its time: an endpoint may lag, and go on lagging."""


class Head(Enum):
    BEST = "best"
    FINALISED = "finalised"


@dataclass
class _Seen:
    endpoint: str  # its URL
    number: int
    since_ms: int  # when it was first seen at this number
    aged_at: int | None = None  # the number at which its own time was last asked for


class HeadWatch:
    """Remembers numbers and when they rose. Not for threads: its caller holds a lock.

    Args:
        clock: Unix milliseconds of the network.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._seen: dict[Head, _Seen] = {}
        self._look_at_ms: dict[Head, int] = {}
        self._say_at_ms: dict[Head, int] = {}
        self._said: set[Head] = set()

    def saw(self, head: Head, endpoint: str, number: int) -> bool:
        """A number was read at an endpoint; whether it has risen there. Another endpoint starts anew."""
        known = self._seen.get(head)
        if known is None or known.endpoint != endpoint:
            self._seen[head] = _Seen(endpoint, number, self._clock())
            return False
        rose = number > known.number
        if rose:
            known.number, known.since_ms = number, self._clock()
        known.since_ms = min(known.since_ms, self._clock())  # a clock that was set back keeps nobody from noticing
        return rose

    def stands_ms(self, head: Head, asked_ms: int) -> int:
        """For how long the number had stood at this endpoint when it was last asked for."""
        return max(0, asked_ms - self._seen[head].since_ms)

    def age_due(self, endpoint: str, number: int) -> bool:
        """Whether the best block's own time is to be asked for: at first sight, now and then, and while something is wrong."""
        seen = self._seen.get(Head.BEST)
        if seen is None or seen.endpoint != endpoint or seen.aged_at is None or Head.BEST in self._said:
            return True
        return number >= seen.aged_at + AGE_EVERY_BLOCKS

    def aged(self, head: Head, timestamp_ms: int, asked_ms: int) -> int:
        """Note its time; how far that lay back, in milliseconds, when the number was asked for."""
        self._seen[head].aged_at = self._seen[head].number
        return max(0, asked_ms - timestamp_ms)

    def look_due(self, head: Head, block_ms: int) -> bool:
        """Whether to ask the other endpoints now: at once, then every two block times."""
        now = self._clock()
        if 0 < self._look_at_ms.get(head, now) - now <= 2 * block_ms:
            return False
        self._look_at_ms[head] = now + 2 * block_ms
        return True

    def say_due(self, head: Head, suspicious_ms: int) -> bool:
        """Whether to say that it stands and nobody is further: at once, then each time that it has stood twice as long."""
        now = self._clock()
        if now < self._say_at_ms.get(head, now):
            return False
        self._say_at_ms[head] = now + suspicious_ms
        self._said.add(head)
        return True

    def calm(self, head: Head) -> bool:
        """Nothing is suspicious any more; whether something was, and had been said."""
        told = head in self._said
        self._said.discard(head)
        self._look_at_ms.pop(head, None)
        self._say_at_ms.pop(head, None)
        return told
