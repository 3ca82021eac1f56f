"""The learning rate of an optimiser step, as a function of its number alone: nothing that has to be resumed but that number."""

from __future__ import annotations

import math

from grail_trainer.hyper_parameters import OptimiserSettings


def learning_rate(settings: OptimiserSettings, step: int) -> float:
    """Of the optimiser step after `step` made ones (from 0).

    Rises linearly over `warmup_steps`, so that the last of them has the full rate; then stays, or falls.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    return settings.learning_rate * _share(settings, step)


def _share(settings: OptimiserSettings, step: int) -> float:
    if settings.schedule == "constant":
        return 1.0
    return max(settings.min_learning_rate_share, min(1.0, math.sqrt(settings.schedule_steps / (step + 1))))
