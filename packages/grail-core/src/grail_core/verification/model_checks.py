"""Checks 7 to 9 from evidence: `proof`, `logprob` and `sampling`, each one or more statistics with stated error.

The numbers and their bounds are `grail_core.proof.statistics`'; here a miner's claims are put beside what was measured, and a
statistic becomes a finding. One that is not enforced (no calibration for the pair of numerics classes) is reported as such.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grail_core.files.evidence import MinerEvidence, RolloutEvidence
from grail_core.proof.calibration import Shape, active_table
from grail_core.proof.sketches import parse_sketches
from grail_core.proof.statistics import Comparison, Others, Statistic, compare, evaluate
from grail_core.protocol import Finding, Outcome, RolloutRow
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import say

CHECKS = ("proof", "logprob", "sampling")


def calibration_version() -> str:
    """Of the table that decisions are made with; verdicts name it."""
    return active_table().version


def check_model(submission: Submission, evidence: MinerEvidence) -> list[Finding]:
    """One finding per statistic, in the order of the checks; ends with the first check that rejects."""
    rows = {(row.group, row.rollout): row for row in _rows(submission, evidence)}
    sample = [_comparison(rows[one.group, one.rollout], one) for one in evidence.rollouts]
    pair = active_table().lookup(submission.file.header.numerics_class, evidence.numerics_class)
    statistics = evaluate(sample, pair, shape=Shape(evidence.layers, evidence.hidden_size))
    findings: list[Finding] = []
    for check in CHECKS:
        of_check = [_finding(statistic) for statistic in statistics if statistic.check == check]
        findings += of_check
        if any(statistic.rejects for statistic in statistics if statistic.check == check):
            break
    return findings


def _rows(submission: Submission, evidence: MinerEvidence) -> Sequence[RolloutRow]:
    return [submission.table.row(submission.index_of(one.group, one.rollout)) for one in evidence.rollouts]


def _comparison(row: RolloutRow, one: RolloutEvidence) -> Comparison:
    # Sketch i + 1 is at completion token i's own position: sketch 0 belongs to the last prompt token.
    sketches = parse_sketches(row.sketches, row.completion_length + 1)[1:]
    others = None
    if one.alternatives:
        where = np.searchsorted(one.alternative_positions, one.positions)
        others = Others(sketches[one.alternative_positions], one.alternatives, where)
    return compare(
        one.group,
        one.rollout,
        claimed_sketches=sketches[one.positions],
        claimed_logprobs=row.logprobs[one.positions],
        z=one.z,
        logprobs=one.logprob,
        margins=one.margin,
        others=others,
    )


def _finding(statistic: Statistic) -> Finding:
    detail = f"{statistic.name}: {statistic.detail}"
    if not statistic.enforced:
        detail += " (reported, not enforced)"
    return say(
        Outcome.REJECT if statistic.rejects else Outcome.ACCEPT,
        statistic.check,
        value=float(statistic.value),
        threshold=None if statistic.threshold is None else float(statistic.threshold),
        detail=detail,
        group=statistic.group,
        rollout=statistic.rollout,
    )
