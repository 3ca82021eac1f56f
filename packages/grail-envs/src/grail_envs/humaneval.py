"""HumanEval: complete a Python function from its docstring; `check(entry_point)` decides.

The answer's code runs after the prompt, so the prompt's imports and helpers are there; on the grading side the prompt is
run again by itself, so a test that calls a helper of the prompt calls the data set's, never one the answer replaced.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_envs.code_answers import CODE_REWARDS, CODE_SYSTEM, NO_CODE, code_of, graded_in_sandbox
from grail_envs.data_sets import HubSource, load_rows, row_permutation, rows_digest
from grail_envs.draws import checked_seed
from grail_envs.sandbox.jobs import Job

VERSION: Final = 1
HUB: Final = HubSource("openai/openai_humaneval", ("openai_humaneval",), "test", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544")
_FILES: Final = ("humaneval/HumanEval.jsonl.gz", "humaneval/HumanEval.jsonl")
_FIELDS: Final = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


@dataclass(frozen=True)
class HumanEvalPayload:
    """One row. `reference` is the published solution, for tests of the grader."""

    task_id: str
    prompt: str
    entry_point: str
    reference: str
    test: str


class HumanEvalEnvironment:
    """HumanEval functions; `data_dir` is a folder that holds humaneval/ (default: GRAIL_DATA_DIR, else the hub).

    Raises:
        EnvironmentUnavailableError: the set is not there or unreadable.
    """

    rewards = CODE_REWARDS
    capabilities = Capabilities(data_folder=True)

    def __init__(self, data_dir: str | os.PathLike[str] | None = None) -> None:
        rows, _ = load_rows("HumanEval", data_dir=data_dir, local_files=_FILES, hub=HUB, fields=_FIELDS)
        self._rows = [HumanEvalPayload(*(str(row[field]) for field in _FIELDS)) for row in rows]
        self._order = row_permutation("humaneval", len(self._rows))
        self._spec = EnvironmentSpec(env_id="humaneval", version=VERSION, data_digest=rows_digest(rows, _FIELDS))

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    @property
    def rows(self) -> list[HumanEvalPayload]:
        """All rows, in the order of the file."""
        return self._rows

    def __len__(self) -> int:
        """Number of distinct problems."""
        return len(self._rows)

    def problem(self, seed: int) -> Problem:
        """The row at place `seed mod N` of the fixed permutation."""
        return Problem("humaneval", seed, self._rows[self._order[checked_seed(seed) % len(self._order)]])

    def messages(self, problem: Problem) -> list[Message]:
        payload: HumanEvalPayload = problem.payload
        block = f"```python\n{payload.prompt.strip()}\n```"
        ask = f"Complete this function. Give the whole function `{payload.entry_point}`.\n\n{block}"
        return [Message("system", CODE_SYSTEM), Message("user", ask)]

    def grade(self, problem: Problem, completion: str) -> Grade:
        code = code_of(completion)
        return NO_CODE if code is None else graded_in_sandbox(job_of(problem.payload, code))


def job_of(payload: HumanEvalPayload, code: str) -> Job:
    """The whole suite of a row against an answer: complete code, or the indented body that goes on from the prompt."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    joined = payload.prompt + code if first[:1] in (" ", "\t") else f"{payload.prompt}\n{code}"
    return Job(
        code=joined,
        prelude=payload.prompt,
        remote=(payload.entry_point,),
        tests=(f"{payload.test}\ncheck({payload.entry_point})\n",),
    )
