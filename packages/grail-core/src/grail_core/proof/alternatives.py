"""Section 6: did the miner run the current model, or one that the validator can name and run itself?

For an alternative A the validator knows Δ = z_A − z_current at every challenged position, and e = z_miner − z_current. The
projection t = ⟨e, Δ⟩ / ⟨Δ, Δ⟩ is 0 for the current model and 1 for A, whatever the numerics; 0.5 is the boundary. Honest
drift scatters t: with the class's honest energy σ² a coordinate, and the coordinates of one rollout allowed to be fully
dependent, sd(t)² ≤ σ² Σ_r (coordinates of r) ‖Δ_r‖² / ‖Δ‖⁴. A sample that could not tell the two apart is not acted on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BOUNDARY = 0.5
LEAST_POWER = 0.5
Coordinates = npt.NDArray[np.float32]  # [k, 4]


@dataclass(frozen=True)
class Projection:
    """Outcome of one named alternative.

    `t` beyond `threshold` says A; `power` is the predicted probability of t beyond it if A was run; `testable` whether that
    reaches LEAST_POWER. Without a difference between the models (Δ = 0) t is 0 and nothing is testable.
    """

    t: float
    threshold: float
    power: float
    delta_rms: float  # RMS of Δ over all coordinates: how different the two models are
    testable: bool


def project(errors: Sequence[Coordinates], deltas: Sequence[Coordinates], honest_energy: float, alpha: float) -> Projection:
    """Test one alternative on the sampled rollouts.

    Args:
        errors: per rollout, claimed minus current z. deltas: per rollout, the alternative's minus current z.
        honest_energy: mean squared drift of one coordinate that honest work of this class has at most.
        alpha: false-reject rate.
    """
    inner: list[float] = []
    squares: list[float] = []
    spread: list[float] = []
    coordinates = 0
    for error, delta in zip(errors, deltas, strict=True):
        e, d = error.astype(np.float64).ravel(), delta.astype(np.float64).ravel()
        good = np.isfinite(e) & np.isfinite(d)
        e, d = e[good], d[good]
        inner.append(math.fsum(e * d))
        squares.append(math.fsum(d * d))
        spread.append(len(d) * squares[-1])
        coordinates += len(d)
    total = math.fsum(squares)
    if total <= 0:
        return Projection(0.0, math.inf, 0.0, 0.0, False)
    t = math.fsum(inner) / total
    deviation = math.sqrt(max(honest_energy, 0.0) * math.fsum(spread)) / total
    # ln(1/α) as for a sub-Gaussian sum: a little wider than the normal quantile.
    threshold = BOUNDARY + math.sqrt(2 * math.log(1 / alpha)) * deviation
    power = 0.5 * math.erfc((threshold - 1) / (math.sqrt(2) * deviation)) if deviation > 0 else 1.0
    return Projection(t, threshold, power, math.sqrt(total / coordinates), power >= LEAST_POWER)
