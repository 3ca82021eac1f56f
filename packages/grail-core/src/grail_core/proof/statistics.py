"""Sections 5 to 7: sampled rollouts → statistics with thresholds of stated error.

Two coarse bounds need no calibration and are always enforced. The pooled statistics and the named alternatives are tests of
fixed sample size on rollout-level values (the rollout is the unit of independence) against the calibration of the pair of
numerics classes; without one they only report. Half of α is split over either kind. Numbers are rounded to six digits,
so the same evidence gives the same text on any machine. Nothing here remembers a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grail_core.proof.alternative_test import REFERENCE, Floats, Sums, project, sums
from grail_core.proof.calibration import STATISTICS, PairCalibration, Shape
from grail_core.proof.sketches import differences
from grail_core.protocol.constants import (
    COARSE_ERROR_BOUND,
    COARSE_ERROR_POSITIONS,
    COARSE_MARGIN,
    COARSE_MARGIN_POSITIONS,
    COARSE_MARGIN_ROLLOUT_POSITIONS,
    COARSE_MARGIN_SHARE,
    FALSE_REJECT_RATE,
    POSITION_ERROR_WINSOR,
)

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


@dataclass(frozen=True)
class AlternativeSketches:
    """One rollout under other weights, at m completion positions with the k challenged ones among them."""

    claimed: npt.NDArray[np.int16]  # [m, 4] sketch words
    z: Mapping[str, npt.NDArray[np.float32]]  # [m, 4] float32 z by name, the reference's among them
    challenged: npt.NDArray[np.intp]  # [k] which of the m they are


@dataclass(frozen=True)
class Float32Comparison:
    """One rollout against the current model computed in float32; what `projection.sums` takes."""

    errors: npt.NDArray[np.float32]  # [m, 4] claimed z minus the reference's
    deltas: Mapping[str, npt.NDArray[np.float32]]  # alternative → [m, 4], its z minus the reference's
    drift: npt.NDArray[np.float32]  # [k, 4] the validator's own z, in its own numerics, minus the reference's


@dataclass(frozen=True)
class Comparison:
    """One sampled rollout: claims against measurements at its k challenged positions."""

    group: int
    rollout: int
    errors: npt.NDArray[np.float32]  # [k, 4] claimed minus measured z; NaN where the measured state has no sketch
    logprob_errors: npt.NDArray[np.float32]  # [k] claimed minus measured, nats
    informative: npt.NDArray[np.float32]  # [k] 1 − p of the token as measured: where it is sure, any model's claim is right
    margins: npt.NDArray[np.float64]  # [k]
    in_float32: Float32Comparison | None = None  # None: the alternatives were not measured on this rollout


def compare(
    group: int,
    rollout: int,
    *,
    claimed_sketches: npt.NDArray[np.int16],
    claimed_logprobs: npt.NDArray[np.float32],
    z: npt.NDArray[np.float32],
    logprobs: npt.NDArray[np.float32],
    margins: npt.NDArray[np.floating],
    others: AlternativeSketches | None = None,
) -> Comparison:
    """All arrays but those of `others` at the challenged positions alone, in one order; sketches as `parse_sketches` gives."""
    measured = np.asarray(logprobs, dtype=np.float32)
    return Comparison(
        group=group,
        rollout=rollout,
        errors=differences(claimed_sketches, z),
        logprob_errors=np.asarray(claimed_logprobs, dtype=np.float32) - measured,
        informative=-np.expm1(np.minimum(measured, 0)),
        margins=np.asarray(margins, dtype=np.float64),
        in_float32=None if others is None else in_float32(others, z),
    )


def in_float32(others: AlternativeSketches, z: npt.NDArray[np.float32]) -> Float32Comparison:
    """What the test of alternatives takes. `z` [k, 4]: the validator's own sketches at the challenged positions."""
    reference = others.z[REFERENCE]
    deltas = {name: other - reference for name, other in others.z.items() if name != REFERENCE}
    return Float32Comparison(differences(others.claimed, reference), deltas, z - reference[others.challenged])


@dataclass(frozen=True)
class Statistic:
    """One number with its bound. It rejects when it is enforced and its value exceeds the threshold.

    `check` is the check of section 9 it belongs to; `threshold` is None where there is nothing to compare with.
    """

    check: str
    name: str
    value: float
    threshold: float | None
    enforced: bool
    detail: str
    group: int | None = None  # the set of rollouts it is about, where that is not the whole sample
    rollout: int | None = None

    @property
    def rejects(self) -> bool:
        return self.enforced and self.threshold is not None and self.value > self.threshold


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
    shape: Shape | None = None,
    alpha: float = FALSE_REJECT_RATE,
) -> list[Statistic]:
    """The coarse bounds and the pooled statistics, in the order of the checks: proof, logprob, sampling. See `evaluate`."""
    if not sample:
        return []
    enforced = pair is not None and pair.covers(shape)
    share, _ = shares_of(alpha, 0)
    pooled = {name: _pooled(name, sample, pair, enforced, share) for name in STATISTICS}
    logprob = (pooled["logprob"], pooled["logprob_tail"])
    return [coarse_error(sample), pooled["energy"], *logprob, coarse_margin(sample), pooled["margin"]]


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


