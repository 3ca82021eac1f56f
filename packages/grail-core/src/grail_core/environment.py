"""The types every environment speaks: problems, messages, grades, and the spec whose digest binds them.

Checks and services take an `Environment` as a value; this module never imports one. Environments live in `grail_envs`
or in third-party wheels under the entry point `grail.environments`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol, runtime_checkable

from grail_core.protocol.environment_spec import EnvironmentSpec

__all__ = ["THINK_CLOSE", "THINK_OPEN", "Environment", "EnvironmentSpec", "Grade", "GradeOutcome", "Message", "Problem"]

THINK_OPEN: Final = "<think>"
THINK_CLOSE: Final = "</think>"
"""What stands between them is thought and not said, so it is never an answer."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat. `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Problem:
    """One problem, a pure function of (spec, seed). `payload` is the environment's own frozen value."""

    env_id: str
    seed: int
    payload: Any


class GradeOutcome(Enum):
    GRADED = "graded"
    INCONCLUSIVE = "inconclusive"  # a fault of the grader's side, never of the answer


@dataclass(frozen=True)
class Grade:
    """What one completion earned.

    `reward` is finite and inside the environment's stated bounds; `well_formed` says that an answer was found in the asked
    format, right or wrong; `components` are the named parts of the reward; `limit_share` is the largest share of a time or
    memory limit that grading used (0.0 where there is none).
    """

    reward: float
    success: bool
    well_formed: bool
    components: Mapping[str, float] = field(default_factory=dict)
    outcome: GradeOutcome = GradeOutcome.GRADED
    limit_share: float = 0.0
    detail: str = ""


@runtime_checkable
class Environment(Protocol):
    """Deterministic from a seed, graded the same way everywhere."""

    @property
    def spec(self) -> EnvironmentSpec: ...

    def problem(self, seed: int) -> Problem:
        """The problem of a 64-bit unsigned seed. Pure; never raises for a seed in range."""
        ...

    def messages(self, problem: Problem) -> list[Message]:
        """The chat that asks the problem, without the assistant's turn."""
        ...

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Grade a completion as `PromptRenderer.decode_completion` gives it. Never raises for any text.

        That is without special tokens, and with `THINK_OPEN` before it where the chat template has opened the thinking.
        """
        ...
