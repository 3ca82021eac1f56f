"""Pairs of answers and whether they say the same, and texts and the numbers that they are: one line of data a promise."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_envs.exact_numbers import read_number
from grail_envs.sandbox import math_side
from tests.cases.rows import rows
from tooling.testing.formula_pairs import KINDS, formula_pair


@pytest.mark.parametrize("case", rows("math_pairs.json"), ids=lambda case: f"{case['gold']} | {case['answer']}: {case['why']}")
def test_two_answers_are_the_same_exactly_when_they_say_the_same(case: dict[str, Any]) -> None:
    verdict = math_side.grade({"gold": case["gold"], "answer": case["answer"]})
    assert verdict["passed"] == case["right"], (case["why"], verdict)


@pytest.mark.parametrize("case", rows("numbers.json"), ids=lambda case: f"{case['text']!a}: {case['why']}")
def test_a_text_is_one_number_or_none(case: dict[str, Any]) -> None:
    number = read_number(case["text"])
    expected = None if case["value"] is None else (Fraction(case["value"]), case["percent"])
    assert (None if number is None else (number.value, number.percent)) == expected, case["why"]


def test_generated_pairs_are_judged_as_they_are_made() -> None:
    pairs = [formula_pair(number) for number in range(480)]
    assert {pair.kind for pair in pairs} == set(KINDS)
    wrong = [pair for pair in pairs if math_side.grade({"gold": pair.gold, "answer": pair.answer})["passed"] != pair.right]
    assert wrong == []
    assert pairs == [formula_pair(number) for number in range(480)]


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}",
        "(" * 500,
        "9" * 500,
        "\\" * 511,
        "+".join(f"3^{{-{160_000 + number}}}" for number in range(40)),
        "+".join(f"\\sqrt{{{number}}}" for number in range(2, 50)),
        "\\sum_{n=1}^{1000} \\sin(n!)",
        "\\prod_{n=1}^{1000}(x+n)^{1000}",
        "*".join(["\\begin{matrix}1&x\\\\x&1\\end{matrix}"] * 13),
        "\\gcd(" + ",".join(["3^{80000}"] * 40) + ")",
        "\\lfloor\\pi^{\\pi^{\\pi^{\\pi}}}\\rfloor",
        "x^{" * 80 + "x" + "}" * 80,
        "(1," * 120 + "2" + ")" * 120,
        "\\binom{x}{y}" * 30,
        "\x00\ufffd" * 200,
    ],
    ids=lambda answer: ascii(answer[:24]),
)
@pytest.mark.parametrize("gold", ["2", "x+1", "\\pi", "1,2,3", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"])
def test_what_an_answer_costs_ends_with_its_budget_and_is_not_taken(gold: str, answer: str) -> None:
    assert not math_side.grade({"gold": gold, "answer": answer})["passed"]


@given(st.text(alphabet="\\frac{}sqrt()[]x1 2.,^_+-=<|!&\\pi\\text\u2212\u202f", max_size=80))
def test_no_text_raises(text: str) -> None:
    math_side.grade({"gold": "2", "answer": text})
    math_side.grade({"gold": text, "answer": text + " "})
