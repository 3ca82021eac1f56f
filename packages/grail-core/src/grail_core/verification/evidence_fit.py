"""Is evidence about this file? Whoever publishes evidence may say anything in it, so it is held against the rows first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.proof.alternative_test import WEIGHTS_ALTERNATIVES
from grail_core.proof.pooled import UNIT
from grail_core.proof.sketches import ROUNDING_VARIANCE
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES
from grail_core.proof.work import MOST_LEAD, OWN, REFERENCE, YARDSTICKS, ComparedRollout, RolloutMeasurement, within
from grail_core.protocol.constants import SKETCH_DIMENSIONS
from grail_core.verification.window_file import Submission

SAME_SKETCH: Final = 1 / 4096
"""Two float32 passes over one rollout, in whatever batches, agree to less than a sketch's step on the wire."""

SAME_SPREAD: Final = 1e-3
SAME_NOISE: Final = 16.0
"""Where its states were not kept the own pass is run again, in other batches, and rounds otherwise: the noise of a file, of
logits and of sketches, stays within this factor of the first, in variance."""

_NOISE_FLOOR: Final = 1e-8  # nats²: of less than this any factor says nothing


def require_evidence_of(submission: Submission, evidence: MinerEvidence) -> None:
    """Every rollout of the evidence is one of the file, once, and what was measured has the shape of its positions.

    Raises:
        ProtocolViolationError: which rollout of the evidence does not fit, and how.
    """
    if evidence.hotkey != submission.hotkey or evidence.content_digest != submission.content_digest:
        raise ProtocolViolationError("the evidence is about another file")
    if evidence.layers < 1 or evidence.hidden_size < 1 or evidence.inconclusive < 0:
        raise ProtocolViolationError("the evidence is of a model without layers, or of less than no rollouts")
    if not evidence.rollouts:
        raise ProtocolViolationError("the evidence is of no rollout")
    seen: set[tuple[int, int]] = set()
    for one in evidence.rollouts:
        where = f"evidence of group {one.group}, rollout {one.rollout}"
        if (one.group, one.rollout) in seen:
            raise ProtocolViolationError(f"{where}: it stands twice")
        seen.add((one.group, one.rollout))
        try:
            length = submission.rollout_of(one.group, one.rollout).completion_length
        except KeyError:
            raise ProtocolViolationError(f"{where}: the file has no such rollout") from None
        if problem := _misfit(one, length):
            raise ProtocolViolationError(f"{where}: {problem}")
    if _has_other_noise(evidence.rollouts):
        raise ProtocolViolationError("the evidence compares with another noise than that beside its reference")
    if _has_other_drift(evidence.rollouts):
        raise ProtocolViolationError("the evidence compares with another own drift than that beside its reference")


def _misfit(one: RolloutEvidence, length: int) -> str:
    """What does not fit a completion of so many tokens; empty where all does."""
    if not _are_positions(one.positions, length):
        return f"positions that are none or not ascending, or outside a completion of {length} tokens"
    k = len(one.positions)
    shapes: list[tuple[str, npt.NDArray[np.generic], tuple[int, ...]]] = [
        ("z", one.z, (k, SKETCH_DIMENSIONS)),
        ("logprob", one.logprob, (k,)),
        ("margin", one.margin, (k,)),
    ]
    if one.reference is not None:
        shapes += [
            (f"reference {name}", values, (k, SKETCH_DIMENSIONS) if name == "z" else (k,))
            for name, values in vars(one.reference).items()
        ]
    for name, values, shape in shapes:
        if values.shape != shape:
            return f"{name} of shape {values.shape}, not {shape}"
    # What the model process may answer, and nothing else, may stand in evidence too.
    measured = RolloutMeasurement(
        tuple(one.positions.tolist()), one.z, one.logprob, one.margin.astype(np.float64), one.reference
    )
    if not measured.possible:
        return "numbers that no measurement has"
    if one.compared is None:
        return ""
    return _misfit_compared(one.compared, one.positions, length) or _other_reference(one, one.compared)


