"""Sections 5 to 7: sampled rollouts → statistics with thresholds of stated error.

The coarse bounds (`coarse_bounds`) need no calibration and are always enforced. The pooled statistics and the named
alternatives are tests of fixed sample size on rollout-level values (the rollout is the unit of independence) against the
calibration of the pair of numerics classes; without one they only report. Half of α is split over either kind. Numbers are
rounded to six digits, so the same evidence gives the same text on any machine. What is no number counts as the worst value
there is, so leaving one out, or putting one in, helps nobody. Nothing here remembers a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grail_core.proof.alternative_test import Floats, Sums, project, sums
from grail_core.proof.calibration import STATISTICS, PairCalibration, Shape
from grail_core.proof.coarse_bounds import coarse_bounds
from grail_core.proof.comparison import CHECKS, Comparison, Float32Comparison, Statistic, shortened
from grail_core.protocol.constants import FALSE_REJECT_RATE

# A clip bounds what one odd honest rollout can do and costs nothing against cheats, whose values lie above it throughout.
# Chosen on 14 checkpoints of a small trained model (0.3 nats a token), at 2e-7 and 46 rollouts; thresholds follow as: energy
# 0.008 RMS (clip 0.02; 0.010 with clip 0.03), margins 0.08 a rollout (scale 0.2; 0.15 with scale 0.05).
ENERGY_CLIP = 0.02**2
"""A rollout's mean squared sketch difference counts up to this; honest rollouts reach 0.013² at most."""
MARGIN_SCALE = 0.2
"""A margin counts in full from here on; honest near ties lose by less."""
MARGIN_CLIP_PER_ROLLOUT = 1.0
LOGPROB_CLIP = 0.1  # nats
LOGPROB_TAIL = 0.25  # nats; the largest of 360,000 honest differences was 0.14
LOGPROB_TAIL_CLIP = 0.25  # of a rollout's informative positions


def evaluate(
    sample: Sequence[Comparison],
    pair: PairCalibration | None,
    *,
    shape: Shape | None = None,
    alpha: float = FALSE_REJECT_RATE,
) -> list[Statistic]:
    """All statistics of one miner's sample: its own, then one of every alternative that was measured.

    Args:
        sample: the sampled rollouts (at least one).
        pair: calibration of (the miner's class, the validator's class); None reports without enforcing.
        shape: the model's, so that a table made on smaller models is not enforced.
        alpha: false-reject rate of everything enforced here together.
    """
    return [
        *own_statistics(sample, pair, shape=shape, alpha=alpha),
        *alternative_statistics(tested_in(sample), pair, shape=shape, alpha=alpha),
    ]


def own_statistics(
    sample: Sequence[Comparison],
    pair: PairCalibration | None,
    *,
    margins: PairCalibration | Literal["as the proof"] | None = "as the proof",
    shape: Shape | None = None,
    alpha: float = FALSE_REJECT_RATE,
) -> list[Statistic]:
    """The coarse bounds and the pooled statistics, in the order of the checks: proof, logprob, sampling. See `evaluate`.

    Args:
        pair: calibration of what computed the sketches and log-probabilities. margins: of what drew the tokens.
    """
    if not sample:
        return []
    share, _ = shares_of(alpha, 0)
    pairs = dict.fromkeys(STATISTICS, pair) | {"margin": pair if margins == "as the proof" else margins}
    pooled = {
        name: _pooled(name, sample, of_class, of_class is not None and of_class.covers(shape), share)
        for name, of_class in pairs.items()
    }
    statistics = [*coarse_bounds(sample), *pooled.values()]
    return [statistic for check in CHECKS for statistic in statistics if statistic.check == check]


def alternative_statistics(
    tested: Sequence[Float32Comparison],
    pair: PairCalibration | None,
    *,
    shape: Shape | None = None,
    alpha: float = FALSE_REJECT_RATE,
) -> list[Statistic]:
    """One statistic of check `proof` for every alternative measured on any of these rollouts, by name. See `evaluate`."""
    enforced = pair is not None and pair.covers(shape)
    names = alternatives_in(tested)
    _, share = shares_of(alpha, len(names))
    return [_alternative(name, tested, enforced, share) for name in names]


def shares_of(alpha: float, alternatives: int) -> tuple[float, float]:
    """α of one pooled statistic, and of one alternative where there are so many: half of it all goes to either kind.

    A validator measures alternatives only for a file that the pooled statistics let pass, so theirs must not depend on it.
    """
    return alpha / 2 / len(STATISTICS), alpha / 2 / max(1, alternatives)


def _energies(sample: Sequence[Comparison]) -> Floats:
    """Mean squared sketch difference of a coordinate; infinite where a measured state has no sketch."""
    squares = np.square(np.concatenate([one.errors for one in sample]), dtype=np.float64)
    energies = _sums_of(sample, np.add.reduce(squares, axis=1)) / [one.errors.size for one in sample]
    return _worst_if_not_finite(energies)


