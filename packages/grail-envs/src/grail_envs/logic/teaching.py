"""What a tiny model of one family of puzzles starts from; so far `game_of_n` has a teacher of its own.

The vocabulary is of symbols: a number, an operator, the target and each unchanging sentence are a token, so a puzzle is about
a dozen tokens and an answer two a number. The one stage shows the numbers in the order of the question, joined by operators
drawn at random: the form of an answer, and nothing of arithmetic. About one puzzle in twenty comes out right so; adding all
numbers, whatever the target, solves one in eight, and the best operators for each puzzle, in that order and without brackets,
half of them. What is left to learn is which operators suit a target.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Final

from grail_core.capabilities import GENERAL_TEACHER, Stage, Symbols, Teacher
from grail_core.environment import Problem
from grail_envs.answer_text import ANSWER_CLOSE, ANSWER_OPEN
from grail_envs.logic.game_of_n import GameOfN

if TYPE_CHECKING:
    from grail_envs.logic.environment import LogicEnvironment

_NUMBERS: Final = range(1, 21)
_TARGETS: Final = range(10, 201)
_MOST_NUMBERS: Final = 6
_OPERATORS: Final = {"+": 0.8, "-": 0.12, "*": 0.08}


def teacher(environment: LogicEnvironment) -> Teacher:
    """That of the environment's family; the general one where it has several, or none of its own."""
    if environment.spec.parameters["families"] != [GameOfN.name]:
        return GENERAL_TEACHER
    return Teacher(
        vocabulary=_symbols(environment),
        stages=(Stage(chained, 800, 5e-3, 2e-4),),
        context_length=64,
        max_new_tokens=2 * _MOST_NUMBERS + 6,
        rows=32,
    )


def chained(problem: Problem, rng: random.Random) -> str:
    """The numbers in their order, joined by operators that know nothing of the target."""
    numbers = problem.payload.puzzle.numbers
    operators = rng.choices(list(_OPERATORS), list(_OPERATORS.values()), k=len(numbers) - 1)
    rest = "".join(f" {operator} {number}" for operator, number in zip(operators, numbers[1:], strict=True))
    return f"{ANSWER_OPEN}{numbers[0]}{rest}{ANSWER_CLOSE}"


def _symbols(environment: LogicEnvironment) -> Symbols:
    """Text between the pieces (commas, "use each of the numbers") says nothing that they do not."""
    system, question = (message.content for message in environment.messages(environment.problem(0)))
    rules = question[question.index("exactly once") :]
    words = [system, rules, ANSWER_OPEN, ANSWER_CLOSE, *"+-*/()", *map(str, _NUMBERS)]
    words += [f"equals {target}" for target in _TARGETS]
    pieces = (re.escape(system), re.escape(rules), ANSWER_OPEN, ANSWER_CLOSE, r"equals \d+", r"\d+", r"[-+*/()]")
    return Symbols(tuple(words), "|".join(pieces))
