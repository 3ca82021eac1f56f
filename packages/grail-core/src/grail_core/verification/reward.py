"""Check 6, `reward`: the validator's own grade against the claimed reward and success.

A mismatch is graded twice more, alone. Only when all three runs agree with each other and not with the claim, far from any
limit, is the claim false; otherwise the answer is unstable, which is nobody's fault. Whether a rollout can be graded decides
about this check alone: it is measured by the model in any case.
"""

from __future__ import annotations

import math

from grail_core.environment import Environment, Grade, GradeOutcome, Problem
from grail_core.errors import GrailError, MachineFaultError
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
    """Grade a completion, and twice more where the result is not the claimed one.

    Raises:
        GrailError: as `graded`.
    """
    first = graded(environment, problem, completion)
    if first.outcome is GradeOutcome.INCONCLUSIVE:
        return GradeEvidence(first.reward, first.success, GradeStability.INCONCLUSIVE, first.well_formed)
    if same_grade(first.reward, first.success, claimed_reward, claimed_success):
        return GradeEvidence(first.reward, first.success, GradeStability.STABLE, first.well_formed)
    runs = [first, graded(environment, problem, completion), graded(environment, problem, completion)]
    return GradeEvidence(first.reward, first.success, _stability(runs), first.well_formed)


def graded(environment: Environment, problem: Problem, completion: str) -> Grade:
    """The environment's grade; one that breaks its promise for this text (it raises, the reward is not finite) earns nothing.

    A grader that a text can break would else be a way out of being graded. The miner's own grader breaks alike.

    Raises:
        MachineFaultError: memory, files or processes of this machine ran out.
        GrailError: the environment's own word for a fault that is not the answer's.
    """
    try:
        grade = environment.grade(problem, completion)
    except GrailError:
        raise
    except (MemoryError, OSError) as error:
        raise MachineFaultError(
            f"this machine could not grade: {type(error).__name__}: {error}"[:300],
            where=environment.spec.env_id,
            hint="look at free memory, open files (`ulimit -n`) and processes (`ulimit -u`)",
        ) from error
    except Exception as error:  # noqa: BLE001 - any environment, any text
        return Grade(0.0, False, False, detail=f"the grader raised {type(error).__name__}")
    if not math.isfinite(grade.reward):
        return Grade(0.0, False, False, outcome=grade.outcome, detail="the grader gave no finite reward")
    return grade


def start_grading(environment: Environment) -> str:
    """Have the environment start whatever grading needs, so that no completion's time pays for it; why it could not, or "".

    Nothing is decided by it: where this machine cannot grade, each completion's own grade says so.
    """
    try:
        graded(environment, environment.problem(0), "")
    except GrailError as error:
        return error.what
    except Exception as error:  # noqa: BLE001 - any environment; told by whoever asked
        return f"its first problem raised {type(error).__name__}"
    return ""


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
