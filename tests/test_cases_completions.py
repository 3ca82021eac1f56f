"""Completions as models write them earn what they are worth; each case has its reason beside it."""

from __future__ import annotations

import re

import pytest

from grail_envs.sandbox import SandboxUnavailableError, shared_pool
from tests.cases.rows import rows
from tooling.testing.reported_cases.opened_thinking import as_graded
from tooling.testing.reported_cases.problems import ANSWERED, CODED, FUNCTION, WRONG_FUNCTION, asked

CASES = rows("completions.json")
PLACES = re.compile(r"\{(code|wrong|answer|minuses|dots)(?::([^}]*))?\}")
LONG = {"minuses": "-" * 20_000, "dots": ".a" * 20_000}
LINE_ENDS = {"crlf": "\r\n", "cr": "\r"}
REWARDS = {"success": 1.0, "format": 0.1, "nothing": 0.0}


def environments(on: str) -> tuple[str, ...]:
    return {"answered": ANSWERED, "coded": CODED}.get(on, (on,))


def filled(completion: str, answer: str) -> str:
    def text(match: re.Match[str]) -> str:
        name, before = match[1], match[2] or ""
        lines = {"code": FUNCTION, "wrong": WRONG_FUNCTION, "answer": answer, **LONG}[name].split("\n")
        if before in LINE_ENDS:
            return LINE_ENDS[before].join(lines)
        return "\n".join((" " * int(before) if before.isdigit() else before) + line for line in lines)

    return PLACES.sub(text, completion)


@pytest.mark.parametrize(
    ("env_id", "case"),
    [pytest.param(env_id, case, id=f"{env_id}: {case['why']}") for case in CASES for env_id in environments(case["on"])],
)
def test_a_completion_earns_what_it_is_worth(env_id: str, case: dict[str, str]) -> None:
    if env_id in (*CODED, "math"):
        try:
            shared_pool()
        except SandboxUnavailableError as error:
            pytest.skip(f"no complete sandbox here: {error.what}")
    question = asked(env_id)
    completion = filled(case["completion"], question.right)
    if case.get("opened"):
        completion = as_graded(completion, question.environment.messages(question.problem))
    grade = question.environment.grade(question.problem, completion)
    assert (grade.reward, grade.success) == (REWARDS[case["right"]], case["right"] == "success"), grade
    assert grade.well_formed == (case["right"] != "nothing")
