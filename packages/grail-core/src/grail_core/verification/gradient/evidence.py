"""Is evidence of a round about this file? Whoever publishes it may say anything in it, so it is held against the file first.

Lengths follow from spec, layout and challenge, θ_j from public weights or the opening, and some numbers no measurement has.
What is left to a validator's word is what its model gave: that others compute the same is what equal bodies show.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.errors import ProtocolViolationError
from grail_core.files.gradient_evidence import MinerMeasured
from grail_core.gradient.update_file import sketch_rows
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.proof.replay import OpenedStep
from grail_core.proof.round_work import PREVIOUS, MeasuredSketches, MeasuredStep, Scored
from grail_core.protocol.constants import SKETCH_DIMENSIONS
from grail_core.protocol.gradient.spec import MICRO, GradientSpec
from grail_core.verification.gradient.files import Revealed

_CLIPPED: Final = 1 + 1e-3
"""A clipped gradient's norm is summed in float32: by so much it may be over."""


def require_measured_of(revealed: Revealed, opened: OpenedStep | None, measured: MinerMeasured, spec: GradientSpec) -> None:
    """The evidence is of this file, of what was drawn of it, and of numbers that a measurement can have.

    Args:
        opened: the step that the file's coin drew (`measure.opened_step`); None where it did not fall.

    Raises:
        ProtocolViolationError: how it does not fit.
    """
    seal = revealed.sealer.seal
    if measured.hotkey != revealed.sealer.hotkey or measured.content_digest != seal.content_digest:
        raise ProtocolViolationError("the evidence is about another file")
    problem = "" if measured.numerics_class in NUMERICS_CLASSES else "a numerics class that there is not"
    if not problem and measured.sketches is not None:
        rows = sketch_rows(revealed.header.batch)
        problem = _misfit_sketches(measured.sketches, (rows, spec.sequence_length, SKETCH_DIMENSIONS))
    if not problem and measured.replayed is not None:
        problem = _misfit_step(measured.replayed, measured.step, opened, spec)
    if not problem:
        own = min(spec.own, spec.inner_steps * revealed.header.batch)
        problem = _misfit_scored("common", measured.common, spec.common) or _misfit_scored("own", measured.own, own)
    if not problem and measured.own is not None and measured.common is None:
        problem = "losses on own data without those on common data"
    if problem:
        raise ProtocolViolationError(f"evidence of uid {revealed.sealer.uid}: {problem}")


def require_one_baseline(measured: Iterable[MinerMeasured]) -> None:
    """All are scored on the same common sequences, from the same weights.

    Raises:
        ProtocolViolationError: two say otherwise of the losses before.
    """
    before = [one.common.before for one in measured if one.common is not None]
    if not all(np.array_equal(a, b) for a, b in pairwise(before)):
        raise ProtocolViolationError("the losses before, of the same sequences, are others for one file than for another")


def _misfit_sketches(sketches: MeasuredSketches, shape: tuple[int, ...]) -> str:
    """What does not fit; empty where all does. A row whose states are not finite has no number at all."""
    if not set(sketches.previous) <= set(PREVIOUS) or (sketches.previous and sketches.reference is None):
        return "sketches of earlier checkpoints without those of the float32 copy, or of none that is compared with"
    named = {"z": sketches.own, **{f"z of {name}": z for name, z in sketches.previous.items()}}
    if sketches.reference is not None:
        named["z of the reference"] = sketches.reference
    for name, z in named.items():
        if z.shape != shape:
            return f"{name} of shape {z.shape}, not {shape}"
        if not _finite_or_nothing(z):
            return f"{name} that no measurement has"
    return ""


def _finite_or_nothing(z: npt.NDArray[np.float32]) -> bool:
    by_row = z.reshape(len(z), -1)
    return bool((np.isfinite(by_row).all(axis=1) | np.isnan(by_row).all(axis=1)).all())


def _misfit_step(measured: MeasuredStep, step: int | None, opened: OpenedStep | None, spec: GradientSpec) -> str:
    if opened is None:
        return "a replay of a file whose coin did not fall"
    if step != opened.step:
        return f"a replay of step {step}, drawn was {opened.step}"
    sizes = [one.stop - one.start for one in opened.chunks]
    if [len(part) for part in measured.theta] != sizes:
        return "a replay of other chunks than were drawn"
    public = opened.slices(list(opened.theta))
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(measured.theta, public, strict=True)):
        return "weights before the step that are not those that were opened"
    if measured.gradient is None:
        return ""
    if [len(part) for part in measured.gradient] != sizes:
        return "a gradient of other chunks than were drawn"
    gradient = np.concatenate(measured.gradient).astype(np.float64)
    if not all(np.isfinite(value).all() for value in opened.theta.values()):
        return "a gradient at weights that are not finite"
    # A comparison with what is no number is false.
    if not np.sqrt(np.square(gradient).sum()) <= spec.clip / MICRO * _CLIPPED:
        return "a gradient that is not finite, or longer than the clip leaves any"
    return ""


def _misfit_scored(name: str, scored: Scored | None, count: int) -> str:
    if scored is None:
        return ""
    if len(scored.before) != count or len(scored.after) != count:
        return f"{len(scored.before)} and {len(scored.after)} losses on {name} data, {count} sequences are drawn"
    if (scored.before < 0).any() or (scored.after < 0).any():
        return f"losses on {name} data below zero"
    return ""
