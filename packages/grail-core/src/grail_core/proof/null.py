"""The null of one pooled statistic: what honest work's values look like, and the bound on their mean that follows from it.

It holds the cumulant-generating function K(λ) = ln E exp(λ (v − low)) of the value v of one unit (a rollout, in most cases),
the worst of all calibration conditions, with a share of unseen extreme ones mixed in. By Chernoff's bound the mean of n
independent units exceeds low + min_λ (K(λ) + ln(1/α)/n) / λ with probability at most α, whatever the shape of the tail. What a
null that somebody wrote down may say is bounded by the number of rollouts that it claims to come from (`unfounded`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

UNSEEN_EXTREMES: Final = 3.0
"""Rollouts at the upper clip mixed into every calibration: with none among N seen, a rate of 3/N is excluded at 95 %."""

# λ times the width of the range, from where the bound is all variance to where it is all extremes.
_GRID = np.geomspace(0.02, 120.0, 48)

_MOST_SCALED = 1e4  # of λ times the width: beyond, exp(λ) says only where the largest value lies
_ROUNDING = 1e-5  # relative; numbers of a table have seven digits, and slopes are differences of two


@dataclass(frozen=True)
class Null:
    """Honest distribution of one statistic's values, clipped to [low, high].

    `dead_zone` is the calibration's own error: how far the worst condition's mean lies above the average condition's.
    """

    low: float
    high: float
    mean: float
    worst_mean: float
    dead_zone: float
    grid: tuple[float, ...]  # λ, ascending
    cumulants: tuple[float, ...]  # K(λ) of v − low

    def threshold(self, units: float, alpha: float, *, dead_zones: float = 1.0) -> float:
        """The mean over so many units that honest work exceeds with probability at most `alpha`."""
        charge = math.log(1 / alpha) / units
        bound = min((k + charge) / at for at, k in zip(self.grid, self.cumulants, strict=True))
        return min(self.low + bound, self.high) + dead_zones * self.dead_zone

    def most_extreme(self, units: int, alpha: float, *, dead_zones: float = 1.0) -> int:
        """How many of so many independent units honest work has at the upper clip, or fewer, but with probability `alpha`.

        One lies there with probability at most min_λ exp(K(λ) − λ (high − low)), again by Chernoff's bound, with the dead zone
        off the way; how many do is binomial.
        """
        way = self.high - self.low - dead_zones * self.dead_zone
        share = math.exp(min(0.0, *(k - at * way for at, k in zip(self.grid, self.cumulants, strict=True))))
        if share >= 1:
            return units
        above = 0.0
        for count in range(units, 0, -1):
            ways = math.lgamma(units + 1) - math.lgamma(count + 1) - math.lgamma(units - count + 1)
            above += math.exp(ways + count * math.log(share) + (units - count) * math.log1p(-share))
            if above > alpha:
                return count
        return 0

    @classmethod
    def fit(cls, values: Sequence[npt.NDArray[np.float64]], low: float, high: float, *, rollouts: int | None = None) -> Null:
        """From one array of values per calibration condition (checkpoint and way of measuring).

        Args:
            rollouts: how many different ones there are; None: no two conditions share one.

        Raises:
            ValueError: a value that is not finite: honest work has none, and as the worst value it would widen the bound.
        """
        if not all(np.isfinite(v).all() for v in values):
            raise ValueError("a null is fitted to finite values")
        above = [np.clip(v, low, high) - low for v in values]
        width = high - low
        # One rollout measured in five ways is one rollout in which no extreme was seen: conditions never add to the count.
        total = sum(map(len, above)) if rollouts is None else rollouts
        unseen = unseen_share(total)
        means = [float(v.mean()) for v in above]
        cumulants = []
        for scaled in _GRID:
            worst = max(math.log1p(float(np.expm1(v * (scaled / width)).mean())) for v in above)
            cumulants.append(_mixed(worst, float(scaled), unseen))
        average = math.fsum(means) / len(means)
        return cls(
            low=low,
            high=high,
            mean=_short(low + average),
            worst_mean=_short(low + max(means)),
            dead_zone=_short(max(means) - average),
            grid=tuple(_short(scaled / width) for scaled in _GRID),
            cumulants=tuple(_short(k) for k in cumulants),
        )

    def unfounded(self, rollouts: int) -> tuple[str, str] | None:
        """The first field that so many rollouts, whatever they were, cannot have given, and why; None where all can be true."""
        width, slack = self.high - self.low, _ROUNDING * (self.high - self.low)
        if not self.low <= self.mean <= self.high:
            return "mean", f"{self.mean} is outside {self.low} … {self.high}"
        if not self.mean - slack <= self.worst_mean <= self.high:
            return "worst_mean", f"{self.worst_mean} is no mean of the worst condition where the average one's is {self.mean}"
        if not 0 <= self.dead_zone <= self.worst_mean - self.mean + slack:
            return "dead_zone", f"{self.dead_zone} is not between 0 and worst_mean − mean"
        if any(later <= earlier for earlier, later in zip((0.0, *self.grid), self.grid, strict=False)):
            return "grid", "values of λ are positive and ascend"
        if self.grid[-1] * width > _MOST_SCALED:
            return "grid", f"λ = {self.grid[-1]:g} is above {_MOST_SCALED / width:g}"
        if len(self.grid) != len(self.cumulants):
            return "cumulants", f"{len(self.cumulants)} values for {len(self.grid)} of λ"
        worst, unseen, slope = self.worst_mean - self.low, unseen_share(rollouts), 0.0
        before = (0.0, 0.0)
        for at, k in zip(self.grid, self.cumulants, strict=True):
            # Of all distributions on the range with this mean, a constant has the least K, and one at both ends the largest.
            least = _mixed(worst * at, at * width, unseen)
            most = _mixed(_of_two_points(worst / width, at * width), at * width, unseen)
            if not least * (1 - _ROUNDING) <= k <= most * (1 + _ROUNDING):
                return "cumulants", f"K({at:g}) = {k:g} is not between {least:g} and {most:g}, where the other fields put it"
            here = (k - before[1]) / (at - before[0])
            if here < slope * (1 - _ROUNDING):
                return "cumulants", f"K is not convex at λ = {at:g}, as that of every distribution is"
            slope, before = here, (at, k)
        return None


def unseen_share(rollouts: float) -> float:
    """How much of a null is put at the upper clip where so many rollouts were seen."""
    return UNSEEN_EXTREMES / (rollouts + UNSEEN_EXTREMES)


def _of_two_points(share: float, most: float) -> float:
    """K where this share is at the upper end, whose own K is `most`, and all else at the lower end."""
    if not 0 < share < 1:
        return most if share > 0 else 0.0
    return float(np.logaddexp(math.log1p(-share), math.log(share) + most))


def _mixed(k: float, most: float, unseen: float) -> float:
    """K of a mixture with a share of unseen values at the upper end, whose own K is `most`."""
    return float(np.logaddexp(math.log1p(-unseen) + min(k, most), math.log(unseen) + most))


def _short(value: float) -> float:
    return float(f"{value:.7g}")
