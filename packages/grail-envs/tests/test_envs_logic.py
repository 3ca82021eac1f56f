"""Logic puzzles: an independent solver agrees with every verifier, texts that say 'exactly one' are true, nothing raises."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError
from grail_envs.draws import Draws
from grail_envs.logic.environment import FAMILIES, LogicEnvironment
from grail_envs.logic.game_of_n import evaluated
from grail_envs.logic.independent import independent_answer
from grail_envs.logic.sudoku_bases import BASES

SEEDS = [*range(60), 2**63, 2**64 - 1]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_an_independent_solver_agrees_with_the_verifier(family: str) -> None:
    env = LogicEnvironment([family])
    for seed in SEEDS:
        problem = env.problem(seed)
        assert env.grade(problem, env.reference(problem)).reward == 1.0
        question = env.messages(problem)[1].content
        answer = independent_answer(family, question)
        assert env.grade(problem, f"<answer>{answer}</answer>").success, (seed, question, answer)
        other = env.reference(env.problem(seed + 1 if seed + 1 < 2**64 else 0))
        if other != env.reference(problem):
            assert not env.grade(problem, other).success


def test_every_base_sudoku_has_exactly_one_solution() -> None:
    from grail_envs.logic.independent import sudoku_solutions

    for given_digits, solution in BASES[::5]:
        assert sudoku_solutions(given_digits, at_most=2) == [solution]


def test_cryptarithms_have_one_solution_by_brute_force() -> None:
    env = LogicEnvironment(["cryptarithm"])
    for seed in range(15):
        puzzle = env.problem(seed).payload.puzzle
        letters = sorted({letter for word in puzzle.words for letter in word})
        given_digits = {letter: digit for letter, digit in puzzle.digits if letter in puzzle.given}
        unknown = [letter for letter in letters if letter not in given_digits]
        free = [digit for digit in range(10) if digit not in given_digits.values()]
        count = 0
        for digits in itertools.permutations(free, len(unknown)):
            found = {**given_digits, **dict(zip(unknown, digits, strict=True))}
            left, right, total = (int("".join(str(found[letter]) for letter in word)) for word in puzzle.words)
            count += left + right == total and all(found[word[0]] for word in puzzle.words)
        assert count == 1


@pytest.mark.parametrize(
    "text", ["9**9**9**9", "9//2", "1+", "(1+2", "1+2)", "-5", "__import__('os')", "()", "", "1 2", "99999", "5!", "(" * 5000]
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    assert evaluated(text) is None


@given(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        max_leaves=8,
    )
)
@settings(max_examples=100)
def test_expressions_have_pythons_value(text: str) -> None:
    found = evaluated(text)
    if len(text) > 200:
        assert found is None
        return
    assert found is not None
    try:
        expected = eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        expected = None
    assert found[0] == expected


@given(st.integers(0, 2**64 - 1), st.text(max_size=300))
@settings(max_examples=150)
def test_no_seed_and_no_text_raises(seed: int, text: str) -> None:
    env = LogicEnvironment()
    problem = env.problem(seed)
    assert env.messages(problem)
    assert not env.grade(problem, text).success
    assert not env.grade(problem, f"<answer>{text}</answer>").success


def test_families_are_chosen_by_name_and_bound_by_the_digest() -> None:
    assert LogicEnvironment(["sudoku"]).spec.digest != LogicEnvironment().spec.digest
    assert {LogicEnvironment().problem(seed).payload.family for seed in range(100)} == set(FAMILIES)
    with pytest.raises(ConfigurationError, match="no family"):
        LogicEnvironment(["chess"])
    with pytest.raises(ConfigurationError):
        LogicEnvironment("sudoku")


def test_draws_are_uniform_and_fixed() -> None:
    draws = Draws("test", 1, 7)
    again = Draws("test", 1, 7)
    assert [draws.below(10) for _ in range(300)] == [again.below(10) for _ in range(300)]
    assert Draws("test", 1, 7).word() != Draws("test", 1, 8).word() != Draws("test", 2, 8).word()
    counts = [0] * 7
    for _ in range(7000):
        counts[draws.below(7)] += 1
    assert min(counts) > 850
    assert sorted(draws.shuffled(range(20))) == list(range(20))
