"""Gradient work, section 8: was an opened inner step the optimiser's step on the assigned batch?

The miner opens θ_j, or nothing of it where j = 0 (θ_0 is public), and on drawn chunks its moments before and its state after
the step. The validator computes the clipped gradient of the batch at θ_j itself. Gradients are compared, not weights: Adam's
first step is nearly the sign of a gradient, and small entries flip by rounding. That the rest of the committed state follows
from the gradient the miner's moments say is arithmetic. `measure` needs the model; `judge` needs numbers alone, so whoever has
a validator's evidence judges again without one. That paths lead to the committed roots is checked before either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.comparison import Statistic, shortened
from grail_core.proof.errors import UnprovableError
from grail_core.proof.inner import EPSILON, Rates, clipped_gradient
from grail_core.proof.round_work import F32, MeasuredStep
from grail_core.proof.trained_model import I32, TrainedModel
from grail_core.protocol.gradient.spec import MICRO, GradientSpec

F64 = npt.NDArray[np.float64]

CHECK: Final = "replay"
_ROUNDING: Final = 2.0**-22
"""Relative, of a value that a handful of float32 operations made."""
_SMALLEST: Final = 2.0**-140
"""Below it float32 has only a few bits."""
_CLIPPED: Final = 1 + 1e-3
"""A clipped gradient's norm, and what moments add up of it, is rounded: by so much it may be over."""


@dataclass(frozen=True)
class ReplayBounds:
    """What honest work may differ by. The shipped constants are those tried on a byte model of 83,184 parameters.

    `gradient`: relative L2 over the drawn chunks together. `second_moment`: of v, relative. `step`: of θ, in learning rates.
    `parameters`: in a larger model the first is reported and not enforced; the other two are arithmetic and always are.
    """

    gradient: float = 0.12
    second_moment: float = 1e-3
    step: float = 1e-4
    parameters: int = 1 << 17


SHIPPED: Final = ReplayBounds()


@dataclass(frozen=True, eq=False)
class OpenedChunk:
    """Elements start … stop of the tensor-th weight (`TrainedModel.sizes`), flat; all arrays float32 [stop − start].

    For `sgd`: `first` and `second` and what they become are empty, and `delta` is Δ; it is empty for `adamw`.
    """

    tensor: int
    start: int
    stop: int
    theta_after: F32
    first: F32
    second: F32
    first_after: F32
    second_after: F32
    delta: F32


@dataclass(frozen=True, eq=False)
class OpenedStep:
    """Step `step` (j, from 0) as a miner opened it. `theta`: θ_j whole, as `StateArrays`; where j = 0 the checkpoint's."""

    step: int
    theta: Mapping[str, F32]
    chunks: Sequence[OpenedChunk]

    def slices(self, names: Sequence[str]) -> list[F32]:
        """θ_j on the drawn chunks."""
        return [self.theta[names[one.tensor]].reshape(-1)[one.start : one.stop] for one in self.chunks]


def measure(
    model: TrainedModel, opened: OpenedStep, batch: I32, spec: GradientSpec, *, rows: int | None = None
) -> MeasuredStep:
    """Compute the batch's gradient at θ_j; the model is not run where θ_j has a value that is not finite.

    Args:
        batch: int32 [b, L], the sequences that this hotkey was assigned for the step. rows: of one forward pass.

    Raises:
        ValueError: other tensors than the model's, or chunks outside of them: the layout is not the checkpoint's.
        MachineFaultError: this machine could not; nothing is said of the miner.
    """
    names = [name for name, _ in model.sizes]
    _require_fitting(model, opened)
    theta = opened.slices(names)
    if not all(np.isfinite(value).all() for value in opened.theta.values()):
        return MeasuredStep(theta, None)
    try:
        whole = clipped_gradient(model, opened.theta, batch, spec, rows=rows)
    except UnprovableError:
        return MeasuredStep(theta, None)
    return MeasuredStep(theta, [whole[names[one.tensor]].reshape(-1)[one.start : one.stop] for one in opened.chunks])