def _lost_positions(sample: Sequence[Comparison]) -> Floats:
    """How many positions lost clearly: Σ min(margin / 0.2, 1). A sum, so one wrong token counts alike in any length."""
    return _sums_of(sample, np.minimum(np.concatenate([one.lost for one in sample]) / MARGIN_SCALE, 1.0))


def _logprob_means(sample: Sequence[Comparison]) -> Floats:
    """Mean absolute difference of log-probabilities over the informative positions, nats."""
    return _informative_mean(sample, lambda distances: distances)


def _logprob_tails(sample: Sequence[Comparison]) -> Floats:
    """Share of the informative positions whose log-probabilities differ by more than LOGPROB_TAIL."""
    return _informative_mean(sample, lambda distances: (distances > LOGPROB_TAIL).astype(np.float64))


def _informative_mean(sample: Sequence[Comparison], value: Callable[[Floats], Floats]) -> Floats:
    """Σ w v / max(Σ w, 1) with w = 1 − p: rollouts whose every token is sure weigh nothing. Infinite where a number is not."""
    distances = np.abs(np.concatenate([one.logprob_errors for one in sample]), dtype=np.float64)
    weights = np.concatenate([one.informative for one in sample]).astype(np.float64)
    with np.errstate(invalid="ignore"):  # what is no number becomes the worst value below
        total = _sums_of(sample, np.where(np.isfinite(distances), value(distances) * weights, np.nan))
        return _worst_if_not_finite(total / np.maximum(_sums_of(sample, weights), 1.0))


def _worst_if_not_finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.inf)


def _sums_of(sample: Sequence[Comparison], values: Floats) -> Floats:
    """Sums over each rollout's positions of values laid end to end."""
    starts = np.cumsum([0, *(len(one.margins) for one in sample[:-1])])
    sums_: Floats = np.add.reduceat(values, starts)
    return sums_


@dataclass(frozen=True)
class _PooledStatistic:
    check: str
    clip: float
    values: Callable[[Sequence[Comparison]], Floats]
    what: str


_POOLED: dict[str, _PooledStatistic] = {
    "energy": _PooledStatistic("proof", ENERGY_CLIP, _energies, "mean squared sketch difference a coordinate"),
    "margin": _PooledStatistic("sampling", MARGIN_CLIP_PER_ROLLOUT, _lost_positions, "clearly lost positions a rollout"),
    "logprob": _PooledStatistic(
        "logprob", LOGPROB_CLIP, _logprob_means, "mean absolute log-probability difference where it is informative, nats"
    ),
    "logprob_tail": _PooledStatistic(
        "logprob", LOGPROB_TAIL_CLIP, _logprob_tails, f"share of informative positions off by over {LOGPROB_TAIL:g} nats"
    ),
}


def rollout_values(name: str, sample: Sequence[Comparison]) -> Floats:
    """One value per rollout under a pooled statistic, unclipped; what calibration fits. Infinite where a number is missing."""
    return _POOLED[name].values(sample)


def tested_in(sample: Sequence[Comparison]) -> list[Float32Comparison]:
    """The rollouts on which alternatives were measured."""
    return [one.in_float32 for one in sample if one.in_float32]


def alternatives_in(tested: Sequence[Float32Comparison]) -> list[str]:
    """Names of the alternatives that were measured on any rollout."""
    return sorted({name for one in tested for name in one.deltas})


def alternative_sums(name: str, tested: Sequence[Float32Comparison]) -> Sums:
    """What the test of one alternative takes, of the rollouts on which it was measured."""
    of_name = [one for one in tested if name in one.deltas]
    return sums([one.errors for one in of_name], [one.deltas[name] for one in of_name], [one.drift for one in of_name])


def clip_of(name: str) -> float:
    return _POOLED[name].clip


def _pooled(name: str, sample: Sequence[Comparison], pair: PairCalibration | None, enforced: bool, alpha: float) -> Statistic:
    statistic = _POOLED[name]
    values = np.minimum(statistic.values(sample), statistic.clip)
    count = len(values)
    threshold = None
    if pair is not None:
        null = pair.nulls[name]
        if name == "margin":
            # The honest value of a sum grows with the positions opened; calibration rollouts had `pair.positions` on average.
            weight = math.fsum(max(1.0, len(one.margins) / pair.positions) for one in sample)
            threshold = shortened(null.threshold(weight, alpha) * weight / count)
        else:
            threshold = shortened(null.threshold(count, alpha))
    detail = f"{statistic.what}, {count} rollouts"
    return Statistic(statistic.check, name, shortened(math.fsum(values) / count), threshold, enforced, detail)


def _alternative(name: str, tested: Sequence[Float32Comparison], enforced: bool, alpha: float) -> Statistic:
    taken = alternative_sums(name, tested)
    found = project(taken, alpha)
    detail = (
        f"log-evidence that {name} was run, {len(taken.inner)} rollouts; on the way from the current model (0) to it (1): "
        f"{found.t:.3g}, RMS distance {found.delta_rms:.3g}, power {found.power:.2f}"
    )
    threshold = shortened(math.log(1 / alpha))
    return Statistic("proof", name, shortened(found.log_evidence), threshold, enforced and found.testable, detail)
