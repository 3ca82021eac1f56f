"""The four pooled tests: a file's claims and the validator's own numbers, both against one float32 reference.

Honest drift moves by a factor of three between models and margins by a hundred; their ratios to what the validator itself
drifts by on the very same tokens hardly move, so one table serves all sizes:

* `sketch_ratio`: ln of the claims' mean squared sketch error over the validator's own (and a claimed word's rounding);
* `twin_margin`: Σ min(m/8S, 1) − min(m'/8S, 1), m the margin of the claimed token under the reference, m' that of the token
  that the validator's own logits choose, S the own noise of a difference of two logits over the file;
* `logprob_ratio`: as the first, of log-probabilities weighted by 1 − p;
* `twin_logprob`: as the second, of their absolute errors.

A value is of one unit: a rollout, where it has the 32 positions of a challenge. Shorter ones are joined, for a ratio until
they have as many (of fewer it is too noisy), for a sum as long as they have no more; longer ones are cut for a sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.calibration import BOUNDS
from grail_core.proof.comparison import Comparison, ReferenceComparison
from grail_core.proof.sketches import ROUNDING_VARIANCE
from grail_core.protocol.constants import (
    COARSE_ERROR_BOUND,
    COARSE_LOGPROB_BOUND,
    COARSE_MARGIN,
    MARGIN_CLIP,
    SKETCH_DIMENSIONS,
)

UNIT: Final = 32
"""Positions of a unit: what a challenge opens of a rollout that is long enough."""

MOST_OWN_DRIFT: Final = 0.05
"""RMS of a coordinate; a validator whose own pass lies further from the reference, or not at all, measures nothing."""

NO_REFERENCE: Final = "no rollout has a float32 reference that says anything"

LOGPROB_FLOOR: Final = 1e-6
"""nats² of a unit, on either side of the ratio: where every token is sure, neither side errs by more than float32 does."""

NOISES: Final = 8.0
"""A margin, or an error of a log-probability, counts in full at so many times the own noise of a difference of two logits."""

_WORST: Final = 1e9  # nats

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Paired:
    """The positions of a file's usable rollouts, end to end; all float64 [positions]."""

    lengths: tuple[int, ...]  # positions of every rollout
    errors: Floats  # Σ over coordinates of the claims' squared errors
    drift: Floats  # of the validator's own
    logprob_errors: Floats
    logprob_drift: Floats
    informative: Floats
    margins: Floats
    twins: Floats
    own_drift: float  # RMS of a coordinate
    own_noise: float  # S, nats
    left_out: int  # rollouts whose reference says nothing

    @property
    def undecided(self) -> str:
        """Why nothing can be decided from this file's measurement; empty where it can."""
        return unsound(self.own_drift) if self.lengths else NO_REFERENCE

    @classmethod
    def of(cls, sample: Sequence[Comparison]) -> Paired | None:
        """None where no rollout has a reference.

        A rollout is left out where the reference has a number that is none, or lies as far from the validator's own pass as
        another model would: nobody proved by the reference, so that is nobody's fault.
        """
        beside = [one.reference for one in sample if one.reference is not None]
        if not beside:
            return None
        lengths = np.array([len(one.margins) for one in beside])
        starts = np.cumsum(lengths) - lengths
        parts = _positions(beside)
        noise, spread = parts.pop("noise"), parts.pop("spread")
        measured = [values for name, values in parts.items() if name not in ("errors", "logprob_errors")]
        finite = np.isfinite(sum(measured, noise + spread))
        with np.errstate(invalid="ignore"):  # comparisons with what is no number are false
            usable = (
                np.logical_and.reduceat(finite, starts)
                & (np.add.reduceat(parts["drift"], starts) <= lengths * SKETCH_DIMENSIONS * COARSE_ERROR_BOUND**2)
                & (np.add.reduceat(np.square(parts["logprob_drift"]), starts) <= lengths * COARSE_LOGPROB_BOUND**2)
                & (np.maximum.reduceat(noise, starts) <= COARSE_MARGIN**2)
            )
        kept = np.repeat(usable, lengths)
        taken = {name: values[kept] for name, values in parts.items()}
        noise, spread, count = noise[kept], spread[kept], int(kept.sum())
        return cls(
            lengths=tuple(lengths[usable].tolist()),
            **taken,
            own_drift=math.sqrt(math.fsum(taken["drift"]) / (SKETCH_DIMENSIONS * count)) if count else 0.0,
            own_noise=math.sqrt(math.fsum(noise * spread) / max(math.fsum(spread), 1e-30)),
            left_out=len(beside) - int(usable.sum()),
        )


