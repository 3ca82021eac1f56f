"""How long the checks of one drawn file may take (threat E5): one slow file costs its own miner, and no other file its time.

The drawn files of a window share JUDGING_SHARE of the window's length. A file may take half of what is left of it, or all but
an even share of each file to come, whichever is more: an honest file whose answers are slow to grade is judged as long as
others are quick. None has less than LEAST_SECONDS, whatever those before it took. All together therefore take at most

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
    kept_s = shared_s * (files - before - 1) / files
    return max(least_s, left_s / 2, left_s - kept_s)


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
