"""What the network is compared with: AdamW in one process, on the same sequences, in as many steps as rounds have inner steps.

Moments are kept, the rate rises over 20 steps and falls along a cosine to a tenth; of three rates the best counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grail_core.proof.inner import InnerState, Rates, adamw, clipped_gradient
from grail_core.proof.trained_model import I32, StateArrays, TrainedModel
from grail_core.protocol.gradient.spec import MICRO, GradientSpec

RATES = (3e-3, 6e-3, 1e-2)
WARM_UP = 20
"""Steps."""
LAST = 0.1
"""Of the rate, at the end."""


@dataclass(frozen=True)
class Reference:
    """`losses`: held-out, before the first step and then after every so many, of the best rate."""

    rate: float
    losses: tuple[float, ...]


def reference(
    model: TrainedModel,
    theta: StateArrays,
    batches: Sequence[I32],
    spec: GradientSpec,
    held_out: Callable[[StateArrays], float],
    every: int | None = None,
) -> Reference:
    """The best of `RATES`, by the last loss.

    Args:
        theta: where it begins. batches: int32 [rows, L], one a step. held_out: the loss of weights.
        every: steps from one loss to the next, a divisor of their number; None: the spec's inner steps.
    """
    every = every or spec.inner_steps
    found = [Reference(rate, _losses(model, theta, batches, spec, held_out, rate, every)) for rate in RATES]
    return min(found, key=lambda one: one.losses[-1])


def _losses(
    model: TrainedModel,
    theta: StateArrays,
    batches: Sequence[I32],
    spec: GradientSpec,
    held_out: Callable[[StateArrays], float],
    rate: float,
    every: int,
) -> tuple[float, ...]:
    beta1, beta2 = spec.beta1 / MICRO, spec.beta2 / MICRO
    state = InnerState.start(dict(theta), replace(spec, optimiser="adamw"))
    losses = [held_out(state.theta)]
    for step, tokens in enumerate(batches):
        gradient = clipped_gradient(model, state.theta, tokens, spec)
        rates = Rates(
            np.float32(_rate(rate, step, len(batches))),
            np.float32(1),
            np.float32(beta1),
            np.float32(1 - beta1),
            np.float32(1 - beta1 ** (step + 1)),
            np.float32(beta2),
            np.float32(1 - beta2),
            np.float32(1 - beta2 ** (step + 1)),
        )
        state = _stepped(state, gradient, rates)
        if (step + 1) % every == 0:
            losses.append(held_out(state.theta))
    return tuple(losses)


def _stepped(state: InnerState, gradient: StateArrays, rates: Rates) -> InnerState:
    parts = {
        name: adamw(value, state.first[name], state.second[name], gradient[name], rates) for name, value in state.theta.items()
    }
    return InnerState(*({name: three[at] for name, three in parts.items()} for at in range(3)))


def _rate(rate: float, step: int, steps: int) -> float:
    if step < WARM_UP:
        return rate * (step + 1) / WARM_UP
    along = (step - WARM_UP) / max(1, steps - 1 - WARM_UP)
    return rate * (LAST + (1 - LAST) * (1 + math.cos(math.pi * along)) / 2)
