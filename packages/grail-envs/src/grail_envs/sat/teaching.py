"""What a tiny model of 3-SAT starts from, and what one constant answer would earn.

The vocabulary is of symbols: one token a literal, one an assignment `x3=1`, one for the whole system message, and a clause's
end is part of its last literal; a problem is about 45 tokens, an answer one a variable.

There are two stages, because the format alone leaves nothing for reinforcement to hold on to. First the answers give each
variable the sign it has in most clauses (a rule of thumb, not a solver), so that attention learns where a variable's literals
stand; then the same answers with 40 % of the values flipped at random, so that the model samples diffusely: well formed nearly
always, right about as often as guessing. What is left to learn is to trust what it sees, and reinforcement does that.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from grail_core.capabilities import Demonstrate, Stage, Symbols, Teacher
from grail_core.environment import Problem
from grail_envs.answer_text import ANSWER_CLOSE, ANSWER_OPEN
from grail_envs.sat.answers import format_answer

if TYPE_CHECKING:
    from grail_envs.sat.environment import SatEnvironment

MAX_VARIABLES: Final = 16
"""Of problems whose assignments are all tried for the best constant answer: 65,536 a problem."""


def teacher(environment: SatEnvironment) -> Teacher:
    """Vocabulary, sizes and stages for the environment's numbers of variables and clauses."""
    variables, clauses = (int(environment.spec.parameters[name]) for name in ("max_variables", "max_clauses"))
    return Teacher(
        vocabulary=_symbols(environment),
        stages=(Stage(majority_answer, 400, 5e-3, 1.5e-3), Stage(_flipped(0.4), 100, 1.5e-3, 1.5e-4)),
        context_length=max(128, 2 ** (3 * clauses + variables + 16).bit_length()),
        max_new_tokens=variables + 6,
        rows=32,
    )


def best_constant(environment: SatEnvironment, problems: Sequence[Problem]) -> float | None:
    """Exact, over all assignments; an answer fits problems of one size only, so the best one is found size by size."""
    if int(environment.spec.parameters["max_variables"]) > MAX_VARIABLES:
        return None
    import numpy as np

    solved: dict[int, np.ndarray] = {}
    for problem in problems:
        variables = problem.payload.variables
        every = np.arange(2**variables)
        holds = np.ones(2**variables, dtype=bool)
        for clause in problem.payload.clauses:
            holds &= np.any([(every >> (abs(literal) - 1) & 1) == (literal > 0) for literal in clause], axis=0)
        solved.setdefault(variables, np.zeros(2**variables, dtype=np.int64))
        solved[variables] += holds
    return max(int(counts.max()) for counts in solved.values()) / len(problems)


def majority_answer(problem: Problem, rng: random.Random) -> str:
    """Every variable as most of its literals want it; ties by a coin."""
    return format_answer(_majority(problem, rng))


def _flipped(share: float) -> Demonstrate:
    def demonstrate(problem: Problem, rng: random.Random) -> str:
        return format_answer([value ^ (rng.random() < share) for value in _majority(problem, rng)])

    return demonstrate


def _majority(problem: Problem, rng: random.Random) -> list[int]:
    balance = [0] * problem.payload.variables
    for clause in problem.payload.clauses:
        for literal in clause:
            balance[abs(literal) - 1] += 1 if literal > 0 else -1
    return [int(value > 0) if value else rng.getrandbits(1) for value in balance]


def _symbols(environment: SatEnvironment) -> Symbols:
    """Text between the pieces (" or ", ", ", spaces) says nothing that they do not."""
    parameters = environment.spec.parameters
    variables = range(1, int(parameters["max_variables"]) + 1)
    system = environment.messages(environment.problem(0))[0].content
    tags = (ANSWER_OPEN, ANSWER_CLOSE)
    words = [system, *tags]
    words += [f"{n} variables" for n in range(int(parameters["min_variables"]), len(variables) + 1)]
    words += [f"{n} clauses" for n in range(1, int(parameters["max_clauses"]) + 1)]
    words += [f"{sign}x{v}{end}" for v in variables for sign in ("", "not ") for end in ("", "\n")]
    words += [f"x{v}={value}" for v in variables for value in (0, 1)]
    pieces = (re.escape(system), r"\d+ variables", r"\d+ clauses", r"x\d+=[01]", r"(?:not )?x\d+\n?", *map(re.escape, tags))
    return Symbols(tuple(words), "|".join(pieces))
