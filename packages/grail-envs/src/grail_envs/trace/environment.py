"""Predict a program's output, debug prints included; exact after white space is folded.

With `source` generated the output is known to the generator; with mbpp the program runs in the sandbox when an answer is
graded, with `random` seeded and hash order fixed, and its output is kept for the next answers to the same problem.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.answer_text import last_fence, tagged_answer
from grail_envs.code_answers import LIMITS
from grail_envs.data_sets import row_permutation
from grail_envs.draws import Draws, checked_seed
from grail_envs.reward_table import Component, RewardTable
from grail_envs.sandbox.jobs import LOST, Job, Ruling
from grail_envs.trace.grammar import drawn

VERSION: Final = 1
SOURCES: Final = ("generated", "mbpp")
MAX_ANSWER_CHARACTERS: Final = 65536
_SYSTEM: Final = (
    "Predict exactly what the Python program prints. Work through it step by step, then end your reply with the complete "
    "output between answer tags:\n<answer>\nfirst line\nsecond line\n</answer>"
)


@dataclass(frozen=True)
class TracePayload:
    """`expected` is None where the program must be run to know."""

    program: str
    expected: str | None


class TraceEnvironment:
    """Predict what a program prints.

    `source` is generated (a grammar) or mbpp (reference solutions of `split`, in `data_dir`, GRAIL_DATA_DIR or the hub).

    Raises:
        ConfigurationError: an unknown source.
        EnvironmentUnavailableError: the pinned set is not there.
    """

    rewards = RewardTable(
        Component("correct", Fraction(9, 10), "the whole output is right"),
        Component("format", Fraction(1, 10), "an output stands between answer tags"),
    )

    capabilities = Capabilities(data_folder=True, held_out={"split": "test"})

    def __init__(self, source: str = "generated", split: str = "train", data_dir: str | os.PathLike[str] | None = None) -> None:
        if source not in SOURCES:
            raise ConfigurationError(
                f"affine_trace has no source {source!r}", where="source", hint=f"one of {', '.join(SOURCES)}"
            )
        self._source = source
        digest = ""
        if source == "mbpp":
            from grail_envs.trace.pinned import sources

            self._programs, digest = sources(split, data_dir)
            if not self._programs:
                raise EnvironmentUnavailableError(
                    f"no row of the MBPP split {split} tests a call first", where="data_dir", hint="get the file again"
                )
            self._order = row_permutation(f"affine_trace/{split}", len(self._programs))
        self._spec = EnvironmentSpec("affine_trace", VERSION, {"source": source, "split": split}, digest)

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    def problem(self, seed: int) -> Problem:
        """The program of a 64-bit unsigned seed; the seed also places the debug prints.

        Raises:
            ValueError: a seed outside 0 … 2⁶⁴ − 1.
        """
        draws = Draws("affine_trace", VERSION, checked_seed(seed))
        if self._source == "generated":
            return Problem("affine_trace", seed, TracePayload(*drawn(draws)))
        from grail_envs.trace.pinned import with_debug_prints

        source = self._programs[self._order[seed % len(self._order)]]
        return Problem("affine_trace", seed, TracePayload(with_debug_prints(source, draws), None))

    def messages(self, problem: Problem) -> list[Message]:
        payload: TracePayload = problem.payload
        return [Message("system", _SYSTEM), Message("user", f"```python\n{payload.program.rstrip()}\n```")]

    def grade(self, problem: Problem, completion: str) -> Grade:
        payload: TracePayload = problem.payload
        answer = tagged_answer(completion, limit=MAX_ANSWER_CHARACTERS)
        if answer is None:
            return self.rewards.graded({}, success=False, well_formed=False, detail="no answer tag")
        fenced = last_fence(answer) if answer.startswith(("```", "~~~")) else None
        said = _folded(answer if fenced is None else fenced)
        if not said:
            return self.rewards.graded({}, success=False, well_formed=False, detail="an empty output")
        expected = payload.expected
        if expected is None:
            ruling = _run(payload.program)
            if not ruling.passed:
                _run.cache_clear()  # what may have been the machine's doing is not remembered
            # No code of the answer's ran: what a lost process would say against an answer, it says against this machine.
            if not ruling.conclusive or ruling.stage == LOST or ruling.limit == "memory":
                return self.rewards.inconclusive(ruling.detail)
            if not ruling.passed:
                return self.rewards.graded({"format": 1.0}, success=False, well_formed=True, detail="the program does not end")
            expected = ruling.output
        right = said == _folded(expected)
        return self.rewards.graded({"correct": float(right), "format": 1.0}, success=right, well_formed=True)

    def reference(self, problem: Problem) -> str:
        """A completion that succeeds, for tests of the grader."""
        payload: TracePayload = problem.payload
        expected = _run(payload.program).output if payload.expected is None else payload.expected
        return f"<answer>\n{expected}</answer>"


def job_of(program: str) -> Job:
    """The program as the sandbox runs it."""
    return Job(code=program, name="program", program=True)


@lru_cache(maxsize=512)
def _run(program: str) -> Ruling:
    from grail_envs.sandbox.pool import shared_pool

    return shared_pool().grade(job_of(program), LIMITS)


def _folded(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())
