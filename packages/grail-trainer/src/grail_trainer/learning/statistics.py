"""What one update did, in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class UpdateStatistics:
    """Means over the optimiser steps of one update; norms before clipping."""

    groups: int = 0
    rollouts: int = 0
    tokens: int = 0
    steps: int = 0
    steps_refused: int = 0  # gradients that were not finite
    loss: float = 0.0
    gradient_norm: float = 0.0
    clip_share: float = 0.0  # of tokens whose ratio is outside the clip
    entropy: float = 0.0  # nats a token
    kl_behaviour: float = 0.0  # k3 estimate of KL(behaviour ‖ trained), nats a token
    importance_mean: float = 0.0
    importance_capped_share: float = 0.0
    _sums: dict[str, list[float]] = field(default_factory=dict, repr=False)

    def observe(self, **values: float) -> None:
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)

    def close(self) -> None:
        for name, values in self._sums.items():
            finite = [value for value in values if math.isfinite(value)]
            setattr(self, name, sum(finite) / len(finite) if finite else 0.0)
