"""Checks 6 and 7 of gradient work, from what was measured: sketches of the first step, and the replay of a drawn one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grail_core.gradient.layout import Layout
from grail_core.proof.calibration import PairCalibration, Shape
from grail_core.proof.comparison import Statistic
from grail_core.proof.errors import MalformedSketchError
from grail_core.proof.replay import SHIPPED, OpenedStep, ReplayBounds, judge
from grail_core.proof.round_sketches import judge_sketches
from grail_core.proof.round_work import MeasuredSketches, MeasuredStep
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.context import RoundContext
from grail_core.verification.gradient.files import Revealed
from grail_core.verification.model_checks import NOT_ENFORCED
from grail_core.verification.wording import reject, say

PROOF: Final = "proof"
REPLAY: Final = "replay"


def proof_findings(
    revealed: Revealed, measured: MeasuredSketches, *, pair: PairCalibration | None, shape: Shape
) -> list[Finding]:
    """Check 6: did the miner hold the checkpoint and its own sequences?"""
    try:
        statistics = judge_sketches(bytes(revealed.file.sketches), measured, pair=pair, shape=shape)
    except MalformedSketchError as error:
        return [reject(PROOF, detail=error.what)]
    return [_finding(PROOF, one) for one in statistics]


def replay_findings(
    context: RoundContext, layout: Layout, opened: OpenedStep, measured: MeasuredStep, bounds: ReplayBounds = SHIPPED
) -> list[Finding]:
    """Check 7: is the drawn step the optimiser's, on the assigned batch?"""
    statistics = judge(
        opened.chunks,
        measured,
        context.spec,
        sequence=context.sequence,
        step=opened.step,
        parameters=layout.size,
        bounds=bounds,
    )
    return [_finding(REPLAY, one, step=opened.step) for one in statistics]


def rejects(findings: Sequence[Finding]) -> bool:
    return any(finding.outcome is Outcome.REJECT for finding in findings)


def undecided(findings: Sequence[Finding]) -> bool:
    """Does a finding say that this validator could not find out?"""
    return any(finding.outcome is Outcome.INCONCLUSIVE for finding in findings)


def _finding(check: str, one: Statistic, *, step: int | None = None) -> Finding:
    outcome = Outcome.REJECT if one.rejects else Outcome.INCONCLUSIVE if one.undecided and one.enforced else Outcome.ACCEPT
    at = "" if step is None else f"step {step}, "
    detail = f"{at}{one.name}: {one.detail}" + ("" if one.enforced else NOT_ENFORCED)
    return say(outcome, check, value=one.value, threshold=one.threshold, detail=detail)
