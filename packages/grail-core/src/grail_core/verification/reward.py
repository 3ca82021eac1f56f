"""Check 6, `reward`: the validator's own judgement against the claimed reward and success.

A mismatch is judged twice more, alone. Only when all three runs agree with each other and not with the claim, far from any
limit, is the claim false; otherwise the answer is unstable, which is nobody's fault.
"""

from __future__ import annotations

import math

from grail_core.environment import Environment, Judgement, JudgementOutcome, Problem
from grail_core.files.evidence import JudgeEvidence, JudgeStability, MinerEvidence
from grail_core.protocol.constants import REWARD_ABS_TOL, REWARD_REL_TOL
from grail_core.protocol.verdicts import Finding
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import reject, shorten

CHECK = "reward"
MOST_LIMIT_SHARE = 0.6
"""A run that used more of a time or memory limit than this may differ on another machine."""


def judge_claim(
    environment: Environment, problem: Problem, completion: str, claimed_reward: float, claimed_success: bool
) -> JudgeEvidence:
    """Judge a completion, and twice more where the result is not the claimed one."""
    first = environment.judge(problem, completion)
    if first.outcome is JudgementOutcome.INCONCLUSIVE:
        return JudgeEvidence(first.reward, first.success, JudgeStability.INCONCLUSIVE)
    if same_judgement(first.reward, first.success, claimed_reward, claimed_success):
        return JudgeEvidence(first.reward, first.success, JudgeStability.STABLE)
    runs = [first, environment.judge(problem, completion), environment.judge(problem, completion)]
    return JudgeEvidence(first.reward, first.success, _stability(runs))


def same_judgement(reward: float, success: bool, other_reward: float, other_success: bool) -> bool:
    close = math.isclose(reward, other_reward, rel_tol=REWARD_REL_TOL, abs_tol=REWARD_ABS_TOL)
    return close and success == other_success


def check_rewards(submission: Submission, evidence: MinerEvidence) -> list[Finding]:
    """Rejects of false claims among the sampled rollouts."""
    findings = []
    for rollout in evidence.rollouts:
        row = submission.row_of(rollout.group, rollout.rollout)
        claimed, success = row.reward, row.success
        judged = rollout.judge
        if judged.stability is not JudgeStability.STABLE:
            continue
        if not same_judgement(judged.reward, judged.success, claimed, success):
            detail = f"judged {judged.reward:g} ({_word(judged.success)}), claimed {claimed:g} ({_word(success)})"
            findings.append(
                reject(
                    CHECK,
                    value=claimed,
                    threshold=judged.reward,
                    detail=detail,
                    group=rollout.group,
                    rollout=rollout.rollout,
                )
            )
    return shorten(findings)


def _stability(runs: list[Judgement]) -> JudgeStability:
    if any(run.outcome is JudgementOutcome.INCONCLUSIVE for run in runs):
        return JudgeStability.INCONCLUSIVE
    first = runs[0]
    agree = all(same_judgement(run.reward, run.success, first.reward, first.success) for run in runs[1:])
    calm = all(run.limit_share <= MOST_LIMIT_SHARE for run in runs)
    return JudgeStability.STABLE if agree and calm else JudgeStability.UNSTABLE


def _word(success: bool) -> str:
    return "success" if success else "no success"
