"""The checks in their order, cheapest first, and what their findings add up to.

Check 1 runs on every announced file (`file.check_file`), checks 2 to 5 on every row of a selected one (`cheap_checks`), 6 to
9 on the sampled rollouts and from evidence alone (`decide`). The first check that rejects ends the list: later checks may
rely on what earlier ones have established.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grail_core.files.evidence import JudgeStability, MinerEvidence
from grail_core.model.policy_model import PolicyModel
from grail_core.protocol import Finding, Outcome
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.verification import model_checks, prompt, reward, schema, termination
from grail_core.verification.context import CheckContext
from grail_core.verification.measure import evidence_of, judge_row, measure_batch, opened_whole
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import accept

CHECKS = ("file", "schema", "unique", "prompt", "termination", "reward", "proof", "logprob", "sampling")
"""Names of the nine checks of section 9, in order."""

MOST_INCONCLUSIVE = (1, 4)
"""A file counts neither as active nor as checked when more than this share of its sample is inconclusive."""

_CHEAP: tuple[tuple[str, Callable[[Submission, CheckContext], list[Finding]]], ...] = (
    (schema.CHECK, schema.check_schema),
    (prompt.CHECK, prompt.check_prompts),
    (termination.CHECK, termination.check_termination),
)


def cheap_checks(submission: Submission, context: CheckContext) -> tuple[Finding, ...]:
    """Checks 2, 4 and 5 on all rows (3 never rejects: see `uniqueness`)."""
    findings: list[Finding] = [accept("file", value=len(submission.table), detail="rows signed and bound")]
    for name, check in _CHEAP:
        rejects = check(submission, context)
        if rejects:
            return (*findings, *rejects)
        findings.append(accept(name))
    return tuple(findings)


def decide(submission: Submission, evidence: MinerEvidence) -> tuple[Finding, ...]:
    """Checks 6 to 9, from evidence alone: the same evidence gives the same findings anywhere."""
    rejects = reward.check_rewards(submission, evidence)
    if rejects:
        return tuple(rejects)
    return (accept(reward.CHECK, value=len(evidence.rollouts)), *model_checks.check_model(submission, evidence))


@dataclass(frozen=True)
class GroupVerification:
    """What the trainer's own verification of one group gave: all 16 rollouts at all completion positions.

    `evidence.rollouts[r].logprob` are the behaviour policy's log-probabilities (unwarped, nats) of rollout r's completion.
    """

    findings: tuple[Finding, ...]
    evidence: MinerEvidence | None  # None where a cheap check rejects

    @property
    def accepted(self) -> bool:
        return self.evidence is not None and first_reject(self.findings) is None


def verify_group(submission: Submission, context: CheckContext, group: int, model: PolicyModel) -> GroupVerification:
    """Checks 6 to 9 on every rollout of a group, at every position (section 11). Checks 1 to 5 are the file's.

    Args:
        group: a group id of the file. model: the behaviour checkpoint's.
    """
    indices = [submission.index_of(group, r) for r in range(ROLLOUTS_PER_PROBLEM)]
    judged = {index: judge_row(submission, context, index) for index in indices}
    rows = [opened_whole(submission, index) for index in indices]
    rollouts = measure_batch(submission, context, rows, judged, model)
    lost = sum(one.judge.stability is not JudgeStability.STABLE for one in rollouts)
    evidence = evidence_of(submission, model, rollouts, lost)
    return GroupVerification(decide(submission, evidence), evidence)


def first_reject(findings: Sequence[Finding]) -> Finding | None:
    return next((finding for finding in findings if finding.outcome is Outcome.REJECT), None)


def too_many_inconclusive(evidence: MinerEvidence) -> bool:
    numerator, denominator = MOST_INCONCLUSIVE
    return evidence.inconclusive * denominator > numerator * max(1, len(evidence.rollouts))


__all__ = [
    "CHECKS",
    "GroupVerification",
    "cheap_checks",
    "decide",
    "first_reject",
    "too_many_inconclusive",
    "verify_group",
]
