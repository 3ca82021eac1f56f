"""`completions.json`: words in capitals become the right code or answer of a problem, and the environment grades the whole.

`right` begins with `success`, with `format` (or with `0.1`, and speaks of it), with the number that is to be read, or with why
nothing is earned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from grail_envs.answer_text import spoken, tagged_answer
from grail_envs.exact_numbers import read_number
from tooling.testing.reported_cases.opened_thinking import as_graded
from tooling.testing.reported_cases.outcome import Outcome, outcome
from tooling.testing.reported_cases.problems import ANSWERED, CODED, EXPRESSION, FUNCTION, asked

FENCED = f"{FUNCTION}\n\nNOTE = '''\n```\n'''"
_WHOLE = re.compile(
    r"(?:WHOLE )?RIGHT (?:CODE|FUNCTION|PROGRAM|SOLUTION|MODULE)(?P<fence> WITH A LINE \S+ IN A (?:DOCSTRING|STRING))?"
    r"(?: [A-Z]{2,})*"
)
_RIGHT = re.compile(r"RIGHT(?: [A-Z]{2,})*")
_OPENED = re.compile(r"template\b.*<think>", re.DOTALL)


def outcomes(file: str, rows: list[dict[str, Any]]) -> Iterator[Outcome]:
    """One outcome for each row and environment."""
    for number, row in enumerate(rows, start=1):
        named, _, network = str(row["environment"]).partition(", checkpoint")
        every = named.strip() in ("every one", "every", "all")
        for env_id in (*ANSWERED, *CODED) if every else [one.strip() for one in named.split(",")]:
            yield _graded(file, f"{number}, {env_id}: {row['why']}", env_id, row, opened=bool(_OPENED.search(network)))


def filled(env_id: str, completion: str) -> str:
    """The completion with the right code or answer in place of the words in capitals."""
    answer = asked(env_id).right
    text = _WHOLE.sub(lambda match: FENCED if match["fence"] else FUNCTION, completion)
    return _RIGHT.sub(EXPRESSION if env_id in CODED else answer, text)


def _graded(file: str, name: str, env_id: str, row: dict[str, Any], *, opened: bool) -> Outcome:
    question = asked(env_id)
    completion = filled(env_id, row["completion"])
    if opened:
        completion = as_graded(completion, question.environment.messages(question.problem))
    right = str(row["right"])
    form_alone = re.match(r"(?:reward )?0\.1\b.*\bform|form", right)
    wanted = None if form_alone else re.match(r"-?\d+(?:[./]\d+)?(?![\w.])", right)
    if wanted:
        number, gold = read_number(tagged_answer(completion, limit=512) or ""), read_number(wanted[0])
        return outcome(file, name, None not in (number, gold) and number == gold, f"read as {number} of {spoken(completion)!r}")
    grade = question.environment.grade(question.problem, completion)
    said = f"reward {grade.reward:g}: {grade.detail}"
    if right.startswith("success"):
        return outcome(file, name, grade.success, said)
    return outcome(file, name, grade.reward == (0.1 if form_alone else 0) and not grade.success, said)
