"""Named alternatives by differences computed in float32: the sharpest test of "which weights were these?" that we know.

In bf16 both z_A and z_current carry kernel noise, which is larger than what one step of training changes, and z_current's
stands in the miner's difference too: an honest miner of another numerics then projects to ½. In float32 the difference
Δ = z_A − z_current is the weights' alone, and the miner's noise is independent of it. Per rollout x = ⟨e, Δ⟩ − b‖Δ‖² with
e = z_miner − z_current; for independent x, symmetric about a mean ≤ 0, P(Σx > √(2 ln(1/α) Σx²)) ≤ α at every sample size and
for every tail (random signs and Hoeffding's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grail_core.proof.sketches import differences
from tooling.power.observation import Observation
from tooling.power.weights import SINGLE

DEAD_ZONE = 0.25
"""b: a projection up to this much is taken for an error of the measurement, never for the alternative."""


@dataclass(frozen=True)
class Projected:
    """Per rollout ⟨e, Δ⟩ and ‖Δ‖²."""

    inner: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    @property
    def t(self) -> float:
        """0 for the current model, 1 for the alternative."""
        return float(self.inner.sum() / self.squares.sum())

    @property
    def standard_error(self) -> float:
        """Of t, with the rollout as the unit."""
        return float(np.sqrt(np.square(self.inner - self.t * self.squares).sum()) / self.squares.sum())

    def rejects(self, drawn: npt.NDArray[np.int64], alpha: float) -> npt.NDArray[np.bool_]:
        """For each row of rollout indices [draws, n], whether the test rejects it."""
        x = self.inner[drawn] - DEAD_ZONE * self.squares[drawn]
        return np.asarray(x.sum(axis=1) > math.sqrt(2 * math.log(1 / alpha)) * np.sqrt(np.square(x).sum(axis=1)))


def projected(name: str, observations: Sequence[Observation]) -> Projected:
    """The projection on one alternative, whose float32 copy was measured."""
    inner, squares = [], []
    for one in observations:
        current = one.alternatives[SINGLE + "current"]
        delta = one.alternatives[SINGLE + name].astype(np.float64) - current
        errors = differences(one.claimed, current).astype(np.float64)
        inner.append(math.fsum((errors * delta).ravel()))
        squares.append(math.fsum(np.square(delta).ravel()))
    return Projected(np.array(inner), np.array(squares))


def names_in(observations: Sequence[Observation]) -> list[str]:
    """Alternatives that were measured in float32."""
    found = sorted({name.removeprefix(SINGLE) for one in observations for name in one.alternatives if name.startswith(SINGLE)})
    return [name for name in found if name != "current"]
