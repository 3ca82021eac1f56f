"""Checks 7 to 9 from evidence: the two coarse bounds that need no calibration."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from grail_core.proof.sketches import position_errors
from grail_core.protocol import Finding
from grail_core.protocol.constants import (
    COARSE_ERROR_BOUND,
    COARSE_ERROR_POSITIONS,
    COARSE_MARGIN,
    COARSE_MARGIN_POSITIONS,
    COARSE_MARGIN_SHARE,
)
from grail_core.verification.evidence import MinerEvidence
from grail_core.verification.file import Submission
from grail_core.verification.findings import accept, reject

CALIBRATION_VERSION = "coarse/1"


def check_model(submission: Submission, evidence: MinerEvidence) -> list[Finding]:
    errors: dict[int, list[np.ndarray]] = defaultdict(list)
    margins: dict[int, list[np.ndarray]] = defaultdict(list)
    for one in evidence.rollouts:
        row = submission.table.row(submission.index_of(one.group, one.rollout))
        errors[one.group].append(position_errors(row.sketch_values()[one.positions + 1], one.z))
        margins[one.group].append(one.margin)
    findings = []
    for group, values in errors.items():
        pooled = np.concatenate(values)
        if len(pooled) >= COARSE_ERROR_POSITIONS:
            error = float(np.sqrt(np.square(pooled).mean()))
            if error > COARSE_ERROR_BOUND:
                findings.append(reject("proof", value=error, threshold=COARSE_ERROR_BOUND, detail="error", group=group))
    if findings:
        return findings
    findings.append(accept("proof"))
    for group, values in margins.items():
        pooled = np.concatenate(values)
        if len(pooled) >= COARSE_MARGIN_POSITIONS:
            share = float((pooled > COARSE_MARGIN).mean())
            if share > COARSE_MARGIN_SHARE:
                findings.append(
                    reject("sampling", value=share, threshold=COARSE_MARGIN_SHARE, detail="margins", group=group)
                )
    return findings