def _misfit_compared(compared: ComparedRollout, challenged: npt.NDArray[np.int32], length: int) -> str:
    """The same of a comparison. Every number in one is finite: what is not was left out, with its whole alternative."""
    positions = np.asarray(compared.positions, np.int32)
    if not _are_positions(positions, length):
        return f"compared positions that are none or not ascending, or outside a completion of {length} tokens"
    if not np.isin(challenged, positions).all():
        return "a comparison without the challenged positions"
    if (compared.leads or compared.z) and not compared.z.keys() >= YARDSTICKS:
        return "a comparison without the sketches of the reference, or of the own pass"
    m = len(positions)
    numbers: list[tuple[str, npt.NDArray[Any], tuple[int, ...], float, float]] = [
        ("noise", compared.noise, (m,), 0.0, math.inf),
        ("spread", compared.spread, (m,), 0.0, 1.0),
        *((f"z of {name!r}", z, (m, SKETCH_DIMENSIONS), -math.inf, math.inf) for name, z in compared.z.items()),
    ]
    for name, leads in compared.leads.items():
        numbers += [
            (f"own leads of {name!r}", leads.own, (m,), 0.0, MOST_LEAD),
            (f"other leads of {name!r}", leads.other, (m,), -MOST_LEAD, MOST_LEAD),
            (f"rivals of {name!r}", leads.rival, (m,), -1, np.iinfo(np.int32).max),
        ]
    for name, values, shape, least, most in numbers:
        if values.shape != shape:
            return f"{name} of shape {values.shape}, not {shape}"
        if not np.isfinite(values).all() or not within(values, least, most):
            return f"{name} that no comparison gives"
    sketched, drawn = set(compared.z) - YARDSTICKS, set(compared.leads) - set(SAMPLING_ALTERNATIVES)
    if foreign := sorted((sketched | drawn) - set(WEIGHTS_ALTERNATIVES)):
        return f"a comparison with {foreign[0]!r}, which nothing is tested for"
    return f"leads of {min(drawn - sketched)!r} without its sketches" if drawn - sketched else ""


def _other_reference(one: RolloutEvidence, compared: ComparedRollout) -> str:
    """At the challenged positions a comparison has the numbers of the rollout's reference once more."""
    reference = one.reference
    if reference is None or not reference.finite or not compared.z:
        return ""
    at = np.searchsorted(compared.positions, one.positions)
    if not within(compared.z[REFERENCE][at].astype(np.float64) - reference.z, -SAME_SKETCH, SAME_SKETCH):
        return "a comparison with another reference than its own"
    if compared.leads and not within(compared.spread[at] - reference.spread, -SAME_SPREAD, SAME_SPREAD):
        return "a comparison with another spread than its reference's"
    return ""


def _has_other_noise(rollouts: Sequence[RolloutEvidence]) -> bool:
    """Whether noise at the challenged positions of all rollouts whose tokens were compared is far from the first pass's."""
    first, again, weights = [], [], []
    for one in rollouts:
        if one.reference is None or not one.reference.finite or one.compared is None or not one.compared.leads:
            continue
        at = np.searchsorted(one.compared.positions, one.positions)
        first += one.reference.noise.tolist()
        again += one.compared.noise[at].tolist()
        weights += one.reference.spread.tolist()
    if len(first) < UNIT:
        return False
    floor = _NOISE_FLOOR * math.fsum(weights)
    before, after = (math.fsum(n * w for n, w in zip(noise, weights, strict=True)) + floor for noise in (first, again))
    return not before / SAME_NOISE <= after <= before * SAME_NOISE


def _has_other_drift(rollouts: Sequence[RolloutEvidence]) -> bool:
    """The same of sketches, over all rollouts that were compared."""
    first, again = [], []
    for one in rollouts:
        if one.reference is None or not one.reference.finite or one.compared is None or not one.compared.z:
            continue
        if not np.isfinite(one.z).all():
            continue
        at = np.searchsorted(one.compared.positions, one.positions)
        first.append(one.z - one.reference.z)
        again.append(one.compared.z[OWN][at] - one.compared.z[REFERENCE][at])
    if sum(map(len, first)) < UNIT:
        return False
    floor = ROUNDING_VARIANCE * sum(one.size for one in first)
    before, after = (math.fsum(float(np.square(z, dtype=np.float64).sum()) for z in some) + floor for some in (first, again))
    return not before / SAME_NOISE <= after <= before * SAME_NOISE


def _are_positions(positions: npt.NDArray[np.int32], length: int) -> bool:
    if positions.ndim != 1 or not len(positions):
        return False
    return bool(positions[0] >= 0 and positions[-1] < length and (np.diff(positions) > 0).all())
