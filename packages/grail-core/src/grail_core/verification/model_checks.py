"""Checks 7 to 9 from evidence: `proof`, `logprob` and `sampling`, each one or more statistics with stated error.

The numbers and their bounds are `grail_core.proof.statistics`'; here a miner's claims are put beside what was measured, and a
statistic becomes a finding. One that is not enforced (no calibration for the pair of numerics classes) is reported as such.
The statistics of the named alternatives are computed apart: they are measured only for a file that the others let pass, and
what was compared before is not compared again.

Proof batches that memory did not hold were measured in parts, and the evidence says so. No table was fitted for products of
such shapes, so what would reject by a table is inconclusive then; the coarse bounds and the comparison with alternatives need
none, and reject as ever. So is what is relative to a measurement of the validator's own that is not sound (`pooled.unsound`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.proof.calibration import STATISTICS, CalibrationTable, PairCalibration, Shape
from grail_core.proof.comparison import CHECKS, Comparison, NamedComparison, Statistic, compare, compare_named
from grail_core.proof.numerics import class_and_parts
from grail_core.proof.pooled import Paired
from grail_core.proof.sketches import parse_sketches
from grail_core.proof.statistics import (
    SHARE,
    alternative_statistics,
    bit_equal,
    own_statistics,
    sketch_ratio_passes,
)
from grail_core.proof.statistics import left_open as _left_open
from grail_core.proof.work import AskedAlternatives
from grail_core.protocol import Finding, Outcome, RolloutRecord
from grail_core.protocol.network import NetworkParameters
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import say

NOT_ENFORCED: Final = " (reported, not enforced)"
"""Ends the detail of a finding that nobody acts on."""


NOT_IN_FLOAT32: Final = "; not held against float32 this time"
"""Said where the challenge's coin did not fall: the coarse bounds stand alone, and what rests on a reference says nothing."""


def sample_statistics(
    submission: Submission, evidence: MinerEvidence, table: CalibrationTable, params: NetworkParameters
) -> list[Statistic]:
    """The coarse bounds and the pooled statistics of a file's sample, and what the network asks of a class of equal bits."""
    sample = [_comparison(submission.rollout_of(one.group, one.rollout), one) for one in evidence.rollouts]
    proofs, draws = _pairs(submission, evidence, table)
    statistics = own_statistics(sample, proofs, margins=draws, shape=_shape(evidence))
    own, _ = class_and_parts(evidence.numerics_class)
    # Bits are equal in one class alone; who measures in another cannot see whether these are.
    if own == submission.file.header.proof_class and own in params.bit_equal:
        of_bits = bit_equal(sample)
        statistics += [] if of_bits is None else [of_bits]
    return statistics


def alternatives_statistics(
    submission: Submission, evidence: MinerEvidence, table: CalibrationTable, own: Sequence[Statistic]
) -> list[Statistic]:
    """What the evidence says of every alternative that it was compared with; none where nothing was compared.

    Args:
        own: the same file's `sample_statistics`.
    """
    proofs, draws = _pairs(submission, evidence, table)
    return alternative_statistics(
        _compared(submission, evidence),
        proofs,
        margins=draws,
        shape=_shape(evidence),
        sketch_ratio_passes=sketch_ratio_passes(own),
    )


def left_open(submission: Submission, evidence: MinerEvidence, table: CalibrationTable) -> AskedAlternatives:
    """What the rollouts that were compared leave open and comparing the others would settle."""
    proofs, draws = _pairs(submission, evidence, table)
    return _left_open(_compared(submission, evidence), proofs, margins=draws, shape=_shape(evidence))


def reference_says_nothing(submission: Submission, one: RolloutEvidence) -> bool:
    """Whether a rollout was held against a reference that is not finite, or lies where only another model would."""
    paired = Paired.of([_comparison(submission.rollout_of(one.group, one.rollout), one)])
    return paired is not None and paired.left_out > 0


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
    """It would reject by what holds for whole proof batches, and these were not measured whole; or it is relative to a
    measurement that says nothing."""
    if statistic.undecided:
        return statistic.enforced
    _, parts = class_and_parts(evidence.numerics_class)
    return parts is not None and statistic.rejects and statistic.name in (*STATISTICS, SHARE, "bit_equal")


def _pairs(
    submission: Submission, evidence: MinerEvidence, table: CalibrationTable
) -> tuple[PairCalibration | None, PairCalibration | None]:
    """Of what computed sketches and log-probabilities, and of what drew the tokens, with the class measured in."""
    own, _ = class_and_parts(evidence.numerics_class)
    header = submission.file.header
    return table.lookup(header.proof_class, own), table.lookup(header.generation_class, own)


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
        reference=one.reference,
    )


def _compared(submission: Submission, evidence: MinerEvidence) -> list[NamedComparison]:
    """The rollouts that were compared, but those of which the comparison says nothing."""
    found = []
    for one in evidence.rollouts:
        if one.compared is None:
            continue
        record = submission.rollout_of(one.group, one.rollout)
        positions = np.asarray(one.compared.positions)
        named = compare_named(
            claimed_sketches=_sketches_of_completion(record)[positions],
            tokens=record.completion[positions],
            compared=one.compared,
        )
        found += [] if named is None else [named]
    return found


def _finding(statistic: Statistic, evidence: MinerEvidence) -> Finding:
    detail = f"{statistic.name}: {statistic.detail}"
    if statistic.name == "coarse_error" and all(one.reference is None for one in evidence.rollouts):
        detail += NOT_IN_FLOAT32
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
