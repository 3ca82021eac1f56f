"""How many more groups fit before the deadline.

Exponential averages of what a group takes in each stage, and what packing and upload take, decide; the last `safety_blocks`
belong to the upload. What is in flight counts: it must still be judged and proved. A bad estimate heals by itself: every
observation moves it, and the first group of a run is tried alone. All seconds are those of the clock that the deadline is on,
the chain's: where that one stands still, work costs none.
"""

from __future__ import annotations

from dataclasses import dataclass

_WEIGHT = 0.4  # of the newest observation: two slow batches are enough to be believed, one is not
_UPLOAD_FACTOR = 2.0  # an upload may take twice its average before the reserve is touched


@dataclass
class TimeBudget:
    """Seconds of chain time, from experience. `slots`: groups that are proved at the same time."""

    group_seconds: float | None = None  # generation: a batch's, by its groups
    finish_seconds: float = 1.0  # pack, own checks and upload
    first_seconds: float = 0.0  # generation: until a batch's first group is whole, however small the batch
    judge_seconds: float | None = None
    prove_seconds: float | None = None
    slots: int = 1

    def observe_groups(self, groups: int, seconds: float) -> None:
        """A batch that was generated to its end."""
        if groups > 0:
            self.group_seconds = _average(self.group_seconds, seconds / groups)

    def observe_first(self, seconds: float) -> None:
        self.first_seconds = _average(self.first_seconds or None, seconds)

    def observe_judged(self, seconds: float) -> None:
        self.judge_seconds = _average(self.judge_seconds, seconds)

    def observe_proved(self, seconds: float) -> None:
        self.prove_seconds = _average(self.prove_seconds, seconds)

    def observe_finish(self, seconds: float) -> None:
        self.finish_seconds = _average(self.finish_seconds, seconds)

    @property
    def reserve(self) -> float:
        """Seconds to keep for packing and uploading."""
        return _UPLOAD_FACTOR * self.finish_seconds

    @property
    def known(self) -> bool:
        """Whether a group has been through every stage."""
        return None not in (self.group_seconds, self.judge_seconds, self.prove_seconds)

    def drain_seconds(self, groups: int) -> float:
        """Until so many generated groups are judged and proved, one behind the other; what is not known takes none."""
        judge, prove = self.judge_seconds or 0.0, self.prove_seconds or 0.0
        return judge + prove + (groups - 1) * max(judge, prove / self.slots) if groups > 0 else 0.0

    def groups_that_fit(self, seconds_left: float, at_most: int, in_flight: int = 0) -> int:
        """How many groups to start now, so that the last one is proved before the reserve.

        Args:
            seconds_left: until the upload begins. in_flight: groups that are generated, and not judged and proved yet.

        Returns:
            While not everything is known: 1 with nothing in flight and time left, else 0.
        """
        usable = seconds_left - self.reserve
        if usable <= 0 or at_most <= 0:
            return 0
        if not self.known:
            return 1 if in_flight == 0 else 0
        before = self.drain_seconds(in_flight)
        for count in range(at_most, 0, -1):
            generated = max(count * (self.group_seconds or 0.0), self.first_seconds)
            if max(generated, before) + self.drain_seconds(count) <= usable:
                return count
        return 0

    def too_late_to_draw(self, seconds_left: float, waiting: int) -> bool:
        """Whether a group that was whole now, behind so many that wait, would not be proved before the reserve any more."""
        return seconds_left - self.reserve <= self.drain_seconds(waiting + 1)


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new
