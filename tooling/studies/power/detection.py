"""From observations to error rates: how often a test rejects a sample of n rollouts, and the n at which it rejects 99 %.

The unit is the rollout. Samples are drawn with replacement from the rollouts of a condition, so figures for more rollouts
than were made are extrapolations, and are marked as such. All statistics and thresholds are `grail_core.proof.statistics`'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grail_core.proof.alternative_test import Sums, log_evidence, project
from grail_core.proof.calibration import STATISTICS, Null, PairCalibration, Shape
from grail_core.proof.coarse_bounds import coarse_error, coarse_margin
from grail_core.proof.comparison import AlternativeSketches, Comparison, compare
from grail_core.proof.statistics import (
    alternative_sums,
    alternatives_in,
    clip_of,
    evaluate,
    rollout_values,
    shares_of,
    tested_in,
)
from grail_core.protocol.constants import CHECK_ALL_BELOW, FALSE_REJECT_RATE, ROLLOUTS_PER_PROBLEM
from tooling.adversaries.deviations.observation import Observation

WANTED_POWER = 0.99
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_DRAWS = 400
_MAX_DRAWN = 800_000  # rollouts of all draws of one size together

Rejects = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
"""Indices of rollouts [draws, n] → whether each draw is rejected."""


@dataclass(frozen=True)
class Detection:
    """How one test sees one condition. `rollouts` and `tokens` are None where no size up to 32,768 rollouts suffices.

    `window_power` is the share of samples of 64 rollouts that it rejects.
    """

    statistic: str
    rollouts: int | None
    tokens: int | None  # positions that the test looks at, of that many rollouts
    extrapolated: bool
    window_power: float


def comparisons(observations: Sequence[Observation]) -> list[Comparison]:
    """What the project's statistics take."""
    return [
        compare(
            one.group,
            one.rollout,
            claimed_sketches=one.claimed,
            claimed_logprobs=one.claimed_logprob,
            z=one.z,
            logprobs=one.logprob,
            margins=one.margin,
            others=_others(one),
        )
        for one in observations
    ]


def _others(one: Observation) -> AlternativeSketches | None:
    if not one.alternatives:
        return None
    return AlternativeSketches(one.other_claimed, one.alternatives, np.searchsorted(one.other_positions, one.positions))


def fit(conditions: Sequence[Sequence[Comparison]], shape: Shape, names: tuple[str, str]) -> PairCalibration:
    """Calibration from honest rollouts, one sequence per condition.

    The study judges one checkpoint against drift measured on that checkpoint: `checkpoints` says 1, and such a table would
    only report on a network. Thresholds are computed in the same way whether enforced or not.
    """
    rollouts = sum(map(len, conditions))
    tokens = sum(len(one.margins) for condition in conditions for one in condition)
    nulls = {
        name: Null.fit([rollout_values(name, condition) for condition in conditions], clip_of(name)) for name in STATISTICS
    }
    return PairCalibration(
        miner=names[0],
        validator=names[1],
        tokens=tokens,
        rollouts=rollouts,
        checkpoints=1,
        positions=tokens / rollouts,
        largest=shape,
        nulls=nulls,
    )


def detections(observations: Sequence[Observation], pair: PairCalibration, seed: int = 1) -> list[Detection]:
    """Every statistic's view of one condition."""
    sample = comparisons(observations)
    names = alternatives_in(tested_in(sample))
    alpha, other_alpha = shares_of(FALSE_REJECT_RATE, len(names))
    found = [_search(name, _pooled(name, sample, pair, alpha), sample, seed) for name in STATISTICS]
    found += [_search(name, _alternative(name, sample, other_alpha), sample, seed) for name in names]
    found.append(_coarse(sample, "coarse_error"))
    found.append(_coarse(sample, "coarse_margin"))
    return found


def power_curve(
    observations: Sequence[Observation], pair: PairCalibration, statistic: str, alphas: npt.NDArray[np.float64]
) -> list[float]:
    """Share of 64-rollout samples that a pooled statistic or an alternative rejects, by its false-reject rate."""
    sample = comparisons(observations)
    drawn = np.random.default_rng(2).integers(0, len(sample), (_DRAWS, CHECK_ALL_BELOW))
    tests = (_test(statistic, sample, pair, float(alpha)) for alpha in alphas)
    return [float(test(drawn).mean()) for test in tests]


def interval_of_power(observations: Sequence[Observation], pair: PairCalibration) -> dict[str, float]:
    """Power of one window of 64 under a table's statistics and the alternatives, α split as a validator splits it.

    `low` and `high` are the 2.5 and 97.5 percentiles over resampled pools of rollouts: the error of having seen so few.
    """
    sample = comparisons(observations)
    names = alternatives_in(tested_in(sample))
    alpha, other_alpha = shares_of(FALSE_REJECT_RATE, len(names))
    tests = [_pooled(name, sample, pair, alpha) for name in STATISTICS]
    tests += [_alternative(name, sample, other_alpha) for name in names]
    draws = np.random.default_rng(3)

    def power(pool: npt.NDArray[np.int64]) -> float:
        drawn = pool[draws.integers(0, len(pool), (100, CHECK_ALL_BELOW))]
        return float(np.logical_or.reduce([test(drawn) for test in tests]).mean())

    pools = [power(draws.integers(0, len(sample), len(sample))) for _ in range(60)]
    low, high = np.percentile(pools, [2.5, 97.5])
    return {"value": power(np.arange(len(sample))), "low": float(low), "high": float(high)}


