"""The text of an answer to a 3-SAT problem, written and read: `<answer>x1=0 x2=1 x3=1</answer>`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from grail_envs.answer_text import ANSWER_CLOSE, ANSWER_OPEN, tagged_answer
from grail_envs.sandbox.written_marks import plain_marks

MAX_ANSWER_CHARACTERS: Final = 4096
"""An answer longer than this between its tags is malformed: ten variables need 60."""

_SEPARATORS: Final = re.compile(r"[ \t\r\n,;]+")


def format_answer(assignment: Sequence[int]) -> str:
    """The asked form of an assignment: values of x1, x2, … in order."""
    return ANSWER_OPEN + " ".join(f"x{number}={value}" for number, value in enumerate(assignment, start=1)) + ANSWER_CLOSE


def parse_answer(completion: str, variables: int) -> tuple[int, ...] | None:
    """The assignment between the last pair of answer tags that are said, or None if it does not name each variable once."""
    body = tagged_answer(completion, limit=MAX_ANSWER_CHARACTERS)
    if body is None:
        return None
    parts = [part for part in _SEPARATORS.split(plain_marks(body)) if part]
    if len(parts) != variables:
        return None
    values: dict[str, int] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or value not in ("0", "1") or name in values:
            return None
        values[name] = int(value)
    names = [f"x{number}" for number in range(1, variables + 1)]
    if any(name not in values for name in names):
        return None
    return tuple(values[name] for name in names)
