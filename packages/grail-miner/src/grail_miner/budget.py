"""How many more groups fit before the deadline.

Exponential averages of what a group and an upload took decide; the last `safety_blocks` belong to the upload. A bad
estimate heals by itself: every observation moves it, and the first batch of a run is always tried alone. All seconds are
those of the clock that the deadline is on, the chain's: where that one stands still, work costs none.
"""

from __future__ import annotations

from dataclasses import dataclass

_WEIGHT = 0.4  # of the newest observation: two slow batches are enough to be believed, one is not
_UPLOAD_FACTOR = 2.0  # an upload may take twice its average before the reserve is touched


@dataclass
class TimeBudget:
    """Seconds of chain time that a group and an upload take, from experience."""

    group_seconds: float | None = None
    finish_seconds: float = 1.0  # pack and upload

    def observe_groups(self, groups: int, seconds: float) -> None:
        if groups > 0:
            self.group_seconds = _average(self.group_seconds, seconds / groups)

    def observe_finish(self, seconds: float) -> None:
        self.finish_seconds = _average(self.finish_seconds, seconds)

    @property
    def reserve(self) -> float:
        """Seconds to keep for packing and uploading."""
        return _UPLOAD_FACTOR * self.finish_seconds

    def groups_that_fit(self, seconds_left: float, at_most: int) -> int:
        """How many groups to start now; 1 while nothing is known and any time is left."""
        usable = seconds_left - self.reserve
        if usable <= 0 or at_most <= 0:
            return 0
        if self.group_seconds is None:
            return 1
        if self.group_seconds == 0:
            return at_most
        return min(at_most, int(usable / self.group_seconds))


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new
