"""The learning rate of an optimiser step, as a function of its number alone: nothing that has to be resumed but that number."""

from __future__ import annotations

import math

from grail_trainer.hyper_parameters import OptimiserSettings


def learning_rate(settings: OptimiserSettings, step: int) -> float:
    """Of the optimiser step after `step` made ones (from 0); micro-batches and steps that were not made do not count.

    Rises linearly over `warmup_steps`, so that the last of them has the full rate; then stays; or falls along a line or half a
    cosine (Loshchilov and Hutter 2017) to `min_learning_rate_share` of it at `schedule_steps`, where it stays; or as the
    inverse root of the step's number from `full_rate_steps` on (from the warmup's end, where that is later), to the same least.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    return settings.learning_rate * _share(settings, step)


def _share(settings: OptimiserSettings, step: int) -> float:
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "inverse-sqrt":
        full = max(settings.full_rate_steps, settings.warmup_steps)
        return max(settings.min_learning_rate_share, min(1.0, math.sqrt(full / (step + 1))))
    done = min(1.0, (step - settings.warmup_steps) / (settings.schedule_steps - settings.warmup_steps))
    left = 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return settings.min_learning_rate_share + (1.0 - settings.min_learning_rate_share) * left
