"""Checks 7 to 9 from evidence: `proof`, `logprob` and `sampling`, each one or more statistics with stated error.

The numbers and their bounds are `grail_core.proof.statistics`'; here a miner's claims are put beside what was measured, and a
statistic becomes a finding. One that is not enforced (no calibration for the pair of numerics classes) is reported as such.
The statistics of the named alternatives are computed apart: they are measured only for a file that the others let pass, and
what was compared before is not compared again.

Proof batches that memory did not hold were measured in parts, and the evidence says so. No table was fitted for products of
such shapes, so what would reject by a table is inconclusive then; the coarse bounds and the comparison with alternatives need
none, and reject as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.proof.calibration import STATISTICS, CalibrationTable, PairCalibration, Shape
from grail_core.proof.comparison import (
    CHECKS,
    AlternativeSketches,
    Comparison,
    Float32Comparison,
    Statistic,
    compare,
    in_float32,
)
from grail_core.proof.numerics import class_and_parts
from grail_core.proof.sketches import parse_sketches
from grail_core.proof.statistics import alternative_statistics, own_statistics
from grail_core.protocol import Finding, Outcome, RolloutRecord
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import say

NOT_ENFORCED: Final = " (reported, not enforced)"
"""Ends the detail of a finding that nobody acts on."""


def sample_statistics(submission: Submission, evidence: MinerEvidence, table: CalibrationTable) -> list[Statistic]:
    """The coarse bounds and the pooled statistics of a file's sample."""
    sample = [_comparison(submission.rollout_of(one.group, one.rollout), one) for one in evidence.rollouts]
    own, _ = class_and_parts(evidence.numerics_class)
    margins = table.lookup(submission.file.header.generation_class, own)
    return own_statistics(sample, _pair(submission, evidence, table), margins=margins, shape=_shape(evidence))


def alternatives_statistics(submission: Submission, evidence: MinerEvidence, table: CalibrationTable) -> list[Statistic]:
    """One statistic for every alternative that the evidence holds; none where none was measured."""
    tested = [
        _under_alternatives(submission.rollout_of(one.group, one.rollout), one) for one in evidence.rollouts if one.alternatives
    ]
    return alternative_statistics(tested, _pair(submission, evidence, table), shape=_shape(evidence))


def rejects(statistic: Statistic, evidence: MinerEvidence) -> bool:
    """Whether this statistic of this evidence fails the file."""
    return statistic.rejects and not _is_undecided(statistic, evidence)


def findings_of(statistics: Sequence[Statistic], evidence: MinerEvidence) -> list[Finding]:
    """One finding per statistic, in the order of the checks; ends with the first check that rejects."""
    findings: list[Finding] = []
    for check in CHECKS:
        of_check = [statistic for statistic in statistics if statistic.check == check]
        findings += [_finding(statistic, evidence) for statistic in of_check]
        if any(rejects(statistic, evidence) for statistic in of_check):
            break
    return findings


def _is_undecided(statistic: Statistic, evidence: MinerEvidence) -> bool:
    """It would reject by a table that was fitted on whole proof batches, and these were not measured whole."""
    _, parts = class_and_parts(evidence.numerics_class)
    return parts is not None and statistic.rejects and statistic.name in STATISTICS


def _pair(submission: Submission, evidence: MinerEvidence, table: CalibrationTable) -> PairCalibration | None:
    """Of what computed sketches and log-probabilities; what drew the tokens is `sample_statistics`'."""
    own, _ = class_and_parts(evidence.numerics_class)
    return table.lookup(submission.file.header.proof_class, own)


def _shape(evidence: MinerEvidence) -> Shape:
    return Shape(evidence.layers, evidence.hidden_size)


def _sketches_of_completion(record: RolloutRecord) -> npt.NDArray[np.int16]:
    # Sketch i + 1 is at completion token i's own position: sketch 0 belongs to the last prompt token.
    return parse_sketches(record.sketches, record.completion_length + 1)[1:]


def _comparison(record: RolloutRecord, one: RolloutEvidence) -> Comparison:
    return compare(
        one.group,
        one.rollout,
        claimed_sketches=_sketches_of_completion(record)[one.positions],
        claimed_logprobs=record.logprobs[one.positions],
        z=one.z,
        logprobs=one.logprob,
        margins=one.margin,
    )


def _under_alternatives(record: RolloutRecord, one: RolloutEvidence) -> Float32Comparison:
    claimed = _sketches_of_completion(record)[one.alternative_positions]
    challenged = np.searchsorted(one.alternative_positions, one.positions)
    return in_float32(AlternativeSketches(claimed, one.alternatives, challenged), one.z)


def _finding(statistic: Statistic, evidence: MinerEvidence) -> Finding:
    detail = f"{statistic.name}: {statistic.detail}"
    _, parts = class_and_parts(evidence.numerics_class)
    if parts is not None:
        detail += f"; batches that memory did not hold were measured in parts of {parts}"
    if not statistic.enforced:
        detail += NOT_ENFORCED
    outcome = Outcome.REJECT if statistic.rejects else Outcome.ACCEPT
    return say(
        Outcome.INCONCLUSIVE if _is_undecided(statistic, evidence) else outcome,
        statistic.check,
        value=float(statistic.value),
        threshold=None if statistic.threshold is None else float(statistic.threshold),
        detail=detail,
        group=statistic.group,
        rollout=statistic.rollout,
    )
