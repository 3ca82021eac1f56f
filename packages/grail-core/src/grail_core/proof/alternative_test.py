"""Section 6: the test of one named alternative that is other weights, from sketches alone.

z_current and z_A are computed in float32 (`alternatives`), so that Δ = z_A − z_current is the weights' alone, and the
validator's own pass in the numerics that it measures in gives z_own. With e the miner's z minus either yardstick, z_current or
z_own, rollout r gives u = ⟨e, Δ⟩ and q = ⟨Δ, Δ⟩; u / q is about 0 for the current model and 1 for A. Every coordinate of e and
Δ is clipped to ±4σ first, σ² being the mean square of z_own − z_current in the file: an odd map, which spoils no symmetry and
bounds what one coordinate can do. By a yardstick two tests have half of the weight each:

* bounded: if along Δ honest noise is sub-Gaussian with variance at most v σ² q (v: the table's `sketch_variance`) and mean at
  most q/4, then ln e_r = (0.75 (u − q/4) − 0.28125 q) / (v σ²) has E[e_r] ≤ 1. That a file's noise is no larger is what
  `sketch_ratio` tests. A few rollouts tell, also beside honest ones (`mixture`).
* sign: honest noise is as likely to point along Δ as against it, up to q/4 of the way. For x = u − q/4, symmetric about a point
  ≤ 0, E[exp(λx) / cosh(λx)] = E[1 + tanh(λx)] ≤ 1 for any λ > 0: whatever its scale and its tail. It takes 26 rollouts.

Rounding leans: that of one checkpoint has a mean, Δ has one, and a window has only four projections, so that all of a window's
rounding can lie along Δ (a cosine of 0.13 was met). Let it lean by c in the validator's pass and by s c in the miner's. Held
against z_current the miner leans by s c, against z_own by (s − 1) c: in the same numerics the second is nothing, whatever c is,
since the two are exchangeable. So the evidence is that against z_own; but a rollout whose claims by z_current are no nearer to
A than to the current model adds nothing. For better arithmetic than the validator's (s from 0 to 1) the two point opposite
ways. What is left out can only lower a mean of at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.mixture import log_mean, log_mixture
from grail_core.proof.sketches import ROUNDING_VARIANCE

WEIGHTS_ALTERNATIVES: Final = ("previous-1", "previous-2", "previous-3", "int8", "int8-groups", "int4-groups")
"""Alternatives that are other weights for the same architecture."""

DEAD_ZONE: Final = 0.25
"""The share of the way to A that is put down to the measurement."""

CLIP: Final = 4.0
"""σ."""

LEAST_DISTANCE: Final = 0.12
"""RMS Δ over σ below which nothing is testable, however many positions there are."""

NEARER: Final = 0.5
"""The share of the way to A from which on claims are nearer to it than to the current model."""

DEPENDENCE: Final = (1.0, 3.0, 9.0)
"""Of the sign test: how many times the variance of independent coordinates a rollout's u may have. One W for each."""

Coordinates = npt.NDArray[np.float32]  # [positions, 4]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Projection:
    """Outcome of one named alternative.

    `log_evidence` is ln W: A is found where it reaches ln(1/α). `t` = Σu / Σq by the own pass, 0 for the current model and 1
    for A; `by_reference`: by z_current.
    """

    log_evidence: float
    t: float
    by_reference: float
    distance: float  # RMS Δ over σ: how different the two models are, in units of the own drift
    rollouts: Floats  # ln e_r of the bounded test

    @property
    def testable(self) -> bool:
        return self.distance >= LEAST_DISTANCE


@dataclass(frozen=True)
class Sums:
    """What the test needs of every rollout, float64 [n] each. `variance`: σ² of the file."""

    inner: Floats  # ⟨e, Δ⟩
    squares: Floats  # ⟨Δ, Δ⟩
    coordinates: Floats
    variance: float


def own_drift(drifts: Sequence[Coordinates]) -> float:
    """RMS of a coordinate over all rollouts, from the validator's own z minus the reference's, [m, 4] each."""
    squares = math.fsum(float(np.square(one, dtype=np.float64).sum()) for one in drifts)
    return math.sqrt(squares / max(1, sum(one.size for one in drifts)))


def sums(errors: Sequence[Coordinates], deltas: Sequence[Coordinates], drift: float) -> Sums:
    """Of rollouts by one yardstick, from their arrays [m, 4], all finite.

    Args:
        errors: claimed z minus the yardstick's. deltas: the alternative's minus the reference's. drift: the file's `own_drift`.
    """
    variance = drift**2 + ROUNDING_VARIANCE  # a claim is rounded, what the validator measures is not
    lengths = np.array([len(one) for one in errors])
    bound = CLIP * math.sqrt(variance)
    e, d = (np.clip(np.concatenate(parts).astype(np.float64), -bound, bound) for parts in (errors, deltas))
    starts = np.cumsum(lengths) - lengths
    inner, squares = (np.add.reduceat((left * d).sum(axis=1), starts) for left in (e, d))
    return Sums(inner, squares, (e.shape[1] * lengths).astype(np.float64), variance)


def by_yardstick(
    errors: Sequence[Coordinates], drifts: Sequence[Coordinates], deltas: Sequence[Coordinates], drift: float
) -> tuple[Sums, Sums]:
    """`sums` by the validator's own pass and by the reference.

    Args:
        errors: claimed z minus the validator's own. drifts: that minus the reference's. deltas, drift: as of `sums`.
    """
    return sums(errors, deltas, drift), sums([e + n for e, n in zip(errors, drifts, strict=True)], deltas, drift)


def project(own: Sums, reference: Sums, sketch_variance: float) -> Projection:
    """Test one alternative by both yardsticks on the same independent rollouts, at least one."""
    total = math.fsum(own.squares)
    if total <= 0:
        return Projection(0.0, 0.0, 0.0, 0.0, np.zeros(len(own.squares)))
    log_e = counted(log_evidences(own, sketch_variance), reference)
    distance = math.sqrt(total / math.fsum(own.coordinates) / own.variance)
    evidence = log_mean([log_mixture(log_e), sign_evidence(own, reference)])
    return Projection(evidence, math.fsum(own.inner) / total, math.fsum(reference.inner) / total, distance, log_e)


def counted(evidence: Floats, reference: Sums) -> Floats:
    """ln e_r of rollouts, [..., n], as they count: with at most 0 where by the reference the claims are no nearer to A."""
    return np.where(reference.inner > NEARER * reference.squares, evidence, np.minimum(evidence, 0.0))


def log_evidences(rollouts: Sums, sketch_variance: float) -> Floats:
    """ln e_r of the bounded test, [n]."""
    way = 1 - DEAD_ZONE
    moved = way * (rollouts.inner - DEAD_ZONE * rollouts.squares) - way**2 / 2 * rollouts.squares
    log_e: Floats = moved / (sketch_variance * rollouts.variance)
    return log_e


def sign_evidence(own: Sums, reference: Sums) -> float:
    """ln W of the sign test, the mean over DEPENDENCE."""
    return log_mean([math.fsum(counted(log_ratios(own, dependence), reference)) for dependence in DEPENDENCE])


def log_ratios(rollouts: Sums, dependence: float) -> Floats:
    """What the sign test takes of every rollout, [n]: ln(exp(a) / cosh(a)) = ln 2 − ln(1 + exp(−2a)) with a = λx."""
    moved = (1 - DEAD_ZONE) / rollouts.variance * (rollouts.inner - DEAD_ZONE * rollouts.squares)
    ratios: Floats = math.log(2) - np.logaddexp(0.0, -2 * moved / dependence)
    return ratios
