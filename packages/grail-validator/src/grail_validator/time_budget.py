"""How long the checks of one drawn file may take (threat E5): one slow file costs its own miner, and no other file its time.

The drawn files of a window share JUDGING_SHARE of the window's length. A file may take all of what is left but an even share of
each file to come: what quick files leave over is the next ones'. Small files come first and full ones last, so whoever brings
small, slow ones takes from an honest full file nothing that is its own. Where so many files are drawn that an even share is
less than LEAST_SECONDS, a file may also take half of what is left. None has less than an even share or LEAST_SECONDS, whichever
is more, whatever those before it took. All together take at most

    JUDGING_SHARE · window + files · LEAST_SECONDS

and what is in hand when a file's time is over: one graded rollout, one forward pass. Waiting for files is in no budget. Who
overruns is inconclusive, and counts as such (section 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from grail_core.chain.base import seconds_of
from grail_core.protocol.constants import WINDOW_LENGTH

JUDGING_SHARE: Final = Fraction(4, 5)
"""Of a window's length: the rest is for loading a checkpoint, publishing and setting weights."""
LEAST_SECONDS: Final = 30.0
"""That any file has, however many are drawn: the confined opening of a maximal file may take three tries of seconds each, and
a grader its limit for an answer more than once. On a network of short windows this, and not the window, is what is given."""


def judging_seconds(block_time_ms: int) -> float:
    """What the drawn files of one window share."""
    window_s = seconds_of(WINDOW_LENGTH, block_time_ms)
    return float(JUDGING_SHARE) * window_s


def allowance(shared_s: float, files: int, before: int, spent_s: float, least_s: float = LEAST_SECONDS) -> float:
    """Seconds for the next of `files`, when `before` of them took `spent_s` together.

    Raises:
        ValueError: all files had theirs.
    """
    if not 0 <= before < files:
        raise ValueError(f"{before} of {files} files had their time")
    if math.isinf(shared_s):
        return shared_s
    left_s = shared_s - spent_s
    even_s = shared_s / files
    half_s = left_s / 2 if even_s <= least_s else 0.0
    return max(least_s, half_s, left_s - even_s * (files - before - 1))


@dataclass
class TimeBudget:
    """The allowances of one window's files, one after the other. Of an infinite `shared_s` nothing is over."""

    shared_s: float
    files: int
    clock: Callable[[], float]  # seconds, of whatever beginning
    least_s: float = LEAST_SECONDS
    _before: int = 0
    _spent_s: float = 0.0

    @contextmanager
    def next_file(self) -> Iterator[Callable[[], float]]:
        """While it lasts, the next file's time runs; gives what is left of it, in seconds, negative once it is over."""
        started = self.clock()
        ends = started + allowance(self.shared_s, self.files, self._before, self._spent_s, self.least_s)
        try:
            yield lambda: ends - self.clock()
        finally:
            self._before += 1
            self._spent_s += self.clock() - started
