"""Random 3-SAT, satisfiable by construction: the small environment that a tiny model can learn in minutes.

A seed fixes the number of variables and clauses (so the seed chooses the difficulty), a hidden assignment, and distinct
clauses of three distinct variables that this assignment satisfies. All randomness is SHAKE-256 over the seed, so a problem
is the same in every process and under every library version. The answer names every variable of the problem exactly once
(`<answer>x1=0 x2=1 x3=1</answer>`); an answer for another number of variables is malformed, so one constant text fits only
the problems of one size. What is not here: any solver; nothing is ever searched for. Answers are read in `answers`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_envs.sat.answers import parse_answer
from grail_envs.sat.teaching import best_constant, teacher

VERSION: Final = 1
REWARD_WEIGHTS: Final = {"solved": 0.75, "satisfied": 0.25}
"""The one table of reward components: all clauses hold; share of clauses that hold. The reward lies in [0, 1]."""

_SYSTEM: Final = (
    "Give every variable the value 0 or 1 so that every clause is true. A clause is one line; it is true when at least one "
    "of its parts is, and 'not' turns 0 into 1 and 1 into 0. End your reply with the value of each variable, in this form: "
    "<answer>x1=0 x2=1 x3=1</answer>"
)


@dataclass(frozen=True)
class SatPayload:
    """`clauses`: literals as signed variable numbers from 1, ascending by variable; `planted`: one satisfying assignment."""

    variables: int
    clauses: tuple[tuple[int, int, int], ...]
    planted: tuple[int, ...]


class SatEnvironment:
    """Random satisfiable 3-SAT with `min_variables`..`max_variables` variables and `min_clauses`..`max_clauses` clauses.

    Both numbers are uniform, the second within what distinct clauses allow (three variables have only seven clauses that
    one assignment satisfies).

    Raises:
        ValueError: bounds out of order, fewer than 3 or more than 64 variables, or more clauses asked for than exist.
    """

    capabilities = Capabilities(best_constant=best_constant, teacher=teacher)

    def __init__(self, min_variables: int = 3, max_variables: int = 10, min_clauses: int = 5, max_clauses: int = 20) -> None:
        if not 3 <= min_variables <= max_variables <= 64:
            raise ValueError(f"variables must be 3 <= min <= max <= 64, not {min_variables}..{max_variables}")
        if not 1 <= min_clauses <= max_clauses <= 1024:
            raise ValueError(f"clauses must be 1 <= min <= max <= 1024, not {min_clauses}..{max_clauses}")
        if min_clauses > _distinct_clauses(min_variables):
            raise ValueError(
                f"{min_variables} variables have only {_distinct_clauses(min_variables)} distinct clauses that one assignment "
                f"satisfies, fewer than min_clauses = {min_clauses}"
            )
        self._variables = (min_variables, max_variables)
        self._clauses = (min_clauses, max_clauses)
        self._spec = EnvironmentSpec(
            env_id="sat",
            version=VERSION,
            parameters={
                "min_variables": min_variables,
                "max_variables": max_variables,
                "min_clauses": min_clauses,
                "max_clauses": max_clauses,
            },
        )

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    def problem(self, seed: int) -> Problem:
        """The problem of a 64-bit unsigned seed.

        Raises:
            ValueError: a seed outside 0 … 2⁶⁴ − 1.
        """
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed is a 64-bit unsigned integer, not {seed}")
        words = _words(seed)
        variables = _between(words, *self._variables)
        clauses = _between(words, self._clauses[0], min(self._clauses[1], _distinct_clauses(variables)))
        planted = tuple(_below(words, 2) for _ in range(variables))
        chosen: dict[tuple[int, int, int], None] = {}  # a dict keeps the order of drawing
        while len(chosen) < clauses:
            chosen[_clause(words, planted)] = None
        return Problem(env_id="sat", seed=seed, payload=SatPayload(variables, tuple(chosen), planted))

    def messages(self, problem: Problem) -> list[Message]:
        payload: SatPayload = problem.payload
        lines = [" or ".join(_literal_text(literal) for literal in clause) for clause in payload.clauses]
        text = f"{payload.variables} variables, {len(lines)} clauses:\n" + "\n".join(lines)
        return [Message("system", _SYSTEM), Message("user", text)]

    def grade(self, problem: Problem, completion: str) -> Grade:
        """Grade the last answer in the text; linear in its length."""
        payload: SatPayload = problem.payload
        assignment = parse_answer(completion, payload.variables)
        if assignment is None:
            components = dict.fromkeys(REWARD_WEIGHTS, 0.0)
            return Grade(0.0, success=False, well_formed=False, components=components, detail="no well-formed answer")
        holding = sum(
            any((literal > 0) == (assignment[abs(literal) - 1] == 1) for literal in clause) for clause in payload.clauses
        )
        solved = holding == len(payload.clauses)
        components = {"solved": float(solved), "satisfied": holding / len(payload.clauses)}
        reward = 1.0 if solved else sum(weight * components[name] for name, weight in REWARD_WEIGHTS.items())
        return Grade(
            reward,
            success=solved,
            well_formed=True,
            components=components,
            detail=f"{holding} of {len(payload.clauses)} clauses hold",
        )


def _literal_text(literal: int) -> str:
    return f"x{literal}" if literal > 0 else f"not x{-literal}"


def _distinct_clauses(variables: int) -> int:
    """Clauses over three distinct variables that one given assignment satisfies: seven of eight sign patterns."""
    return 7 * math.comb(variables, 3)


def _clause(words: Iterator[int], planted: tuple[int, ...]) -> tuple[int, int, int]:
    chosen: list[int] = []
    while len(chosen) < 3:
        variable = _below(words, len(planted))
        if variable not in chosen:
            chosen.append(variable)
    chosen.sort()
    holds = 1 + _below(words, 7)  # which of the three literals hold under the planted assignment, as bits; never none
    first, second, third = (
        variable + 1 if planted[variable] == (holds >> place & 1) else -(variable + 1) for place, variable in enumerate(chosen)
    )
    return first, second, third


def _words(seed: int) -> Iterator[int]:
    """Endless 32-bit words: SHAKE-256 over name, version, seed and block number, 1 KiB a block."""
    block = 0
    while True:
        stream = hashlib.shake_256(b"grail-envs/sat" + struct.pack(">IQI", VERSION, seed, block)).digest(1024)
        yield from struct.unpack(">256I", stream)
        block += 1


def _below(words: Iterator[int], bound: int) -> int:
    """Uniform in 0 … bound − 1, by rejection."""
    limit = 2**32 // bound * bound
    while True:
        word = next(words)
        if word < limit:
            return word % bound


def _between(words: Iterator[int], low: int, high: int) -> int:
    return low + _below(words, high - low + 1)
