"""One sampled rollout: what it claims beside what was measured of it, and the form in which a number about rollouts is said.

A number that is not finite stands for the worst value wherever it turns up, never for none: a claim cannot be one (the
record refuses it), and a measured one means that the model's own state is not finite there, which no honest miner could have
proved. So it counts against the claim, whoever computed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.alternative_test import REFERENCE
from grail_core.proof.sketches import differences
from grail_core.proof.work import Leads
from grail_core.protocol.constants import MARGIN_CLIP

CHECKS: Final = ("proof", "logprob", "sampling")
"""The checks of section 9 that a statistic belongs to, in their order."""


@dataclass(frozen=True)
class AlternativeSketches:
    """One rollout under other weights, at m completion positions with the k challenged ones among them."""

    claimed: npt.NDArray[np.int16]  # [m, 4] sketch words
    z: Mapping[str, npt.NDArray[np.float32]]  # [m, 4] float32 z by name, the reference's among them
    challenged: npt.NDArray[np.intp]  # [k] which of the m they are


@dataclass(frozen=True)
class Float32Comparison:
    """One rollout against the current model computed in float32; what `alternative_test.sums` takes."""

    errors: npt.NDArray[np.float32]  # [m, 4] claimed z minus the reference's
    deltas: Mapping[str, npt.NDArray[np.float32]]  # alternative → [m, 4], its z minus the reference's
    drift: npt.NDArray[np.float32]  # [k, 4] the validator's own z, in its own numerics, minus the reference's


@dataclass(frozen=True)
class ReferenceComparison:
    """One rollout's claims, and the validator's own numbers, against the float32 reference at the k challenged positions."""

    errors: npt.NDArray[np.float32]  # [k, 4] claimed z minus the reference's
    drift: npt.NDArray[np.float32]  # [k, 4] the validator's own z minus the reference's
    logprob_errors: npt.NDArray[np.float32]  # [k] claimed minus the reference's, nats
    logprob_drift: npt.NDArray[np.float32]  # [k] the validator's own minus the reference's, nats
    informative: npt.NDArray[np.float32]  # [k] 1 − p of the token under the reference
    margins: npt.NDArray[np.float32]  # [k] of the claimed token under the reference
    twins: npt.NDArray[np.float32]  # [k] of the token that the validator's own logits choose
    noise: npt.NDArray[np.float32]  # [k] variance of the difference of two logits, nats²
    spread: npt.NDArray[np.float32]  # [k] 1 − Σ p²


@dataclass(frozen=True)
class NamedComparison:
    """One rollout against named alternatives at m positions; what `alternative_test` and `token_test` take."""

    errors: npt.NDArray[np.float32]  # [m, 4] claimed z minus the reference's
    deltas: Mapping[str, npt.NDArray[np.float32]]  # alternative that is other weights → [m, 4], its z minus the reference's
    drift: npt.NDArray[np.float32]  # [k, 4] the validator's own z minus the reference's, at the challenged positions
    tokens: npt.NDArray[np.int32]  # [m] the claimed tokens
    leads: Mapping[str, Leads]  # every alternative, those that only sample otherwise among them
    noise: npt.NDArray[np.float32]  # [m]
    spread: npt.NDArray[np.float32]  # [m]


@dataclass(frozen=True)
class Comparison:
    """One sampled rollout: claims against measurements at its k challenged positions."""

    group: int
    rollout: int
    errors: npt.NDArray[np.float32]  # [k, 4] claimed minus measured z; not finite where the measured state has no sketch
    logprob_errors: npt.NDArray[np.float32]  # [k] claimed minus measured, nats
    informative: npt.NDArray[np.float32]  # [k] 1 − p of the token as measured: where it is sure, any model's claim is right
    margins: npt.NDArray[np.float64]  # [k] as measured; `lost` is what statistics take
    in_float32: Float32Comparison | None = None  # None: the alternatives were not measured on this rollout

    @property
    def lost(self) -> npt.NDArray[np.float64]:
        """[k] the margins; MARGIN_CLIP, the worst there is, for what no margin can be."""
        possible = (self.margins >= 0) & (self.margins <= MARGIN_CLIP)
        return np.where(possible, self.margins, MARGIN_CLIP)


def compare(
    group: int,
    rollout: int,
    *,
    claimed_sketches: npt.NDArray[np.int16],
    claimed_logprobs: npt.NDArray[np.float32],
    z: npt.NDArray[np.float32],
    logprobs: npt.NDArray[np.float32],
    margins: npt.NDArray[np.floating],
    others: AlternativeSketches | None = None,
) -> Comparison:
    """All arrays but those of `others` at the challenged positions alone, in one order; sketches as `parse_sketches` gives."""
    measured = np.asarray(logprobs, dtype=np.float32)
    return Comparison(
        group=group,
        rollout=rollout,
        errors=differences(claimed_sketches, z),
        logprob_errors=np.asarray(claimed_logprobs, dtype=np.float32) - measured,
        informative=-np.expm1(np.minimum(measured, 0)),
        margins=np.asarray(margins, dtype=np.float64),
        in_float32=None if others is None else in_float32(others, z),
    )


def in_float32(others: AlternativeSketches, z: npt.NDArray[np.float32]) -> Float32Comparison:
    """What the test of alternatives takes. `z` [k, 4]: the validator's own sketches at the challenged positions."""
    reference = others.z[REFERENCE]
    deltas = {name: other - reference for name, other in others.z.items() if name != REFERENCE}
    return Float32Comparison(differences(others.claimed, reference), deltas, z - reference[others.challenged])


@dataclass(frozen=True)
class Statistic:
    """One number with its bound. It rejects when it is enforced and its value exceeds the threshold.

    `check` is the check of section 9 it belongs to; `threshold` is None where there is nothing to compare with.
    """

    check: str
    name: str
    value: float
    threshold: float | None
    enforced: bool
    detail: str
    group: int | None = None  # the set of rollouts it is about, where that is not the whole sample
    rollout: int | None = None

    @property
    def rejects(self) -> bool:
        """A value that is no number is within no bound."""
        return self.enforced and self.threshold is not None and not self.value <= self.threshold


def shortened(value: float) -> float:
    """Six digits, so that the same evidence gives the same text on any machine."""
    return float(f"{value:.6g}")