def unsound(own_drift: float) -> str:
    """Why a validator with this drift can decide nothing that is relative to it; empty where it can."""
    if 0 < own_drift <= MOST_OWN_DRIFT:
        return ""
    return f"the validator's own drift of {own_drift:.3g} is not above 0 and at most {MOST_OWN_DRIFT:g}"


def unit_values(name: str, paired: Paired) -> Floats:
    """One value per unit under a pooled statistic, clipped to its bounds; what a table is fitted to."""
    if not paired.lengths:
        return np.empty(0)
    low, high = BOUNDS[name]
    of_units: Floats = np.clip(_VALUES[name](paired), low, high)
    return of_units


def _sketch_ratios(paired: Paired) -> Floats:
    starts = _joined(paired.lengths)
    coordinates = SKETCH_DIMENSIONS * np.diff(np.append(starts, len(paired.errors)))
    claimed, own = (np.add.reduceat(values, starts) / coordinates for values in (paired.errors, paired.drift))
    return _log_ratio(claimed, own + ROUNDING_VARIANCE)


def _logprob_ratios(paired: Paired) -> Floats:
    starts = _joined(paired.lengths)
    errors, drift = (
        np.add.reduceat(paired.informative * np.square(values), starts)
        for values in (paired.logprob_errors, paired.logprob_drift)
    )
    return _log_ratio(errors + LOGPROB_FLOOR, drift + LOGPROB_FLOOR)


def _twin_margins(paired: Paired) -> Floats:
    return _twins(paired, paired.margins, paired.twins)


def _twin_logprobs(paired: Paired) -> Floats:
    return _twins(paired, np.abs(paired.logprob_errors), np.abs(paired.logprob_drift))


def _twins(paired: Paired, claimed: Floats, own: Floats) -> Floats:
    scale = max(NOISES * paired.own_noise, 1e-9)  # without noise the smallest difference counts in full
    lost = np.minimum(claimed / scale, 1.0) - np.minimum(own / scale, 1.0)
    sums: Floats = np.add.reduceat(lost, _cut(paired.lengths))
    return sums


_VALUES: Final = {
    "sketch_ratio": _sketch_ratios,
    "twin_margin": _twin_margins,
    "logprob_ratio": _logprob_ratios,
    "twin_logprob": _twin_logprobs,
}


def _log_ratio(over: Floats, under: Floats) -> Floats:
    with np.errstate(divide="ignore"):  # claims without any error: −∞, clipped
        ratios: Floats = np.log(over / under)
    return ratios


def _joined(lengths: Sequence[int]) -> npt.NDArray[np.intp]:
    """Where units of whole rollouts start that have at least UNIT positions, all of them if they have fewer."""
    starts, filled, at = [0], 0, 0
    for length in lengths:
        if filled >= UNIT:
            starts.append(at)
            filled = 0
        filled, at = filled + length, at + length
    return np.array(starts if filled >= UNIT or len(starts) == 1 else starts[:-1])


def _cut(lengths: Sequence[int]) -> npt.NDArray[np.intp]:
    """Where units start that have at most UNIT positions: several whole rollouts, or a part of one."""
    starts, filled, at = [0], 0, 0
    for length in lengths:
        if filled and filled + length > UNIT:
            starts.append(at)
            filled = 0
        for cut in range(UNIT, length, UNIT):
            starts.append(at + cut)
        filled += length - (length - 1) // UNIT * UNIT
        at += length
    return np.array(starts)


def _positions(beside: Sequence[ReferenceComparison]) -> dict[str, Floats]:
    """Every field of the comparisons, end to end; of sketches the sums of squares, margins within what margins can be."""
    fields: dict[str, Floats] = {
        name: np.concatenate([getattr(one, name) for one in beside]).astype(np.float64)
        for name in ("logprob_errors", "logprob_drift", "informative", "margins", "twins", "noise", "spread")
    }
    for name in ("errors", "drift"):
        squares = np.square(np.concatenate([getattr(one, name) for one in beside]), dtype=np.float64)
        fields[name] = np.add.reduce(squares, axis=1)
    for name in ("margins", "twins"):
        fields[name] = np.where(np.isfinite(fields[name]), np.clip(fields[name], 0, MARGIN_CLIP), np.nan)
    # A claim that is no number is refused where it is read; here it is the worst one, and no reason to leave anything out.
    fields["logprob_errors"] = np.nan_to_num(fields["logprob_errors"], nan=_WORST, posinf=_WORST, neginf=-_WORST)
    return fields
