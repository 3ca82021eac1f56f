"""Gradient work, section 5: the inner loop, one function for the miner that trains and for whoever replays a step of it.

A round's steps start from the checkpoint's weights with moments of zero, so that step 0 is public. Gradients come from torch;
what is done with them is NumPy in float32, each operation rounded once in the order of the formula, so that one gradient makes
one step on every machine. Which batches a hotkey has, what is committed of the states and what is sent of Δ are others'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from grail_core.proof.errors import UnprovableError
from grail_core.proof.trained_model import F32, I32, StateArrays, TrainedModel
from grail_core.protocol.gradient.spec import MICRO, NANO, GradientSpec

EPSILON: Final = 1e-8
"""ε of AdamW, beside the root of the second moment."""


@dataclass(frozen=True)
class Rates:
    """The numbers of one step, each computed exactly or in float64 and rounded to float32 once. `step` counts from 0."""

    learning_rate: np.float32
    kept: np.float32  # 1 − lr·wd
    beta1: np.float32
    rest1: np.float32  # 1 − β₁
    correction1: np.float32  # 1 − β₁^t, t = step + 1
    beta2: np.float32
    rest2: np.float32
    correction2: np.float32

    @classmethod
    def of(cls, spec: GradientSpec, sequence: int, step: int) -> Rates:
        """For a step of the round that trains the checkpoint of this sequence number."""
        rate = learning_rate(spec, sequence, step)
        beta1, beta2 = spec.beta1 / MICRO, spec.beta2 / MICRO
        return cls(
            np.float32(rate / NANO),
            np.float32(1 - rate * spec.weight_decay / (NANO * MICRO)),
            np.float32(beta1),
            np.float32((MICRO - spec.beta1) / MICRO),
            np.float32(1 - beta1 ** (step + 1)),
            np.float32(beta2),
            np.float32((MICRO - spec.beta2) / MICRO),
            np.float32(1 - beta2 ** (step + 1)),
        )


def learning_rate(spec: GradientSpec, sequence: int, step: int) -> int:
    """In parts of 10⁹: the spec's, (step + 1)/warmup of it during the round's first steps, rounded down."""
    rate = spec.learning_rate(sequence)
    return rate * (step + 1) // spec.warmup if step < spec.warmup else rate


@dataclass(frozen=True)
class InnerState:
    """θ_j with its moments m_j and v_j, which `sgd` has not (both are empty). Later steps have new arrays."""

    theta: StateArrays
    first: StateArrays = field(default_factory=dict)
    second: StateArrays = field(default_factory=dict)

    @classmethod
    def start(cls, theta0: StateArrays, spec: GradientSpec) -> InnerState:
        """j = 0."""
        if spec.optimiser == "sgd":
            return cls(theta0)
        return cls(theta0, *({name: np.zeros_like(value) for name, value in theta0.items()} for _ in range(2)))


@dataclass(frozen=True)
class Trained:
    """What a round's training leaves. `states`: by j, those that `commit` needs: 0, 1 and H, or all of them, each three times
    the size of the weights."""

    states: Mapping[int, InnerState]
    delta: StateArrays  # Δ

    @property
    def end(self) -> InnerState:
        """j = H."""
        return self.states[max(self.states)]


class InnerLoop:
    """The round's loop over one model; its parts are methods, so that a test's adversary replaces one and keeps the others.

    Args:
        sequence: the number of the checkpoint that is trained. rows: sequences of one forward pass; None: the whole batch.
    """

    def __init__(self, model: TrainedModel, spec: GradientSpec, sequence: int, *, rows: int | None = None) -> None:
        self.model, self.spec, self.sequence, self.rows = model, spec, sequence, rows

    def train(self, theta0: StateArrays, batches: Iterable[I32]) -> Trained:
        """H steps from θ_0.

        Args:
            batches: int32 [b, L] for each step, taken when its turn comes.

        Raises:
            UnprovableError: a gradient or a weight that is not finite: the round has no update.
            ValueError: not H batches.
        """
        steps = self.spec.inner_steps
        kept = range(steps + 1) if self.spec.commit == "all" else (0, 1, steps)
        state = InnerState.start(theta0, self.spec)
        states, gradient = {0: state}, None
        for step, tokens in enumerate(batches):
            if step == steps:
                raise ValueError(f"more batches than the {steps} inner steps")
            gradient = self.gradient(state.theta, tokens, step)
            state = self.step(state, gradient, step)
            if step + 1 in kept:
                states[step + 1] = state
        if gradient is None or steps not in states:
            raise ValueError(f"fewer batches than the {steps} inner steps")
        return Trained(states, self.delta(states[0], states[steps], gradient))

    def gradient(self, theta: StateArrays, tokens: I32, step: int) -> StateArrays:
        """The clipped gradient of a batch at θ. Errors: as `clipped_gradient`."""
        return clipped_gradient(self.model, theta, tokens, self.spec, rows=self.rows)

    def step(self, state: InnerState, gradient: StateArrays, step: int) -> InnerState:
        """θ_{j+1}, m_{j+1}, v_{j+1}, in new arrays."""
        rates = Rates.of(self.spec, self.sequence, step)
        if self.spec.optimiser == "sgd":
            after = {name: descended(value, gradient[name], rates) for name, value in state.theta.items()}
            return InnerState(require_finite(after))
        theta, first, second = {}, {}, {}
        for name, value in state.theta.items():
            theta[name], first[name], second[name] = adamw(value, state.first[name], state.second[name], gradient[name], rates)
        return InnerState(require_finite(theta), first, require_finite(second))

    def delta(self, first: InnerState, last: InnerState, gradient: StateArrays) -> StateArrays:
        """Δ: θ_0 − θ_H, for `sgd` lr · g with the gradient of its one step."""
        if self.spec.optimiser == "sgd":
            return scaled(gradient, Rates.of(self.spec, self.sequence, 0).learning_rate)
        return {name: value - last.theta[name] for name, value in first.theta.items()}


def train_round(
    model: TrainedModel,
    theta0: StateArrays,
    batches: Sequence[I32],
    spec: GradientSpec,
    sequence: int,
    *,
    rows: int | None = None,
) -> Trained:
    """The honest loop. See `InnerLoop`."""
    return InnerLoop(model, spec, sequence, rows=rows).train(theta0, batches)


def clipped_gradient(
    model: TrainedModel, theta: Mapping[str, F32], tokens: I32, spec: GradientSpec, *, rows: int | None = None
) -> StateArrays:
    """Gradient of a batch's loss at θ, no longer than `clip` over all tensors together.

    Raises:
        UnprovableError: it is not finite.
        CheckpointError, OutOfVocabularyError, OverlongSequenceError, MachineFaultError: as `TrainedModel`.
    """
    model.set(theta)
    gradient = model.gradient(tokens, compute=spec.compute, rows=rows)
    norm = math.sqrt(sum(float(np.square(one, dtype=np.float64).sum()) for one in gradient.values()))
    if not math.isfinite(norm):
        raise UnprovableError("the gradient is not finite", hint="the weights overflow: there is nothing to train from them")
    limit = spec.clip / MICRO
    return gradient if norm <= limit else scaled(gradient, np.float32(limit / norm))


def adamw(theta: F32, first: F32, second: F32, gradient: F32, rates: Rates) -> tuple[F32, F32, F32]:
    """One step on arrays of one shape: θ_{j+1}, m_{j+1}, v_{j+1}."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # callers look at what came out
        m = rates.beta1 * first + rates.rest1 * gradient
        v = rates.beta2 * second + rates.rest2 * (gradient * gradient)
        root: F32 = np.sqrt(v / rates.correction2) + np.float32(EPSILON)
        direction: F32 = np.divide(m / rates.correction1, root)
        return theta * rates.kept - rates.learning_rate * direction, m, v


def descended(theta: F32, gradient: F32, rates: Rates) -> F32:
    """θ_1 of `sgd`: θ_0 − Δ, Δ = lr · g."""
    with np.errstate(over="ignore", invalid="ignore"):
        return theta - rates.learning_rate * gradient


def scaled(arrays: StateArrays, factor: np.float32) -> StateArrays:
    """Every value times a float32 factor."""
    return {name: value * factor for name, value in arrays.items()}


def require_finite(arrays: StateArrays) -> StateArrays:
    """The same arrays. Errors: UnprovableError naming the tensor with a value that is not finite."""
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise UnprovableError("training leaves a number that is not finite", where=name, hint="the round has no update")
    return arrays
