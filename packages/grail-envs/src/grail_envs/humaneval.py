"""HumanEval: complete a Python function from its docstring; `check(entry_point)` decides.

The answer's code runs after the prompt, so the prompt's imports and helpers are there; on the grading side the prompt is
run again, so a test that calls a helper of the prompt calls the data set's, never one the answer replaced. So a prompt has to
be a module by itself, and a row whose prompt is none is refused when the set is loaded.
"""

from __future__ import annotations

import ast
import keyword
import os
from dataclasses import dataclass
from typing import Any, Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import EnvironmentUnavailableError
from grail_envs.code_answers import CODE_REWARDS, CODE_SYSTEM, NO_CODE, code_of, graded_in_sandbox, problem_of_module
from grail_envs.data_sets import Field, HubSource, broken_row, load_rows, row_permutation, rows_digest
from grail_envs.draws import checked_seed
from grail_envs.sandbox.jobs import Job

VERSION: Final = 1
HUB: Final = HubSource("openai/openai_humaneval", ("openai_humaneval",), "test", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544")
_FILES: Final = ("humaneval/HumanEval.jsonl.gz", "humaneval/HumanEval.jsonl")
_FIELDS: Final = {
    "task_id": Field.NAME,
    "prompt": Field.TEXT,
    "entry_point": Field.TEXT,
    "canonical_solution": Field.TEXT_OR_NULL,
    "test": Field.TEXT,
}
_MODULE_HINTS: Final = {
    "prompt": "a prompt must run without the answer: end it with the function's docstring, or with `pass`",
    "test": "a test must run by itself: it defines `check(candidate)`",
}


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
        EnvironmentUnavailableError: the set is not there or unreadable, or a row's prompt or test is no Python module.
    """

    rewards = CODE_REWARDS
    capabilities = Capabilities(data_folder=True)

    def __init__(self, data_dir: str | os.PathLike[str] | None = None) -> None:
        rows, where = load_rows("HumanEval", data_dir=data_dir, local_files=_FILES, hub=HUB, fields=_FIELDS)
        self._rows = [_payload(number, row, where) for number, row in enumerate(rows)]
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
    first = next((line for line in code.split("\n") if line.strip() and not line.startswith("#")), "")
    goes_on = first.startswith((" ", "\t"))
    begun = payload.prompt.rstrip(" \t").removesuffix("\n") + "\n"
    return Job(
        code=begun + code if goes_on else code,
        given="" if goes_on else payload.prompt,
        prelude=payload.prompt,
        remote=(payload.entry_point,),
        tests=(f"{payload.test}\ncheck({payload.entry_point})\n",),
    )


def _payload(number: int, row: dict[str, Any], where: str) -> HumanEvalPayload:
    """A row, if its prompt and its test are modules by themselves: both are run so, whatever the answer.

    Raises:
        EnvironmentUnavailableError: one is not, or its test has no `check`; every answer would be graded wrong.
    """
    payload = HumanEvalPayload(*("" if row[field] is None else str(row[field]) for field in _FIELDS))

    def refused(what: str, hint: str) -> EnvironmentUnavailableError:
        return broken_row("HumanEval", number, f"its {what} (task_id {payload.task_id})", where=where, hint=hint)

    for field, text in (("prompt", payload.prompt), ("test", payload.test)):
        problem = problem_of_module(text)
        if problem:
            raise refused(f"{field} is no Python module: {problem}", _MODULE_HINTS[field])
    if not payload.entry_point.isidentifier() or keyword.iskeyword(payload.entry_point):
        raise refused("entry_point is no name of a function", "write the name alone, without arguments")
    if not _defines(payload.test, "check"):
        raise refused("test defines no check", "a test defines `check(candidate)`, which is called with the answer's function")
    return payload


def _defines(code: str, name: str) -> bool:
    """Whether the code defines, assigns or imports this name anywhere."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) in (name, "*"):
            return True
    return False
