"""What became of one case."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    RIGHT = "ok"
    WRONG = "WRONG"
    OPEN = "open"  # the case itself leaves open what is right: it is told, and fails nothing


@dataclass(frozen=True)
class Outcome:
    """`file` and `name` say which case; `said` what was found, where that is not simply right."""

    file: str
    name: str
    verdict: Verdict
    said: str = ""


def outcome(file: str, name: str, right: bool, said: str = "") -> Outcome:
    """A case that is right or wrong."""
    return Outcome(file, name, Verdict.RIGHT if right else Verdict.WRONG, said)
