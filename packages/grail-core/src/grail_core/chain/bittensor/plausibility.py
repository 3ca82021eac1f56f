"""Whether a head that an endpoint tells can be: what is held against its numbers before a role works by them.

A number is an endpoint's word, and one that invents blocks draws roles into windows that have not begun. So finality lies at or
below the best block; a block has a time that the same endpoint can tell, and that is not ahead of this machine's clock; and
from one head to the next there are no more blocks than time has passed for, whoever told them. Where every endpoint contradicts
what is known for long, that was the lie (or blocks have become faster), and it is forgotten. What an endpoint invents whole,
with times that fit, before anything else is known, is believed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MOST_BLOCKS: Final = 2**32  # block numbers of a subtensor are u32
SLACK_BLOCKS: Final = 5
"""Blocks that a head may be further than time allows, and block times that its own time may be ahead of this clock."""
FORGOTTEN_BLOCKS: Final = 50
"""Block times for which every head has been too far ahead of the known one when that is given up."""


def numbers_doubt(best: int, finalised: int | None) -> str:
    """What is wrong with numbers that were read together; no text where nothing is."""
    for word, number in (("best", best), ("finalised", finalised or 0)):
        if not 0 <= number < MOST_BLOCKS:
            return f"its {word} block has a number that no block has"
    if finalised is not None and finalised > best:
        return f"its finalised block {finalised} lies above its best block {best}"
    return ""


@dataclass(frozen=True)
class _Known:
    number: int
    time_ms: int  # the block's own
    at: float  # monotonic seconds when it was seen


class Plausibility:
    """Remembers the last head whose time was read, of whatever endpoint. Not for threads: its caller holds a lock.

    Args:
        clock: Unix milliseconds of the network. monotonic: seconds; while the clock is set back, time passes by it.
    """

    def __init__(self, clock: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._known: _Known | None = None
        self._contradicted_ms: int | None = None  # since when

    def fits(self, number: int, block_ms: float) -> bool:
        """Whether a block may exist by the time that has passed since the known head; yes where none is known."""
        return self._known is None or number <= self._most(self._known, block_ms)

    def doubt(self, number: int, time_ms: int, block_ms: float) -> str:
        """What is wrong with a head of this time; no text where nothing is, and then it is the known one from now on."""
        now_ms = self._now_ms()
        ahead_ms = time_ms - now_ms
        if ahead_ms > SLACK_BLOCKS * block_ms:
            return f"block {number} is of a time {ahead_ms / 1000:.0f} s ahead of this machine's clock"
        if self._known is not None and not self.fits(number, block_ms):
            since_ms = self._contradicted_ms = now_ms if self._contradicted_ms is None else self._contradicted_ms
            if now_ms - since_ms <= FORGOTTEN_BLOCKS * block_ms:
                known, further = self._known, number - self._most(self._known, block_ms)
                return f"block {number} is {further} blocks further than time allows since block {known.number}"
        self._known, self._contradicted_ms = _Known(number, time_ms, self._monotonic()), None
        return ""

    def _now_ms(self) -> int:
        """The clock; where that was set back, the known head's time and what has passed since."""
        known = self._known
        return max(self._clock(), 0 if known is None else known.time_ms + round(1000 * (self._monotonic() - known.at)))

    def _most(self, known: _Known, block_ms: float) -> int:
        return known.number + int((self._now_ms() - known.time_ms) / block_ms) + SLACK_BLOCKS
