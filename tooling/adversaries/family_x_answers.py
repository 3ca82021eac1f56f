"""X6 and X7: answers that the proof hardly sees, and answers that nobody is to be able to grade.

X6 is work that was not done where the proof is weakest: a model larger than any table, so that only what needs no calibration
is enforced, and answers of one, three and fifteen tokens. X7 is false work behind an answer that spoils its own judgement:
every program of `inconclusive_programs` in the real sandbox, and a grader that never concludes at all. Whatever becomes of the
grade, the model looks at the rollout.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grail_core.environment import Environment, EnvironmentSpec, Grade, GradeOutcome, Message, Problem
from grail_core.proof.in_process import InThisProcess
from grail_core.protocol import Finding, RolloutRecord
from grail_core.protocol.context import challenge_seed
from grail_core.protocol.types import Digest
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import examine
from grail_core.verification.measure import ChallengedSample
from grail_envs.sandbox import GraderPool, Limits, Ruling
from grail_miner.groups import Group
from tooling.adversaries import tampering
from tooling.adversaries.courtroom import Courtroom
from tooling.adversaries.courtroom import Ruling as Judgement
from tooling.adversaries.family_e import E1_LIMITS, FLAKY, HONEST, suite_of
from tooling.adversaries.inconclusive_programs import programs
from tooling.adversaries.rows import Row
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID, Qwen2Shape, save_byte_model

LARGER = Qwen2Shape(END_TOKEN_ID + 1, layers=5, context=1024, spread=0.12, tied=True)
"""One layer more than the largest model of the shipped table."""

SHORT = (1, 3, 15)
"""Completion tokens: below what counts by itself, just below it, and below what is held alone."""

GROUPS, QUICK_GROUPS = 40, 12
X7_GROUPS = 6  # two whole ones and four single rollouts


def run_x6(*, seed: int = 0, quick: bool = False, limits: Sequence[int] = SHORT) -> dict[str, Any]:
    """Half of a file's groups made up, and all of them, in answers too short to be held alone."""
    row = Row("X6", "file")
    for limit in limits:
        with court_of(limit) as court:
            honest = court.honest(range(QUICK_GROUPS if quick else GROUPS))
            for name, lie in _lies(seed).items():
                for share, groups in (("half", honest[seed % 2 :: 2]), *([] if quick else [("all", honest)])):
                    false = {group.group for group in groups}
                    told = [Group(one.group, tuple(map(lie, one.rollouts))) if one.group in false else one for one in honest]
                    row.add(f"{name}, {limit} tokens, {share} of the groups", _judged(court, court.graded_again(told)))
            row.honest(_judged(court, honest))
            row.honest(_judged(court, honest[:1]))
    return row.to_json()


