"""Check 6, `reward`: the validator's own grade against the claimed reward and success.

A mismatch is graded twice more, alone. Only when all three runs agree with each other and not with the claim, far from any
limit, is the claim false; otherwise the answer is unstable, which is nobody's fault.
"""

from __future__ import annotations

import math

from grail_core.environment import Environment, Grade, GradeOutcome, Problem
from grail_core.files.evidence import GradeEvidence, GradeStability, MinerEvidence
from grail_core.protocol.constants import REWARD_ABS_TOL, REWARD_REL_TOL
from grail_core.protocol.verdicts import Finding
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import reject, shorten

CHECK = "reward"
MAX_LIMIT_SHARE = 0.6
"""A run that used more of a time or memory limit than this may differ on another machine."""


def grade_claim(
    environment: Environment, problem: Problem, completion: str, claimed_reward: float, claimed_success: bool
) -> GradeEvidence:
    """Grade a completion, and twice more where the result is not the claimed one."""
    first = environment.grade(problem, completion)
    if first.outcome is GradeOutcome.INCONCLUSIVE:
        return GradeEvidence(first.reward, first.success, GradeStability.INCONCLUSIVE)
    if same_grade(first.reward, first.success, claimed_reward, claimed_success):
        return GradeEvidence(first.reward, first.success, GradeStability.STABLE)
    runs = [first, environment.grade(problem, completion), environment.grade(problem, completion)]
    return GradeEvidence(first.reward, first.success, _stability(runs))


def same_grade(reward: float, success: bool, other_reward: float, other_success: bool) -> bool:
    close = math.isclose(reward, other_reward, rel_tol=REWARD_REL_TOL, abs_tol=REWARD_ABS_TOL)
    return close and success == other_success


def check_rewards(submission: Submission, evidence: MinerEvidence) -> list[Finding]:
    """Rejects of false claims among the sampled rollouts."""
    findings = []
    for rollout in evidence.rollouts:
        record = submission.rollout_of(rollout.group, rollout.rollout)
        claimed, success = record.reward, record.success
        graded = rollout.grade
        if graded.stability is not GradeStability.STABLE:
            continue
        if not same_grade(graded.reward, graded.success, claimed, success):
            detail = f"graded {graded.reward:g} ({_word(graded.success)}), claimed {claimed:g} ({_word(success)})"
            findings.append(
                reject(
                    CHECK,
                    value=claimed,
                    threshold=graded.reward,
                    detail=detail,
                    group=rollout.group,
                    rollout=rollout.rollout,
                )
            )
    return shorten(findings)


def _stability(runs: list[Grade]) -> GradeStability:
    if any(run.outcome is GradeOutcome.INCONCLUSIVE for run in runs):
        return GradeStability.INCONCLUSIVE
    first = runs[0]
    agree = all(same_grade(run.reward, run.success, first.reward, first.success) for run in runs[1:])
    calm = all(run.limit_share <= MAX_LIMIT_SHARE for run in runs)
    return GradeStability.STABLE if agree and calm else GradeStability.UNSTABLE


def _word(success: bool) -> str:
    return "success" if success else "no success"
