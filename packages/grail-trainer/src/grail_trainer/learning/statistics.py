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
    steps_refused: int = 0  # loss or gradient was no number
    steps_refused_in_row: int = 0  # the longest run of them
    loss: float = 0.0
    gradient_norm: float = 0.0
    clip_share: float = 0.0  # of tokens whose ratio is outside the clip
    entropy: float = 0.0  # nats a token
    kl_behaviour: float = 0.0  # k3 estimate of KL(behaviour ‖ trained), nats a token
    importance_mean: float = 0.0
    importance_capped_share: float = 0.0
    _sums: dict[str, list[float]] = field(default_factory=dict, repr=False)
    _run: int = field(default=0, repr=False)

    def count_step(self, norm: float) -> None:
        """One optimiser step; of a norm that is no number, one that was not made."""
        refused = not math.isfinite(norm)
        self.steps += 1
        self.steps_refused += refused
        self._run = self._run + 1 if refused else 0
        self.steps_refused_in_row = max(self.steps_refused_in_row, self._run)

    def observe(self, **values: float) -> None:
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)

    def close(self) -> None:
        for name, values in self._sums.items():
            finite = [value for value in values if math.isfinite(value)]
            setattr(self, name, sum(finite) / len(finite) if finite else 0.0)