def judge(
    chunks: Sequence[OpenedChunk],
    measured: MeasuredStep,
    spec: GradientSpec,
    *,
    sequence: int,
    step: int,
    parameters: int,
    bounds: ReplayBounds = SHIPPED,
) -> list[Statistic]:
    """Whether the drawn chunks are those of the step; a statistic that `rejects` fails the round.

    Args:
        sequence: of the checkpoint that is trained. step: j. parameters: of the whole model.

    Raises:
        ValueError: no chunks, or arrays whose lengths do not fit.
    """
    _require_whole(chunks, measured, spec)
    if measured.gradient is None:
        return [_no_gradient(step)]
    if not all(np.isfinite(values).all() for one in chunks for values in _claimed(one, spec)):
        return [_rejection("finite", "an opened chunk has a number that is not finite")]
    if step == 0 and spec.optimiser == "adamw" and any(one.first.any() or one.second.any() for one in chunks):
        return [_rejection("moments", "the moments before a round's first step are zero")]
    rates = Rates.of(spec, sequence, step)
    theta = _joined(measured.theta, lambda one: one)
    own = _joined(measured.gradient, lambda one: one)
    after = _joined(chunks, lambda one: one.theta_after)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if spec.optimiser == "sgd":
            delta = _joined(chunks, lambda one: one.delta)
            claimed = delta / float(rates.learning_rate)
            slack = _ROUNDING * np.abs(claimed)
            off = _largest(after - (theta - delta), _ROUNDING * np.maximum(np.abs(theta), np.abs(after)) + _SMALLEST)
            rest = [_arithmetic("step", off, "θ after the step against θ before it, less Δ")]
        else:
            moments = [_joined(chunks, get) for get in _MOMENTS]
            if not _clipped(moments, spec, step):
                return [_rejection("clip", "the moments are larger than clipped gradients leave them")]
            claimed, slack = _gradient_of(moments, rates)
            rest = _adamw_arithmetic(theta, after, moments, (claimed, slack), rates, bounds)
        return [_gradient_statistic(claimed, own, slack, parameters <= bounds.parameters, bounds), *rest]


def replay(
    model: TrainedModel,
    opened: OpenedStep,
    batch: I32,
    spec: GradientSpec,
    *,
    sequence: int,
    bounds: ReplayBounds = SHIPPED,
    rows: int | None = None,
) -> tuple[MeasuredStep, list[Statistic]]:
    """`measure`, then `judge`. Errors: as those."""
    measured = measure(model, opened, batch, spec, rows=rows)
    parameters = sum(math.prod(shape) for _, shape in model.sizes)
    return measured, judge(
        opened.chunks, measured, spec, sequence=sequence, step=opened.step, parameters=parameters, bounds=bounds
    )


_MOMENTS: Final[tuple[Callable[[OpenedChunk], F32], ...]] = (
    lambda one: one.first,
    lambda one: one.first_after,
    lambda one: one.second,
    lambda one: one.second_after,
)


def _clipped(moments: Sequence[F64], spec: GradientSpec, step: int) -> bool:
    """Are m_j, m_{j+1}, v_j, v_{j+1} no larger than j and j + 1 gradients of at most `clip` make them?

    In moments of any size rounding would hide whatever gradient there is: one false step would then free all later ones.
    """
    clip, beta1, beta2 = spec.clip / MICRO * _CLIPPED, spec.beta1 / MICRO, spec.beta2 / MICRO
    first, first_after, second, second_after = moments
    return all(
        float(np.linalg.norm(m)) <= (1 - beta1**t) * clip and float(np.abs(v).sum()) <= (1 - beta2**t) * clip * clip
        for t, m, v in ((step, first, second), (step + 1, first_after, second_after))
    )


def _gradient_of(moments: Sequence[F64], rates: Rates) -> tuple[F64, F64]:
    """(m_{j+1} − β₁ m_j)/(1 − β₁), and by how much the rounding of the moments leaves it open."""
    first, first_after = moments[0], moments[1]
    rest = float(rates.rest1)
    claimed = (first_after - float(rates.beta1) * first) / rest
    return claimed, _ROUNDING * (np.abs(first) + np.abs(first_after)) / rest


