"""Whether what a process or a folder holds grows without end, from one number a window.

The slope is Theil's and Sen's: the median of the slopes between all pairs, which a few windows of other work (a retry, a
checkpoint's download) do not move (Sen 1968, doi:10.1080/01621459.1968.10480934). It is taken over the last half of one life
of the process, when caches are full: a cache that fills for a hundred windows looks like a leak before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

LEAST_WINDOWS = 24
"""Fewer show no trend: a run that is shorter is told to have shown none."""


@dataclass(frozen=True)
class Limit:
    """How much a series may grow. A unit is a byte, a descriptor, a thread."""

    each_window: float
    """Slope that is taken for noise of the allocator: over it, and over `at_least` in all, is a leak."""

    at_least: float


MEMORY = Limit(64 * 1024, 4 << 20)
"""15 MiB a day on subnet 81 (240 windows): a role that leaks less is restarted by its next upgrade long before it matters."""

DESCRIPTORS = Limit(0.02, 3)
THREADS = Limit(0.02, 3)
STATE = Limit(32 * 1024, 4 << 20)


@dataclass(frozen=True)
class Trend:
    windows: int  # that the slope was taken over
    slope: float  # a window
    first: float  # median of the first quarter of these windows
    last: float  # and of the last

    def leaks(self, limit: Limit) -> bool:
        """Both: it goes up steadily, and it has gone up."""
        return self.slope > limit.each_window and self.last - self.first > limit.at_least


def trend(values: Sequence[float]) -> Trend | None:
    """Of the last half of a series with one value a window; None where that is shorter than LEAST_WINDOWS."""
    late = list(values[len(values) // 2 :])
    if len(late) < LEAST_WINDOWS:
        return None
    slopes = [(late[j] - late[i]) / (j - i) for i, j in combinations(range(len(late)), 2)]
    quarter = max(1, len(late) // 4)
    return Trend(len(late), median(slopes), median(late[:quarter]), median(late[-quarter:]))
