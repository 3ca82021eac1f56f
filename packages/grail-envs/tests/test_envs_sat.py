"""Promises of the `sat` environment: fixed by the seed, satisfiable, no constant answer pays, nothing breaks the grader."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.environment import Environment, GradeOutcome
from grail_envs.sat import MAX_ANSWER_CHARACTERS, SatEnvironment, format_answer, parse_answer

ENV = SatEnvironment()
SEEDS = st.integers(min_value=0, max_value=2**64 - 1)

FINGERPRINT = """
import hashlib
from grail_envs.sat import SatEnvironment
env = SatEnvironment()
digest = hashlib.sha256(env.spec.digest)
for seed in [*range(200), 2**63, 2**64 - 1]:
    digest.update(repr([(m.role, m.content) for m in env.messages(env.problem(seed))]).encode())
print(digest.hexdigest())
"""
GOLDEN = "d4316002b5e8ff7c04ea09e4a65d1d81be9e0b043493fbc8570d9018af4e63ca"


def test_it_is_an_environment() -> None:
    assert isinstance(ENV, Environment)


def test_problems_are_the_same_in_every_process_and_forever() -> None:
    """A change of this fingerprint is a new version of the environment, never an accident."""
    run = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == GOLDEN


@given(SEEDS)
@settings(max_examples=200)
def test_every_problem_is_satisfiable_and_in_bounds(seed: int) -> None:
    problem = ENV.problem(seed)
    payload = problem.payload
    assert 3 <= payload.variables <= 10
    assert 5 <= len(payload.clauses) <= 20
    assert len(set(payload.clauses)) == len(payload.clauses)
    for clause in payload.clauses:
        numbers = [abs(literal) for literal in clause]
        assert numbers == sorted(set(numbers))
        assert 1 <= numbers[0] <= numbers[-1] <= payload.variables
    grade = ENV.grade(problem, format_answer(payload.planted))
    assert grade.success
    assert grade.reward == 1.0
    assert grade.outcome is GradeOutcome.GRADED


@given(SEEDS, st.text(alphabet=st.characters(), max_size=300))
@settings(max_examples=300)
def test_any_text_is_graded_within_the_stated_bounds(seed: int, text: str) -> None:
    for completion in (text, f"<answer>{text}</answer>", f"<answer>x1=0 {text}", f"{text}</answer><answer>"):
        grade = ENV.grade(ENV.problem(seed), completion)
        assert 0.0 <= grade.reward <= 1.0
        assert grade.success == (grade.components["solved"] == 1.0)
        assert grade.well_formed or grade.reward == 0.0


def _assignments_that_hold(clauses: tuple[tuple[int, int, int], ...], variables: int) -> np.ndarray:
    """bool [2 ** variables]: which assignments satisfy all clauses; bit v − 1 of the index is variable v."""
    every = np.arange(2**variables)
    holds = np.ones(2**variables, dtype=bool)
    for clause in clauses:
        holds &= np.any([(every >> (abs(literal) - 1) & 1) == (literal > 0) for literal in clause], axis=0)
    return holds


def test_no_constant_answer_solves_more_than_one_problem_in_twenty() -> None:
    """A fixed text names a fixed number of variables, so it fits one size of problem. 100,000 seeds gave 3.2 % at most."""
    total = 4000
    solved = {variables: np.zeros(2**variables) for variables in range(3, 11)}
    for seed in range(total):
        payload = ENV.problem(seed).payload
        solved[payload.variables] += _assignments_that_hold(payload.clauses, payload.variables)
    best = max(counts.max() / total for counts in solved.values())
    assert best + 3 * np.sqrt(best * (1 - best) / total) < 0.05


def test_the_grade_agrees_with_exhaustive_truth_tables() -> None:
    for seed in range(60):
        problem = ENV.problem(seed)
        payload = problem.payload
        if payload.variables > 6:
            continue
        holds = _assignments_that_hold(payload.clauses, payload.variables)
        for index in range(2**payload.variables):
            assignment = tuple(index >> place & 1 for place in range(payload.variables))
            grade = ENV.grade(problem, format_answer(assignment))
            assert grade.success == bool(holds[index])
            assert grade.well_formed


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "x1=0 x2=1 x3=1",
        "<answer>x1=0 x2=1 x3=1",
        "</answer>x1=0 x2=1 x3=1<answer>",
        "<answer>x1=0 x2=1</answer>",
        "<answer>x1=0 x2=1 x3=1 x4=0</answer>",
        "<answer>x1=0 x2=1 x2=1</answer>",
        "<answer>x1=0 x2=1 x03=1</answer>",
        "<answer>x1=0 x2=1 x3=2</answer>",
        "<answer>x1=0 x2=1 x3=٠</answer>",
        "<answer>x1=0 x2=1 x3=</answer>",
        "<answer>011</answer>",
        "<answer>x1=0 x2=1 x3=1</answer> no, rather <answer></answer>",
        "<answer>" + " " * MAX_ANSWER_CHARACTERS + "x1=0 x2=1 x3=1</answer>",
    ],
)
def test_malformed_answers_earn_nothing(completion: str) -> None:
    problem = next(p for p in map(ENV.problem, range(1000)) if p.payload.variables == 3)
    grade = ENV.grade(problem, completion)
    assert (grade.reward, grade.success, grade.well_formed) == (0.0, False, False)


def test_the_last_answer_counts_in_any_order_of_variables() -> None:
    assert parse_answer("<answer>x1=1 x2=1 x3=1</answer> wait: <answer>x3=1, x1=0,\nx2=0</answer> done", 3) == (0, 0, 1)


def test_grading_is_linear_in_the_length_of_the_text() -> None:
    """A million tags are scanned, not matched pairwise: this finishes at once or not at all."""
    problem = ENV.problem(7)
    for text in (
        "<answer>" * 10**6,
        "</answer>" * 10**6,
        "<answer>" * 10**6 + "</answer>",
        "<answer>" + "x1=0 " * 10**6 + "</answer>",
    ):
        assert ENV.grade(problem, text).reward == 0.0


def test_the_digest_binds_the_parameters() -> None:
    assert SatEnvironment().spec.digest == ENV.spec.digest
    assert SatEnvironment(max_clauses=19).spec.digest != ENV.spec.digest


@pytest.mark.parametrize(
    "parameters",
    [
        {"min_variables": 2},
        {"max_variables": 2},
        {"min_clauses": 8},
        {"max_variables": 65},
        {"max_clauses": 4},
    ],
)
def test_impossible_parameters_are_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"variables|clauses"):
        SatEnvironment(**parameters)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_is_64_bits_unsigned(seed: int) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        ENV.problem(seed)


def test_messages_say_the_problem_in_plain_text() -> None:
    problem = ENV.problem(3)
    system, user = ENV.messages(problem)
    assert (system.role, user.role) == ("system", "user")
    assert len(user.content.splitlines()) == 1 + len(problem.payload.clauses)
    assert ENV.messages(ENV.problem(3)) == [system, user]
