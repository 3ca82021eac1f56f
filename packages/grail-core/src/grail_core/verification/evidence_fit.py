"""Is evidence about this file? Whoever publishes evidence may say anything in it, so it is held against the rows first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.protocol.constants import SKETCH_DIMENSIONS
from grail_core.verification.window_file import Submission


def require_evidence_of(submission: Submission, evidence: MinerEvidence) -> None:
    """Every rollout of the evidence is one of the file, once, and what was measured has the shape of its positions.

    Raises:
        ProtocolViolationError: which rollout of the evidence does not fit, and how.
    """
    if evidence.hotkey != submission.hotkey or evidence.content_digest != submission.content_digest:
        raise ProtocolViolationError("the evidence is about another file")
    if evidence.layers < 1 or evidence.hidden_size < 1 or evidence.inconclusive < 0:
        raise ProtocolViolationError("the evidence is of a model without layers, or of less than no rollouts")
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


def _misfit(one: RolloutEvidence, length: int) -> str:
    """What does not fit a completion of so many tokens; empty where all does."""
    for name, positions in (("positions", one.positions), ("alternative positions", one.alternative_positions)):
        if not _are_positions(positions, length):
            return f"{name} that are not ascending, or outside a completion of {length} tokens"
    k = len(one.positions)
    for name, values, shape in (
        ("z", one.z, (k, SKETCH_DIMENSIONS)),
        ("logprob", one.logprob, (k,)),
        ("margin", one.margin, (k,)),
        *(
            (f"alternative {name!r}", v, (len(one.alternative_positions), SKETCH_DIMENSIONS))
            for name, v in one.alternatives.items()
        ),
    ):
        if values.shape != shape:
            return f"{name} of shape {values.shape}, not {shape}"
    if one.alternatives and not np.isin(one.positions, one.alternative_positions).all():
        return "alternatives without the challenged positions"
    return ""


def _are_positions(positions: npt.NDArray[np.int32], length: int) -> bool:
    if positions.ndim != 1 or not len(positions):
        return positions.ndim == 1
    return bool(positions[0] >= 0 and positions[-1] < length and (np.diff(positions) > 0).all())
