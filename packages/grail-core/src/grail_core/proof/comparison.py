"""One sampled rollout: what it claims beside what was measured of it, and the form in which a number about rollouts is said.

A number that is not finite stands for the worst value wherever it turns up in what the validator's own pass says, never for
none: a claim cannot be one (the record refuses it), and a measured one means that the model's own state is not finite there,
which no honest miner could have proved. The float32 reference is another matter: nobody proved by it, so where it has no
number, or lies as far from the validator's own pass as another model would, nothing is known of the rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.sketches import differences
from grail_core.proof.work import OWN, REFERENCE, YARDSTICKS, AskedAlternatives, ComparedRollout, Leads, ReferenceMeasurement
from grail_core.protocol.constants import COARSE_ERROR_BOUND, COARSE_MARGIN, MARGIN_CLIP

CHECKS: Final = ("proof", "logprob", "sampling")
"""The checks of section 9 that a statistic belongs to, in their order."""


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

    errors: npt.NDArray[np.float32]  # [m, 4] claimed z minus the validator's own
    deltas: Mapping[str, npt.NDArray[np.float32]]  # alternative that is other weights → [m, 4], its z minus the reference's
    drift: npt.NDArray[np.float32]  # [m, 4] the validator's own z minus the reference's
    tokens: npt.NDArray[np.int32]  # [m] the claimed tokens
    leads: Mapping[str, Leads]  # every alternative, those that only sample otherwise among them
    noise: npt.NDArray[np.float32]  # [m]
    spread: npt.NDArray[np.float32]  # [m]

    def only(self, asked: AskedAlternatives) -> NamedComparison:
        """What would be known of it, had so much been asked."""
        sketches = asked.sketches | asked.tokens
        kept = replace(
            self,
            deltas={name: delta for name, delta in self.deltas.items() if name in sketches},
            leads={name: leads for name, leads in self.leads.items() if name in asked.tokens},
        )
        return kept if asked.tokens else replace(kept, noise=0 * self.noise, spread=0 * self.spread)

    @property
    def usable(self) -> bool:
        """Whether the reference says anything of this rollout; if not, that is nobody's fault."""
        return (
            all(bool(np.isfinite(values).all()) for values in (self.errors, self.drift, self.noise, self.spread))
            and _mean_square(self.drift) <= COARSE_ERROR_BOUND**2
            and float(self.noise.max(initial=0.0)) <= COARSE_MARGIN**2
        )


@dataclass(frozen=True)
class Comparison:
    """One sampled rollout: claims against measurements at its k challenged positions."""

    group: int
    rollout: int
    errors: npt.NDArray[np.float32]  # [k, 4] claimed minus measured z; not finite where the measured state has no sketch
    logprob_errors: npt.NDArray[np.float32]  # [k] claimed minus measured, nats
    informative: npt.NDArray[np.float32]  # [k] 1 − p of the token as measured: where it is sure, any model's claim is right
    margins: npt.NDArray[np.float64]  # [k] as measured; `lost` is what statistics take
    reference: ReferenceComparison | None = None  # None: whoever measured has no float32 copy of the model
    named: NamedComparison | None = None  # None: no alternative was measured on this rollout

    @property
    def lost(self) -> npt.NDArray[np.float64]:
        """[k] `lost_margins` of these."""
        return lost_margins(self.margins)


def lost_margins(margins: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The margins; MARGIN_CLIP, the worst there is, for what no margin can be."""
    possible = (margins >= 0) & (margins <= MARGIN_CLIP)
    return np.where(possible, margins, MARGIN_CLIP)


def compare(
    group: int,
    rollout: int,
    *,
    claimed_sketches: npt.NDArray[np.int16],
    claimed_logprobs: npt.NDArray[np.float32],
    z: npt.NDArray[np.float32],
    logprobs: npt.NDArray[np.float32],
    margins: npt.NDArray[np.floating],
    reference: ReferenceMeasurement | None = None,
    named: NamedComparison | None = None,
) -> Comparison:
    """All arrays at the challenged positions alone, in one order; sketches as `parse_sketches` gives them.

    Args:
        named: what `compare_named` makes of the same rollout.
    """
    measured = np.asarray(logprobs, dtype=np.float32)
    claimed = np.asarray(claimed_logprobs, dtype=np.float32)
    beside = None
    if reference is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # what is no number leaves the rollout unusable
            beside = ReferenceComparison(
                errors=differences(claimed_sketches, reference.z),
                drift=z - reference.z,
                logprob_errors=claimed - reference.logprobs,
                logprob_drift=measured - reference.logprobs,
                informative=_doubt(reference.logprobs),
                margins=reference.margins,
                twins=reference.twins,
                noise=reference.noise,
                spread=reference.spread,
            )
    return Comparison(
        group=group,
        rollout=rollout,
        errors=differences(claimed_sketches, z),
        logprob_errors=claimed - measured,
        informative=_doubt(measured),
        margins=np.asarray(margins, dtype=np.float64),
        reference=beside,
        named=named,
    )


def compare_named(
    *,
    claimed_sketches: npt.NDArray[np.int16],
    tokens: npt.NDArray[np.int32],
    compared: ComparedRollout,
) -> NamedComparison | None:
    """A rollout under named alternatives; None where a yardstick had no number, so that nothing is known of it.

    Args:
        claimed_sketches: [m, 4], tokens: [m], both at the compared positions.
    """
    reference, own = (compared.z.get(name) for name in (REFERENCE, OWN))
    if reference is None or own is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        return NamedComparison(
            errors=differences(claimed_sketches, own),
            deltas={name: other - reference for name, other in compared.z.items() if name not in YARDSTICKS},
            drift=own - reference,
            tokens=np.asarray(tokens, dtype=np.int32),
            leads=compared.leads,
            noise=compared.noise,
            spread=compared.spread,
        )


@dataclass(frozen=True)
class Statistic:
    """One number with its bound. It rejects when it is enforced and its value exceeds the threshold.

    `check` is the check of section 9 it belongs to; `threshold` is None where there is nothing to compare with. `undecided`:
    the measurement itself was not sound enough to say anything, so it rejects nobody.
    """

    check: str
    name: str
    value: float
    threshold: float | None
    enforced: bool
    detail: str
    group: int | None = None  # the set of rollouts it is about, where that is not the whole sample
    rollout: int | None = None
    undecided: bool = False

    @property
    def rejects(self) -> bool:
        """A value that is no number is within no bound."""
        return self.enforced and not self.undecided and self.exceeds

    @property
    def exceeds(self) -> bool:
        """Whether the value is above the bound, whoever acts on it."""
        return self.threshold is not None and not self.value <= self.threshold


def shortened(value: float) -> float:
    """Six digits, so that the same evidence gives the same text on any machine."""
    return float(f"{value:.6g}")


def _doubt(logprobs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    doubt: npt.NDArray[np.float32] = -np.expm1(np.minimum(logprobs, np.float32(0)))
    return doubt


def _mean_square(values: npt.NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).mean()) if values.size else 0.0
