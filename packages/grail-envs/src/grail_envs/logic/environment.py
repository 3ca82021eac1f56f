"""The environment of the eight families: the seed chooses the family, then the puzzle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import ConfigurationError
from grail_envs.answer_text import tagged_answer
from grail_envs.draws import Draws
from grail_envs.logic.boolean_options import BooleanOptions
from grail_envs.logic.brackets import DyckCompletion, DyckErrors, DyckPrefix
from grail_envs.logic.cryptarithm import Cryptarithm
from grail_envs.logic.family import Family
from grail_envs.logic.game_of_n import GameOfN
from grail_envs.logic.operators import CustomOperators
from grail_envs.logic.sudoku import Sudoku
from grail_envs.logic.teaching import teacher
from grail_envs.reward_table import CORRECT_AND_FORMAT
from grail_envs.sandbox.written_marks import plain_marks

VERSION: Final = 1
FAMILIES: Final[dict[str, Family[Any]]] = {
    family.name: family
    for family in (
        DyckCompletion(),
        DyckPrefix(),
        DyckErrors(),
        GameOfN(),
        CustomOperators(),
        Cryptarithm(),
        BooleanOptions(),
        Sudoku(),
    )
}
_MAX_ANSWER_CHARACTERS: Final = 1024
_SYSTEM: Final = (
    "Solve the puzzle. Think step by step, then end your reply with the answer between answer tags, in this form: "
    "<answer>your answer</answer>"
)


@dataclass(frozen=True)
class LogicPayload:
    """The family's name and its puzzle."""

    family: str
    puzzle: Any


class LogicEnvironment:
    """Eight families of logic puzzles; `families` keeps some of them (empty: all).

    Raises:
        ConfigurationError: an unknown family.
    """

    capabilities = Capabilities(teacher=teacher)
    rewards = CORRECT_AND_FORMAT

    def __init__(self, families: Sequence[str] = ()) -> None:
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown or isinstance(families, str):
            raise ConfigurationError(
                f"affine_logic has no family {unknown[0] if unknown else families!r}",
                where="families",
                hint=f"a list of: {', '.join(FAMILIES)}",
            )
        self._families = [name for name in FAMILIES if not families or name in families]
        self._spec = EnvironmentSpec("affine_logic", VERSION, {"families": self._families})

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    def problem(self, seed: int) -> Problem:
        """The puzzle of a 64-bit unsigned seed.

        Raises:
            ValueError: a seed outside 0 … 2⁶⁴ − 1.
        """
        draws = Draws("affine_logic", VERSION, seed)
        name = draws.choice(self._families)
        return Problem("affine_logic", seed, LogicPayload(name, FAMILIES[name].generate(draws)))

    def messages(self, problem: Problem) -> list[Message]:
        payload: LogicPayload = problem.payload
        return [Message("system", _SYSTEM), Message("user", FAMILIES[payload.family].question(payload.puzzle))]

    def grade(self, problem: Problem, completion: str) -> Grade:
        payload: LogicPayload = problem.payload
        answer = tagged_answer(completion, limit=_MAX_ANSWER_CHARACTERS)
        if answer is None:
            return self.rewards.graded({}, success=False, well_formed=False, detail="no answer tag")
        right = FAMILIES[payload.family].solves(payload.puzzle, plain_marks(answer))
        if right is None:
            return self.rewards.graded({}, success=False, well_formed=False, detail="the answer is not in the asked form")
        return self.rewards.graded(
            {"correct": float(right), "format": 1.0}, success=right, well_formed=True, detail=payload.family
        )

    def reference(self, problem: Problem) -> str:
        """A completion that succeeds, for tests of the grader."""
        payload: LogicPayload = problem.payload
        return f"<answer>{FAMILIES[payload.family].reference(payload.puzzle)}</answer>"
