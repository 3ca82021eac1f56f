"""The coefficient of the KL term: fixed, or moved from update to update so that the KL stays near a target.

After an update whose mean KL to the reference was above the target by more than the band, the coefficient is multiplied by the
factor; below it by more than the band, divided; within, left alone; and never beyond its bounds. The rule is PPO's with an
adaptive penalty (Schulman et al. 2017, section 4), the band narrower. What was measured in one update acts in the next, so that
all steps of an update lower the same loss, whatever their order.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass

from grail_trainer.hyper_parameters import GrpoSettings

COEFFICIENT = "kl_coefficient"
"""Its name among the masters' scalars, where it is saved and resumed."""


@dataclass(frozen=True)
class KlController:
    """`target`: nats a token. `band`: share of the target to either side in which nothing is done."""

    target: float
    band: float = 0.2
    factor: float = 1.5
    least: float = 0.001
    most: float = 0.2

    def bounded(self, coefficient: float) -> float:
        return min(max(coefficient, self.least), self.most)

    def next(self, coefficient: float, measured: float) -> float:
        """The coefficient of the next update. What is no number moves nothing."""
        if not math.isfinite(measured):
            return coefficient
        if measured > self.target * (1 + self.band):
            return self.bounded(coefficient * self.factor)
        if measured < self.target * (1 - self.band):
            return self.bounded(coefficient / self.factor)
        return coefficient


def current_coefficient(scalars: MutableMapping[str, float], settings: GrpoSettings) -> float:
    """What this update's KL term is multiplied by. A fixed coefficient leaves no trace among the scalars."""
    if not settings.kl_target:
        scalars.pop(COEFFICIENT, None)
        return settings.kl_coefficient
    controller = KlController(settings.kl_target)
    return controller.bounded(scalars.setdefault(COEFFICIENT, controller.bounded(settings.kl_coefficient)))


def take_measured(scalars: MutableMapping[str, float], settings: GrpoSettings, measured: float) -> None:
    """Move the coefficient by what an update's KL to the reference was, nats a token."""
    if settings.kl_target:
        scalars[COEFFICIENT] = KlController(settings.kl_target).next(current_coefficient(scalars, settings), measured)
