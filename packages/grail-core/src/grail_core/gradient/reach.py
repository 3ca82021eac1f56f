"""How far the inner loop can take a weight from the checkpoint, whatever the data: what lies beyond was not trained.

A clipped gradient moves plain descent by lr · clip at most. For AdamW, by Cauchy and Schwarz over the gradients that both
moments add up, |m̂|/√v̂ after t steps is at most (1 − β₁)/(1 − β₁ᵗ) · √((1 − β₂ᵗ)/(1 − β₂) · Σ (β₁²/β₂)ⁱ), i < t: 1 in the first
step, little more in later ones. So a state that was made up far off, where gradients vanish and cost nothing, is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grail_core.gradient.layout import Floats
from grail_core.protocol.gradient.spec import MICRO, NANO, GradientSpec

_ROUNDED = 1 + 1e-3
"""Of the way, for what float32 rounds."""
_EPSILON = 2.0**-21
"""Of the weight, for each step."""


@dataclass(frozen=True)
class Reach:
    """A weight θ_0 comes no further than `way` + `share` · |θ_0|. Infinite where nothing bounds it (β₂ = 0 with momentum)."""

    way: float
    share: float

    @classmethod
    def of(cls, spec: GradientSpec, sequence: int, steps: int) -> Reach:
        """After so many steps of the round that trains the checkpoint of this sequence number."""
        beta1, beta2 = spec.beta1 / MICRO, spec.beta2 / MICRO
        rates = [spec.learning_rate(sequence) / NANO] * steps  # a warm-up's are smaller
        if spec.optimiser == "sgd":
            return cls(sum(rates) * spec.clip / MICRO * _ROUNDED, steps * _EPSILON)
        if beta1 and not beta2:
            return cls(math.inf, 0.0)
        way = sum(rate * _direction(beta1, beta2, t) for t, rate in enumerate(rates, 1)) * _ROUNDED
        decay = sum(rates) * spec.weight_decay / MICRO
        return cls(way * (1 + decay), decay + steps * _EPSILON)

    def covers(self, start: Floats, moved: Floats) -> bool:
        """Can each of these weights have become what is said? Both finite, of one shape."""
        with np.errstate(over="ignore"):
            return bool((np.abs(moved - start) <= self.way + self.share * np.abs(start)).all())


def _direction(beta1: float, beta2: float, t: int) -> float:
    summed = sum((beta1 * beta1 / beta2) ** i for i in range(t)) if beta1 else 1.0
    return (1 - beta1) / (1 - beta1**t) * math.sqrt((1 - beta2**t) / (1 - beta2) * summed)