def _adamw_arithmetic(
    theta: F64, after: F64, moments: Sequence[F64], gradient: tuple[F64, F64], rates: Rates, bounds: ReplayBounds
) -> list[Statistic]:
    """v_{j+1} and θ_{j+1} as they follow from the committed values, in float64."""
    _, first_after, second, second_after = moments
    (claimed, slack), rest = gradient, float(rates.rest2)
    follows = float(rates.beta2) * second + rest * claimed * claimed
    room = bounds.second_moment * follows + rest * slack * (2 * np.abs(claimed) + slack) + _SMALLEST
    negative = bool((second_after < 0).any() or (second < 0).any())
    off = math.inf if negative else _largest(second_after - follows, room)
    found = [_arithmetic("second_moment", off, "v after the step against what follows from v before it and the gradient")]
    root = np.sqrt(np.maximum(second_after, 0) / float(rates.correction2)) + EPSILON
    rate = float(rates.learning_rate)
    lands = theta * float(rates.kept) - rate * (first_after / float(rates.correction1)) / root
    room = bounds.step * rate + _ROUNDING * np.abs(theta) + _SMALLEST
    said = "θ after the step against what follows from θ before it and the moments"
    return [*found, _arithmetic("step", _largest(after - lands, room), said)]


def _gradient_statistic(claimed: F64, own: F64, slack: F64, enforced: bool, bounds: ReplayBounds) -> Statistic:
    """Relative L2, less what the claim's own rounding may be; a gradient of zero is met by zero alone."""
    apart = float(np.linalg.norm(np.maximum(np.abs(claimed - own) - slack, 0)))
    size = float(np.linalg.norm(own))
    value = apart / size if size > 0 else (0.0 if apart == 0 else math.inf)
    detail = (
        f"relative L2 of the committed gradient against the validator's own, {len(own)} values; the step has to be taken on "
        "all of the assigned sequences, from the committed weights"
    )
    if not enforced:
        detail += "; no calibration covers a model of this size, so it is reported"
    return Statistic(CHECK, "gradient", shortened(value), bounds.gradient, enforced, detail)


def _arithmetic(name: str, value: float, what: str) -> Statistic:
    return Statistic(CHECK, name, shortened(value), 1.0, True, f"{what}: the largest difference, in tolerances")


def _rejection(name: str, detail: str) -> Statistic:
    return Statistic(CHECK, name, math.inf, 0.0, True, detail)


def _no_gradient(step: int) -> Statistic:
    """Of θ_0, which is everybody's, no miner is to blame that it has none."""
    if step == 0:
        detail = "the checkpoint's own gradient on this batch is not finite here"
        return Statistic(CHECK, "finite", math.inf, 0.0, True, detail, undecided=True)
    return _rejection("finite", "θ before the step has no finite gradient")


def _largest(difference: F64, room: F64) -> float:
    """The worst value of |difference|/room; infinite where one is no number."""
    ratio = np.abs(difference) / room
    return float(ratio.max()) if np.isfinite(ratio).all() else math.inf


def _joined(items: Sequence[object], get: Callable[..., F32]) -> F64:
    return np.concatenate([get(one) for one in items]).astype(np.float64)


def _claimed(one: OpenedChunk, spec: GradientSpec) -> tuple[F32, ...]:
    if spec.optimiser == "sgd":
        return one.theta_after, one.delta
    return (one.theta_after, *(get(one) for get in _MOMENTS))


def _require_whole(chunks: Sequence[OpenedChunk], measured: MeasuredStep, spec: GradientSpec) -> None:
    own = measured.theta if measured.gradient is None else measured.gradient
    if not chunks or len(measured.theta) != len(chunks) or len(own) != len(chunks):
        raise ValueError(f"$opening.chunks: {len(chunks)} chunks, {len(measured.theta)} and {len(own)} measured ones")
    for number, (one, theta, gradient) in enumerate(zip(chunks, measured.theta, own, strict=True)):
        lengths = {len(theta), len(gradient), *(len(values) for values in _claimed(one, spec))}
        if lengths != {one.stop - one.start}:
            raise ValueError(f"$opening.chunks[{number}]: arrays of {sorted(lengths)} values for {one.stop - one.start}")


def _require_fitting(model: TrainedModel, opened: OpenedStep) -> None:
    if {name: value.shape for name, value in opened.theta.items()} != dict(model.sizes):
        raise ValueError("$opening.theta: not the tensors of the model")
    for number, one in enumerate(opened.chunks):
        size = math.prod(model.sizes[one.tensor][1]) if 0 <= one.tensor < len(model.sizes) else 0
        if not 0 <= one.start < one.stop <= size:
            raise ValueError(f"$opening.chunks[{number}]: elements {one.start} to {one.stop} of a tensor of {size}")
