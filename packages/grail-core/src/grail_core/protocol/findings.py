"""Section 9: what a check says. Outcomes are three-valued (receipts have a fourth).

Numbers are decimal text, since canonical JSON has no floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.reading import MAX_JSON_INTEGER, Json, Node

MAX_CHECK_NAME = 64
MAX_NUMBER_TEXT = 128
MAX_DETAIL = 512


class Outcome(Enum):
    """What a check says: yes, no, or that it could not find out. A verdict holds the first three."""

    ACCEPT = "accept"
    REJECT = "reject"  # fails the miner's window
    INCONCLUSIVE = "inconclusive"  # a fault of the validator; nobody pays for it
    UNPROVEN = "unproven"  # of receipts alone: no fraud is shown, and neither is what was ordered


def decimal(value: float) -> str:
    """The shortest decimal text that reads back as this float64: "0.3", "1e-06", "nan", "inf", "-inf"; "0.0" for −0.0."""
    return repr(float(value) + 0.0)


@dataclass(frozen=True)
class Finding:
    """One check's say on a file, a group (`rollout` None) or a rollout, with the number and the bound that decided.

    `value` and `threshold` are integers or text (`decimal` for floats); None where there is no number to tell.
    """

    check: str
    outcome: Outcome
    value: str | int | None = None
    threshold: str | int | None = None
    detail: str = ""
    group: int | None = None
    rollout: int | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.check) <= MAX_CHECK_NAME:
            raise ValueError(f"check: 1 … {MAX_CHECK_NAME} characters are expected")
        for name, number in (("value", self.value), ("threshold", self.threshold)):
            if isinstance(number, bool | float):
                raise ValueError(f"{name}: {number!r} is neither an integer nor text (floats: decimal())")
            if isinstance(number, int) and abs(number) > MAX_JSON_INTEGER:
                raise ValueError(f"{name}: an integer beyond 2^53 − 1 is written as text")
            if isinstance(number, str) and len(number) > MAX_NUMBER_TEXT:
                raise ValueError(f"{name}: at most {MAX_NUMBER_TEXT} characters are allowed")
        if len(self.detail) > MAX_DETAIL:
            raise ValueError(f"detail: at most {MAX_DETAIL} characters are allowed")
        if self.rollout is not None and (self.group is None or not 0 <= self.rollout < ROLLOUTS_PER_PROBLEM):
            raise ValueError(f"rollout: {self.rollout} of group {self.group}")
        if self.group is not None and not 0 <= self.group <= MAX_JSON_INTEGER:
            raise ValueError(f"group: {self.group}")

    def to_json(self) -> dict[str, Json]:
        return {
            "check": self.check,
            "outcome": self.outcome.value,
            "value": self.value,
            "threshold": self.threshold,
            "detail": self.detail,
            "group": self.group,
            "rollout": self.rollout,
        }

    @classmethod
    def from_json(cls, value: object) -> Finding:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        node = value if isinstance(value, Node) else Node(value, "$finding")
        m = node.members(*cls.__dataclass_fields__)
        return node.build(
            lambda: cls(
                check=m["check"].text(MAX_CHECK_NAME),
                outcome=_of_a_verdict(m["outcome"]),
                value=m["value"].optional(_number),
                threshold=m["threshold"].optional(_number),
                detail=m["detail"].text(MAX_DETAIL),
                group=m["group"].optional(Node.integer),
                rollout=m["rollout"].optional(Node.integer),
            )
        )


def _of_a_verdict(node: Node) -> Outcome:
    outcome = node.choice(Outcome)
    if outcome is Outcome.UNPROVEN:
        node.refuse("verdicts say accept, reject or inconclusive")
    return outcome


def _number(node: Node) -> str | int:
    if isinstance(node.value, str):
        return node.text(MAX_NUMBER_TEXT)
    return node.integer(-MAX_JSON_INTEGER, MAX_JSON_INTEGER)