def run_x7(
    *, seed: int = 0, quick: bool = False, pool: GraderPool | None = None, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Junk with a false claim behind every answer that spoils its judgement; then behind one that cannot be judged at all."""
    row = Row("X7", "file")
    own = pool or GraderPool("strict")
    names = names or sorted(programs())[:: 7 if quick else 1]
    try:
        with court_of(15) as court:
            honest = court.honest(range(X7_GROUPS))
            junk = [Group(one.group, tuple(map(_made_up(seed), one.rollouts))) for one in honest]
            claimed = [Group(one.group, tuple(replace(r, reward=1.0, success=True) for r in one.rollouts)) for one in junk]
            for name in names:
                row.add(name, _graded_by(court, claimed, _Programs(court, own, programs()[name])))
            unjudged = _Unsure(court, lambda text: GradeOutcome.INCONCLUSIVE)
            row.add("never a grade", _graded_by(court, claimed, unjudged))
            row.add("never a grade, nothing claimed", _graded_by(court, junk, unjudged))
            row.honest(_judged(court, honest))
            now_and_then = _Unsure(court, lambda text: _by_chance(text, seed))
            row.honest(_graded_by(court, honest, now_and_then))
            for name in ("system_random", "clock", "random"):
                miners, validators = (_Programs(court, own, FLAKY[name], tests=("assert target(1)",)) for _ in range(2))
                row.honest(_graded_by(court, court_claims(court, honest, miners), validators))
            row.honest_tries += 1
            row.honest_false_rejects += not own.grade(suite_of(HONEST), Limits()).passed
    finally:
        if pool is None:
            own.close()
    return row.to_json()


def court_claims(court: Courtroom, groups: Sequence[Group], environment: Environment) -> list[Group]:
    """What an honest miner claims of these rollouts under another environment."""

    def claim(record: RolloutRecord) -> RolloutRecord:
        problem = environment.problem(court.context.problem_seed(court.hotkey, record.group))
        asked = environment.messages(problem)
        grade = environment.grade(problem, court.loaded.renderer.decode_completion(record.completion.tolist(), asked))
        return replace(record, reward=grade.reward, success=grade.success)

    return [Group(group.group, tuple(map(claim, group.rollouts))) for group in groups]


class _Judged:
    """The network's environment in everything but the grade."""

    def __init__(self, court: Courtroom) -> None:
        self._environment = court.network.environment

    @property
    def spec(self) -> EnvironmentSpec:
        return self._environment.spec

    def problem(self, seed: int) -> Problem:
        return self._environment.problem(seed)

    def messages(self, problem: Problem) -> list[Message]:
        return self._environment.messages(problem)


class _Programs(_Judged):
    """Every completion stands for one program; the sandbox grades it, and what it said of a text is not asked twice more."""

    def __init__(self, court: Courtroom, pool: GraderPool, code: str, tests: tuple[str, ...] | None = None) -> None:
        super().__init__(court)
        self._job = suite_of(code) if tests is None else replace(suite_of(code), tests=tests)
        self._pool = pool
        self._rulings: list[Ruling] = []

    def grade(self, problem: Problem, completion: str) -> Grade:
        # One file asks for hundreds of grades of the same program: the first three are the sandbox's, the others theirs again.
        asked = int.from_bytes(hashlib.sha256(completion.encode()).digest()[:4], "big")
        if len(self._rulings) < 3:
            self._rulings.append(self._pool.grade(self._job, E1_LIMITS))
        ruling = self._rulings[asked % len(self._rulings)]
        outcome = GradeOutcome.GRADED if ruling.conclusive else GradeOutcome.INCONCLUSIVE
        return Grade(float(ruling.passed), ruling.passed, True, outcome=outcome, limit_share=ruling.limit_share)


class _Unsure(_Judged):
    """Grades as the network does, but for what it cannot conclude on."""

    def __init__(self, court: Courtroom, outcome: Callable[[str], GradeOutcome]) -> None:
        super().__init__(court)
        self._outcome = outcome

    def grade(self, problem: Problem, completion: str) -> Grade:
        return replace(self._environment.grade(problem, completion), outcome=self._outcome(completion))


def _by_chance(text: str, seed: int) -> GradeOutcome:
    """Inconclusive for one text in sixteen."""
    lost = hashlib.sha256(f"{seed} {text}".encode()).digest()[0] < 16
    return GradeOutcome.INCONCLUSIVE if lost else GradeOutcome.GRADED


def _lies(seed: int) -> dict[str, tampering.Change]:
    return {
        "no sketches": lambda record: tampering.FORGED_SKETCHES["zero"](record),
        "random sketches": lambda record: tampering.FORGED_SKETCHES["random normal"](record),
        "made up altogether": _made_up(seed),
    }


def _made_up(seed: int) -> tampering.Change:
    """Random text, no sketches, every token as if it were sure. The last token stays, for `termination`."""

    def lie(record: RolloutRecord) -> RolloutRecord:
        rng = np.random.default_rng((seed, record.group, record.rollout))
        *others, last = record.completion.tolist()
        text = rng.integers(97, 123, len(others)).tolist()
        if last != END_TOKEN_ID:
            last = int(rng.integers(97, 123))
        changed = tampering.zero_sketches(tampering.with_completion(record, [*text, last]))
        return replace(changed, logprobs=np.zeros_like(record.logprobs))

    return lie


def _graded_by(court: Courtroom, groups: Sequence[Group], environment: Environment) -> Judgement:
    return _judged(court, groups, replace(court.check_context(), environment=environment))


def _judged(court: Courtroom, groups: Sequence[Group], context: CheckContext | None = None) -> Judgement:
    data = court.pack(groups)
    digest = Digest(hashlib.sha256(data).digest())
    sample = ChallengedSample(challenge_seed(court.context, court.challenge, digest), InThisProcess(court.model))
    examination = examine(data, context or court.check_context(), sample, content_digest=digest)
    findings: tuple[Finding, ...] = examination.findings
    return Judgement(findings, examination.evidence)


@contextmanager
def court_of(limit: int) -> Iterator[Courtroom]:
    """A network with a model larger than any table, and completions of at most `limit` tokens."""
    folder = Path(tempfile.mkdtemp(prefix="grail-attacks-"))
    try:
        model = save_byte_model(folder / "model", LARGER)
        (folder / "network").mkdir()
        yield Courtroom(folder / "network", model, max_tokens=limit, end=END_TOKEN_ID)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"X6": run_x6, "X7": run_x7}