def projection(name: str, sample: Sequence[Comparison]) -> dict[str, float]:
    """Where a condition lies between the current model (0) and an alternative (1), and its windows of 64 that are rejected.

    `standard_error` is t's with the rollout as the unit, `by_group` with the group: more where rollouts of a group agree.
    """
    found = alternative_sums(name, tested_in(sample))
    t = float(found.inner.sum() / found.squares.sum())
    left = found.inner - t * found.squares
    groups = left[: len(left) - len(left) % ROLLOUTS_PER_PROBLEM].reshape(-1, ROLLOUTS_PER_PROBLEM).sum(axis=1)
    windows = np.arange(len(left) - len(left) % CHECK_ALL_BELOW).reshape(-1, CHECK_ALL_BELOW)
    _, alpha = shares_of(FALSE_REJECT_RATE, len(alternatives_in(tested_in(sample))))
    whole = project(found.of(np.arange(min(len(left), CHECK_ALL_BELOW))), alpha)
    return {
        "t": t,
        "standard_error": float(np.sqrt(np.square(left).sum()) / found.squares.sum()),
        "standard_error_by_group": float(np.sqrt(np.square(groups).sum()) / found.squares.sum()),
        "delta_rms": whole.delta_rms,
        "predicted_power": whole.power,
        "windows": len(windows),
        "rejected": int(_alternative(name, sample, alpha)(windows).sum()),
    }


def false_rejects(sample: Sequence[Comparison], pair: PairCalibration) -> tuple[int, int, dict[str, int]]:
    """Windows of 64 consecutive honest rollouts: how many there are, how many any test rejects, and which tests did."""
    windows = rejected = 0
    by: dict[str, int] = {}
    for start in range(0, len(sample) - CHECK_ALL_BELOW + 1, CHECK_ALL_BELOW):
        windows += 1
        found = evaluate(sample[start : start + CHECK_ALL_BELOW], pair)
        against = [s.name for s in found if s.threshold is not None and s.value > s.threshold]
        rejected += bool(against)
        for name in against:
            by[name] = by.get(name, 0) + 1
    return windows, rejected, by


def _test(name: str, sample: Sequence[Comparison], pair: PairCalibration, alpha: float) -> Rejects:
    return _pooled(name, sample, pair, alpha) if name in STATISTICS else _alternative(name, sample, alpha)


def _pooled(name: str, sample: Sequence[Comparison], pair: PairCalibration, alpha: float) -> Rejects:
    values = np.minimum(rollout_values(name, sample), clip_of(name))
    sizes = np.maximum(1.0, np.array([len(one.margins) for one in sample]) / pair.positions)
    null = pair.nulls[name]

    def rejects(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        means = values[drawn].mean(axis=1)
        n = drawn.shape[1]
        if name != "margin":
            return np.asarray(means > null.threshold(n, alpha))
        weight = float(sizes[drawn].sum(axis=1).mean())  # it hardly differs between draws
        return np.asarray(means > null.threshold(weight, alpha) * weight / n)

    return rejects


def _alternative(name: str, sample: Sequence[Comparison], alpha: float) -> Rejects:
    found = alternative_sums(name, tested_in(sample))

    def reject(rollouts: Sums) -> bool:
        # Evidence first: whether the alternative is testable takes longer to say, and seldom matters.
        return log_evidence(rollouts) > math.log(1 / alpha) and project(rollouts, alpha).testable

    def rejects(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.array([reject(found.of(row)) for row in drawn])

    return rejects


def _search(name: str, rejects: Rejects, sample: Sequence[Comparison], seed: int) -> Detection:
    draws = np.random.default_rng(seed)

    def power(n: int) -> float:
        count = max(20, min(_DRAWS, _MAX_DRAWN // n))
        return float(rejects(draws.integers(0, len(sample), (count, n))).mean())

    window = power(CHECK_ALL_BELOW)
    below, found = 0, None
    for n in _SIZES:
        if power(n) >= WANTED_POWER:
            found = n
            break
        below = n
    if found is None:
        return Detection(name, None, None, False, window)
    while found - below > max(1, below // 16):
        middle = (found + below) // 2
        if power(middle) >= WANTED_POWER:
            found = middle
        else:
            below = middle
    return Detection(name, found, math.ceil(found * _positions(name, sample)), found > len(sample), window)


def _positions(name: str, sample: Sequence[Comparison]) -> float:
    """Mean completion positions of a rollout that a statistic looks at."""
    if name in STATISTICS:
        return float(np.mean([len(one.margins) for one in sample]))
    return float(np.mean([len(one.in_float32.errors) for one in sample if one.in_float32]))


def _coarse(sample: Sequence[Comparison], name: str) -> Detection:
    """The coarse bounds look at single rollouts and whole groups; the least set that they reject 99 % of is told."""
    test = coarse_error if name == "coarse_error" else coarse_margin
    singles = [test([one]) for one in sample]
    groups = [test(sample[i : i + ROLLOUTS_PER_PROBLEM]) for i in range(0, len(sample), ROLLOUTS_PER_PROBLEM)]
    windows = [test(sample[i : i + CHECK_ALL_BELOW]) for i in range(0, len(sample), CHECK_ALL_BELOW)]
    positions = float(np.mean([len(one.margins) for one in sample]))
    share = float(np.mean([s.rejects for s in windows]))
    for size, found in ((1, singles), (ROLLOUTS_PER_PROBLEM, groups), (CHECK_ALL_BELOW, windows)):
        if np.mean([s.rejects for s in found]) >= WANTED_POWER:
            return Detection(name, size, math.ceil(size * positions), False, share)
    return Detection(name, None, None, False, share)
