"""Section 6: the test of one named alternative, from numbers alone.

z_current and z_A are computed in float32 (`alternatives`), so that Δ = z_A − z_current is the weights' alone. With
e = z_miner − z_current, rollout r gives u = ⟨e, Δ⟩ and q = ⟨Δ, Δ⟩; u / q is 0 for the current model and 1 for A. Honest
noise is as likely to point along Δ as against it, up to an error of the measurement of at most b of the way: given everything
but the signs of the rollouts' noise, x = u − b q is symmetric about a point ≤ 0. For such x and any λ > 0 that does not depend
on those signs, E[exp(λx) / cosh(λx)] = E[1 + tanh(λx)] ≤ 1: it is 1 for an x symmetric about 0 and falls when x is shifted
down. So W = Π_r exp(λx_r) / cosh(λx_r) has E[W] ≤ 1 over independent rollouts, a mean of several such W has too, and Markov's
inequality gives P(W ≥ 1/α) ≤ α: at every sample size, for every tail and every mixture of unlike rollouts. W is the likelihood
ratio of N(m, v) against its symmetrised self at λ = m / v, which is where λ is set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.protocol.constants import SKETCH_SCALE

REFERENCE: Final = "current"
"""The current model in float32; every other name in an evidence's alternatives is compared with it."""

DEAD_ZONE: Final = 0.25
"""b: the share of the way to A that is put down to the measurement. Honest miners were met at up to 0.1 (docs/proof.md)."""

DEPENDENCE: Final = (1.0, 3.0, 9.0)
"""How many times the variance of independent coordinates a rollout's u may have; measured 1.5 to 3. One W for each."""

LEAST_POWER: Final = 0.5
"""An alternative whose predicted power is less is reported and not acted on."""

Coordinates = npt.NDArray[np.float32]  # [positions, 4]
Floats = npt.NDArray[np.float64]

_ROUNDING = (1 / SKETCH_SCALE) ** 2 / 12  # variance of a claimed word
_NODES, _MASSES = np.polynomial.hermite_e.hermegauss(24)  # E over N(0, 1) = Σ mass f(node) / √(2π)


@dataclass(frozen=True)
class Projection:
    """Outcome of one named alternative.

    `log_evidence` is ln W: A is found where it reaches ln(1/α). `t` = Σu / Σq, 0 for the current model and 1 for A. `power`:
    predicted probability of finding A if it was run; `testable` whether that reaches LEAST_POWER. Without a difference
    between the models (Δ = 0) nothing is testable. Where a number is missing, evidence and t are infinite, and testable.
    """

    log_evidence: float
    t: float
    power: float
    delta_rms: float  # RMS of Δ over all coordinates: how different the two models are
    testable: bool


@dataclass(frozen=True)
class Sums:
    """What the test needs of every rollout, float64 [n] each."""

    inner: Floats  # ⟨e, Δ⟩; infinite for a rollout of which a number is not finite
    squares: Floats  # ⟨Δ, Δ⟩
    coordinates: Floats
    noise: Floats  # ⟨drift, drift⟩
    noise_coordinates: Floats

    def of(self, rollouts: npt.NDArray[np.intp]) -> Sums:
        """Those of the rollouts at these indices."""
        return Sums(*(getattr(self, field.name)[rollouts] for field in fields(self)))


def sums(errors: Sequence[Coordinates], deltas: Sequence[Coordinates], drifts: Sequence[Coordinates]) -> Sums:
    """Of rollouts, from their arrays.

    Args:
        errors: [m, 4], claimed z minus the reference's. deltas: [m, 4], the alternative's minus the reference's.
        drifts: [k, 4], the validator's own z, in the numerics it verifies in, minus the reference's: how large honest noise is.
    """
    rows = [_row(*one) for one in zip(errors, deltas, drifts, strict=True)]
    return Sums(*np.array(rows, dtype=np.float64).reshape(-1, 5).T)


def project(rollouts: Sums, alpha: float) -> Projection:
    """Test one alternative on independent rollouts at false-reject rate `alpha`."""
    if _lacks_numbers(rollouts):
        return Projection(math.inf, math.inf, 1.0, 0.0, testable=True)
    total, count = math.fsum(rollouts.squares), math.fsum(rollouts.coordinates)
    if total <= 0:
        return Projection(0.0, 0.0, 0.0, 0.0, False)
    power = _predicted_power(rollouts.squares / _variance(rollouts), math.log(len(DEPENDENCE) / alpha))
    t = math.fsum(rollouts.inner) / total
    return Projection(log_evidence(rollouts), t, power, math.sqrt(total / count), testable=power >= LEAST_POWER)


def log_evidence(rollouts: Sums) -> float:
    """ln W, the mean over DEPENDENCE; 0 where the models do not differ, infinite where a number is missing."""
    if _lacks_numbers(rollouts):
        return math.inf
    if not rollouts.squares.any():
        return 0.0
    moved = (1 - DEAD_ZONE) / _variance(rollouts) * (rollouts.inner - DEAD_ZONE * rollouts.squares)
    parts = [math.fsum(_log_ratio(moved / dependence)) for dependence in DEPENDENCE]
    highest = max(parts)
    return highest + math.log(math.fsum(math.exp(part - highest) for part in parts) / len(parts))


def _variance(rollouts: Sums) -> float:
    """Of one coordinate of honest noise, a claimed word's rounding included."""
    return math.fsum(rollouts.noise) / max(1.0, math.fsum(rollouts.noise_coordinates)) + _ROUNDING


def _row(error: Coordinates, delta: Coordinates, drift: Coordinates) -> tuple[float, float, float, float, float]:
    e, d, n = (part.astype(np.float64).ravel() for part in (error, delta, drift))
    if not all(np.isfinite(part).all() for part in (e, d, n)):
        return math.inf, 0.0, float(len(e)), 0.0, float(len(n))
    return math.fsum(e * d), math.fsum(d * d), float(len(e)), math.fsum(n * n), float(len(n))


def _lacks_numbers(rollouts: Sums) -> bool:
    """Whoever leaves a number out of evidence must not spare the miner a test by it; what honest validators leave out, they
    leave out by the rollout (`alternatives`)."""
    return not bool(np.isfinite(rollouts.inner).all())


def _log_ratio(a: Floats) -> Floats:
    """ln(exp(a) / cosh(a)) = ln 2 − ln(1 + exp(−2a))."""
    return math.log(2) - np.logaddexp(0.0, -2 * a)


def _predicted_power(distances: Floats, needed: float) -> float:
    """Probability that ln W reaches `needed` if A was run; `distances` are q over the variance of a coordinate.

    Noise is taken as Gaussian with the middle dependence, ln W as Gaussian with the mean and variance that this gives it.
    """
    d = (1 - DEAD_ZONE) * np.sqrt(distances / DEPENDENCE[1])
    values = _log_ratio(d[:, None] ** 2 + d[:, None] * _NODES)
    masses = _MASSES / math.sqrt(2 * math.pi)
    means = values @ masses
    spread = math.sqrt(max(math.fsum(np.square(values) @ masses - np.square(means)), 1e-12))
    return 0.5 * math.erfc((needed - math.fsum(means)) / (math.sqrt(2) * spread))
