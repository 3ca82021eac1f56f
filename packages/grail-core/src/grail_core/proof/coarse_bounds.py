"""Section 5: bounds that need no calibration and are always enforced. They find what was not computed at all.

Who ran no model, another model or another seed errs by a hundred times what honest numerics do, so these bounds are wide and
hold for every class and every size of model. A rollout with enough positions is held alone, and so is a group. Answers may
be shorter than that: then they are pooled (the single rollouts, all rollouts, and those too short for their margins to be
counted), and they are counted one by one: a few honest rollouts may stand out, one in sixteen not. A sketch error tells at one
position already (the largest of 938,400 honest ones was 0.24); margins are counted from COARSE_SHARE_POSITIONS positions on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grail_core.proof.comparison import Comparison, Statistic, lost_margins, shortened
from grail_core.protocol.constants import (
    COARSE_ERROR_BOUND,
    COARSE_ERROR_POSITIONS,
    COARSE_LOGPROB_BOUND,
    COARSE_MARGIN,
    COARSE_MARGIN_POSITIONS,
    COARSE_MARGIN_ROLLOUT_POSITIONS,
    COARSE_MARGIN_SHARE,
    COARSE_POOLED_POSITIONS,
    COARSE_SHARE,
    COARSE_SHARE_LEAST,
    COARSE_SHARE_POSITIONS,
    POSITION_ERROR_WINSOR,
    ROLLOUTS_PER_PROBLEM,
)

Floats = npt.NDArray[np.float64]


def coarse_bounds(sample: Sequence[Comparison]) -> list[Statistic]:
    """All of them, of at least one rollout."""
    return [
        coarse_error(sample),
        coarse_error_share(sample),
        coarse_logprob(sample),
        coarse_margin(sample),
        coarse_margin_share(sample),
    ]


def coarse_error(sample: Sequence[Comparison]) -> Statistic:
    """The worst sketch error of a rollout, a group or a pool with at least 16 positions."""
    sets = _sets(sample, COARSE_ERROR_POSITIONS, COARSE_ERROR_POSITIONS)
    worst, eligible = _worst(sets, _Sums.of(sample, _position_squares(sample)), math.sqrt)
    detail = (
        f"worst RMS sketch error of {eligible} rollouts, groups and pools with at least {COARSE_ERROR_POSITIONS} positions"
        f"{worst.named}; sketches come from the window's checkpoint, run over these very tokens"
    )
    return _statistic("proof", "coarse_error", worst.value, COARSE_ERROR_BOUND, detail, worst)


def coarse_error_share(sample: Sequence[Comparison]) -> Statistic:
    """The share of rollouts, however short, whose own sketch error is that of no model."""
    over = (_Sums.of(sample, _position_squares(sample)).means > COARSE_ERROR_BOUND**2).tolist()
    return _share("proof", "coarse_error_share", over, f"whose RMS sketch error is above {COARSE_ERROR_BOUND:g}")


def coarse_margin(sample: Sequence[Comparison]) -> Statistic:
    """The largest share of margins above 1 in a rollout or pool with at least 16 positions, or a group with 64.

    A rollout that was drawn with another seed stands out alone; in a group it is hidden behind honest ones.
    """
    sets = _sets(sample, COARSE_MARGIN_ROLLOUT_POSITIONS, COARSE_MARGIN_POSITIONS)
    worst, eligible = _worst(sets, _Sums.of(sample, _clearly_lost(sample)), lambda mean: mean)
    detail = (
        f"largest share of margins above {COARSE_MARGIN:g} in {eligible} rollouts, groups and pools with at least "
        f"{COARSE_MARGIN_ROLLOUT_POSITIONS}, {COARSE_MARGIN_POSITIONS} and {COARSE_POOLED_POSITIONS} positions{worst.named}; "
        "every token is drawn from the window's policy with the rollout's own seed"
    )
    return _statistic("sampling", "coarse_margin", worst.value, COARSE_MARGIN_SHARE, detail, worst)


def coarse_margin_share(sample: Sequence[Comparison]) -> Statistic:
    """The share of rollouts with at least 4 positions of which too many have a margin above 1."""
    shares = _Sums.of(sample, _clearly_lost(sample)).means.tolist()
    over = [share > COARSE_MARGIN_SHARE for share, one in zip(shares, sample, strict=True) if _counts(one)]
    counted = f"with at least {COARSE_SHARE_POSITIONS} positions"
    what = f"{counted} of which over {COARSE_MARGIN_SHARE:.0%} of the margins are above {COARSE_MARGIN:g}"
    return _share("sampling", "coarse_margin_share", over, what)


def coarse_logprob(sample: Sequence[Comparison]) -> Statistic:
    """Mean absolute difference of log-probabilities over all positions, nats; infinite where one is no number."""
    distances = np.abs(np.concatenate([one.logprob_errors for one in sample]), dtype=np.float64)
    mean = float(distances.mean()) if np.isfinite(distances).all() else math.inf
    detail = (
        f"mean absolute log-probability difference of all {len(distances)} positions, nats; claims are the unwarped "
        "model's, and all of them finite"
    )
    return _statistic("logprob", "coarse_logprob", mean, COARSE_LOGPROB_BOUND, detail)


@dataclass(frozen=True)
class _Set:
    """Rollouts that are judged together: one, those of a group, or a pool, which has a name."""

    members: Sequence[int]  # places in the sample
    least: int  # positions without which nothing is said
    group: int | None = None
    rollout: int | None = None
    pool: str = ""
    value: float = 0.0

    @property
    def named(self) -> str:
        return f" (here: {self.pool} together)" if self.pool else ""


_NOTHING = _Set((), 0)


def _sets(sample: Sequence[Comparison], of_rollout: int, of_group: int) -> Iterator[_Set]:
    groups: dict[int, list[int]] = {}
    for place, one in enumerate(sample):
        yield _Set([place], of_rollout, one.group, one.rollout)
        groups.setdefault(one.group, []).append(place)
    for group, members in groups.items():
        if len(members) > 1:
            yield _Set(members, of_group, group)
    singles = [place for place, one in enumerate(sample) if len(groups[one.group]) < ROLLOUTS_PER_PROBLEM]
    short = [place for place, one in enumerate(sample) if not _counts(one)]
    yield _Set(singles, COARSE_POOLED_POSITIONS, pool="single rollouts")
    yield _Set(short, COARSE_POOLED_POSITIONS, pool=f"rollouts of fewer than {COARSE_SHARE_POSITIONS} positions")
    yield _Set(range(len(sample)), COARSE_POOLED_POSITIONS, pool="all rollouts")


@dataclass(frozen=True)
class _Sums:
    """Values of positions, summed over each rollout of the sample."""

    sums: Floats
    lengths: npt.NDArray[np.int64]

    @property
    def means(self) -> Floats:
        return self.sums / self.lengths

    @classmethod
    def of(cls, sample: Sequence[Comparison], values: Floats) -> _Sums:
        """`values` of all positions, end to end."""
        lengths = np.array([len(one.margins) for one in sample])
        return cls(np.add.reduceat(values, np.cumsum(lengths) - lengths), lengths)


def _worst(sets: Iterator[_Set], values: _Sums, of_mean: Callable[[float], float]) -> tuple[_Set, int]:
    """The set with the largest mean over its positions, and how many sets had enough of them."""
    worst, eligible = _NOTHING, 0
    sums, lengths = values.sums.tolist(), values.lengths.tolist()
    for one in sets:
        count = sum(lengths[place] for place in one.members)
        if not one.members or count < one.least:
            continue
        eligible += 1
        value = of_mean(math.fsum(sums[place] for place in one.members) / count)
        if value > worst.value:
            worst = _Set(one.members, one.least, one.group, one.rollout, one.pool, value)
    return worst, eligible


def _share(check: str, name: str, over: Sequence[bool], what: str) -> Statistic:
    count = max(1, len(over))
    numerator, denominator = COARSE_SHARE
    threshold = max(numerator / denominator, (COARSE_SHARE_LEAST - 1) / count)
    detail = (
        f"share of {len(over)} rollouts {what}; "
        f"{COARSE_SHARE_LEAST} at least, and over {numerator} in {denominator}, are too many"
    )
    return _statistic(check, name, sum(over) / count, threshold, detail)


def _statistic(check: str, name: str, value: float, threshold: float, detail: str, where: _Set = _NOTHING) -> Statistic:
    return Statistic(check, name, shortened(value), shortened(threshold), True, detail, where.group, where.rollout)


def _counts(one: Comparison) -> bool:
    return len(one.margins) >= COARSE_SHARE_POSITIONS


def _position_squares(sample: Sequence[Comparison]) -> Floats:
    """Squared winsorised position errors, of all positions; a position without a sketch counts as winsorised."""
    squares = np.square(np.concatenate([one.errors for one in sample]), dtype=np.float64)
    means = np.add.reduce(squares, axis=1) / squares.shape[1]
    winsorised: Floats = np.fmin(means, POSITION_ERROR_WINSOR**2)  # fmin prefers the number to NaN
    return winsorised


def _clearly_lost(sample: Sequence[Comparison]) -> Floats:
    """1 where a margin is above COARSE_MARGIN, else 0, of all positions."""
    return (lost_margins(np.concatenate([one.margins for one in sample])) > COARSE_MARGIN).astype(np.float64)