def coarse_error(sample: Sequence[Comparison]) -> Statistic:
    """The worst error of a rollout, or of the rollouts of one group together, with at least 16 positions. Always enforced."""
    worst: tuple[float, int | None, int | None] = (0.0, None, None)
    sets: list[tuple[int, int | None, list[Comparison]]] = [(one.group, one.rollout, [one]) for one in sample]
    sets += [(group, None, members) for group, members in _by_group(sample).items() if len(members) > 1]
    squares = {id(one): _position_squares(one.errors) for one in sample}
    eligible = 0
    for group, rollout, members in sets:
        if sum(len(one.errors) for one in members) < COARSE_ERROR_POSITIONS:
            continue
        eligible += 1
        error = math.sqrt(float(np.concatenate([squares[id(one)] for one in members]).mean()))
        if error > worst[0]:
            worst = (error, group, rollout)
    return Statistic(
        "proof",
        "coarse_error",
        _short(worst[0]),
        COARSE_ERROR_BOUND,
        True,
        f"worst RMS sketch error of {eligible} rollouts and groups with at least {COARSE_ERROR_POSITIONS} positions",
        worst[1],
        worst[2],
    )


def coarse_margin(sample: Sequence[Comparison]) -> Statistic:
    """The largest share of margins above 1 in a rollout with at least 16 positions, or a group with 64. Always enforced.

    A rollout that was drawn with another seed stands out alone; in a group it is hidden behind honest ones.
    """
    sets: list[tuple[int, int | None, list[Comparison], int]] = [
        (one.group, one.rollout, [one], COARSE_MARGIN_ROLLOUT_POSITIONS) for one in sample
    ]
    sets += [(group, None, members, COARSE_MARGIN_POSITIONS) for group, members in _by_group(sample).items()]
    worst: tuple[float, int | None, int | None] = (0.0, None, None)
    over = {id(one): int((one.margins > COARSE_MARGIN).sum()) for one in sample}
    eligible = 0
    for group, rollout, members, least in sets:
        count = sum(len(one.margins) for one in members)
        if count < least:
            continue
        eligible += 1
        share = sum(over[id(one)] for one in members) / count
        if share > worst[0]:
            worst = (share, group, rollout)
    return Statistic(
        "sampling",
        "coarse_margin",
        _short(worst[0]),
        COARSE_MARGIN_SHARE,
        True,
        f"largest share of margins above {COARSE_MARGIN:g} in {eligible} rollouts and groups with at least "
        f"{COARSE_MARGIN_ROLLOUT_POSITIONS} and {COARSE_MARGIN_POSITIONS} positions",
        worst[1],
        worst[2],
    )


def _energies(sample: Sequence[Comparison]) -> Floats:
    """Mean squared sketch difference of a coordinate; 1 where a measured state has no sketch."""
    squares = np.square(np.concatenate([one.errors for one in sample]), dtype=np.float64)
    energies = _sums_of(sample, np.add.reduce(squares, axis=1)) / [one.errors.size for one in sample]
    return np.where(np.isfinite(energies), energies, 1.0)


def _lost_positions(sample: Sequence[Comparison]) -> Floats:
    """How many positions lost clearly: Σ min(margin / 0.2, 1). A sum, so one wrong token counts alike in any length."""
    return _sums_of(sample, np.minimum(np.concatenate([one.margins for one in sample]) / MARGIN_SCALE, 1.0))


def _logprob_means(sample: Sequence[Comparison]) -> Floats:
    """Mean absolute difference of log-probabilities over the informative positions, nats."""
    return _informative_mean(sample, lambda distances: distances)


def _logprob_tails(sample: Sequence[Comparison]) -> Floats:
    """Share of the informative positions whose log-probabilities differ by more than LOGPROB_TAIL."""
    return _informative_mean(sample, lambda distances: (distances > LOGPROB_TAIL).astype(np.float64))


def _informative_mean(sample: Sequence[Comparison], value: Callable[[Floats], Floats]) -> Floats:
    """Σ w v / max(Σ w, 1) with w = 1 − p: rollouts whose every token is sure weigh nothing. 1 where a number is not finite."""
    distances = np.abs(np.concatenate([one.logprob_errors for one in sample]), dtype=np.float64)
    weights = np.concatenate([one.informative for one in sample]).astype(np.float64)
    total = _sums_of(sample, np.where(np.isfinite(distances), value(distances) * weights, np.nan))
    means = total / np.maximum(_sums_of(sample, weights), 1.0)
    return np.where(np.isfinite(means), means, 1.0)


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
    """One value per rollout under a pooled statistic, unclipped; what calibration fits."""
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
            threshold = _short(null.threshold(weight, alpha) * weight / count)
        else:
            threshold = _short(null.threshold(count, alpha))
    detail = f"{statistic.what}, {count} rollouts"
    return Statistic(statistic.check, name, _short(math.fsum(values) / count), threshold, enforced, detail)


def _alternative(name: str, tested: Sequence[Float32Comparison], enforced: bool, alpha: float) -> Statistic:
    taken = alternative_sums(name, tested)
    found = project(taken, alpha)
    detail = (
        f"log-evidence that {name} was run, {len(taken.inner)} rollouts; on the way from the current model (0) to it (1): "
        f"{found.t:.3g}, RMS distance {found.delta_rms:.3g}, power {found.power:.2f}"
    )
    threshold = _short(math.log(1 / alpha))
    return Statistic("proof", name, _short(found.log_evidence), threshold, enforced and found.testable, detail)


def _by_group(sample: Sequence[Comparison]) -> dict[int, list[Comparison]]:
    groups: dict[int, list[Comparison]] = {}
    for one in sample:
        groups.setdefault(one.group, []).append(one)
    return groups


def _position_squares(errors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Squared winsorised position errors [k]; a position without a sketch counts as winsorised."""
    means = np.add.reduce(np.square(errors, dtype=np.float64), axis=1) / errors.shape[1]
    squares: npt.NDArray[np.float64] = np.fmin(means, POSITION_ERROR_WINSOR**2)  # fmin prefers the number to NaN
    return squares


def _short(value: float) -> float:
    return float(f"{value:.6g}")
