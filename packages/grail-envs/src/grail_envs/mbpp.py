"""MBPP: short Python tasks, graded by every assertion of the row.

The order is code, then setup, then tests. The prompt shows the first assertion (it fixes the name and the arguments) and
hides the others, so an answer that only tabulates what it was shown fails. The tests see the answer's functions and classes
as partners that return data; names that the reference solution does not define are Python's own there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.code_answers import (
    CODE_REWARDS,
    CODE_SYSTEM,
    NO_CODE,
    code_of,
    defined_names,
    graded_in_sandbox,
    imports_of,
    problem_of_module,
    used_names,
)
from grail_envs.data_sets import Field, HubSource, broken_row, load_rows, row_permutation, rows_digest
from grail_envs.draws import checked_seed
from grail_envs.sandbox.jobs import Job

VERSION: Final = 1
HUB_REPOSITORY: Final = "google-research-datasets/mbpp"
HUB_REVISION: Final = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
SPLITS: Final = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}
"""Inclusive ranges of `task_id`."""

_FILES: Final = {"full": ("mbpp/mbpp.jsonl", "mbpp/mbpp.jsonl.gz"), "sanitized": ("mbpp/sanitized-mbpp.json",)}
_FIELDS: Final = {
    "full": {
        "task_id": Field.WHOLE,
        "text": Field.TEXT,
        "code": Field.TEXT,
        "test_setup_code": Field.TEXT_OR_NULL,
        "test_list": Field.TEXTS,
        "challenge_test_list": Field.TEXTS_OR_NULL,
    },
    "sanitized": {
        "task_id": Field.WHOLE,
        "prompt": Field.TEXT,
        "code": Field.TEXT,
        "test_imports": Field.TEXTS_OR_NULL,
        "test_list": Field.TEXTS,
    },
}


@dataclass(frozen=True)
class MbppPayload:
    """One row. `names` are what the tests take from the answer; `reference` is the published solution."""

    task_id: int
    text: str
    reference: str
    imports: str
    setup: str
    tests: tuple[str, ...]
    names: tuple[str, ...]


class MbppEnvironment:
    """MBPP tasks.

    `split` is train, validation, test or prompt; `subset` is full or sanitized (hand-verified); `data_dir` is a folder that
    holds mbpp/ (default: GRAIL_DATA_DIR, else the hub).

    Raises:
        ConfigurationError: an unknown split or subset.
        EnvironmentUnavailableError: the set is not there, is unreadable, or a row is broken.
    """

    rewards = CODE_REWARDS
    capabilities = Capabilities(data_folder=True, held_out={"split": "test"})

    def __init__(self, split: str = "train", subset: str = "full", data_dir: str | os.PathLike[str] | None = None) -> None:
        if split not in SPLITS or subset not in _FILES:
            raise ConfigurationError(
                f"mbpp has no split {split!r} of a subset {subset!r}",
                where="split, subset",
                hint=f"split: {', '.join(SPLITS)}; subset: {', '.join(_FILES)}",
            )
        fields = _FIELDS[subset]
        hub = HubSource(HUB_REPOSITORY, (subset,), split, HUB_REVISION)
        rows, where = load_rows("MBPP", data_dir=data_dir, local_files=_FILES[subset], hub=hub, fields=fields)
        low, high = SPLITS[split]
        numbered = [(number, row) for number, row in enumerate(rows) if low <= row["task_id"] <= high]
        rows = [row for _, row in numbered]
        if not rows:
            raise EnvironmentUnavailableError(
                f"the MBPP data set has no row of the split {split}", where=where, hint="get the file again"
            )
        self._rows = [_payload(number, row, where) for number, row in numbered]
        self._order = row_permutation(f"mbpp/{subset}/{split}", len(self._rows))
        self._spec = EnvironmentSpec(
            env_id="mbpp", version=VERSION, parameters={"split": split, "subset": subset}, data_digest=rows_digest(rows, fields)
        )

    @property
    def spec(self) -> EnvironmentSpec:
        return self._spec

    @property
    def rows(self) -> list[MbppPayload]:
        """All rows of the split, in the order of the file."""
        return self._rows

    def __len__(self) -> int:
        """Number of distinct problems."""
        return len(self._rows)

    def problem(self, seed: int) -> Problem:
        """The row at place `seed mod N` of the fixed permutation."""
        return Problem("mbpp", seed, self._rows[self._order[checked_seed(seed) % len(self._order)]])

    def messages(self, problem: Problem) -> list[Message]:
        payload: MbppPayload = problem.payload
        shown = f"{payload.setup}\n{payload.tests[0]}" if payload.setup else payload.tests[0]
        ask = f"{payload.text.strip()}\n\nYour code must pass tests like this one:\n\n```python\n{shown}\n```"
        return [Message("system", CODE_SYSTEM), Message("user", ask)]

    def grade(self, problem: Problem, completion: str) -> Grade:
        code = code_of(completion)
        return NO_CODE if code is None else graded_in_sandbox(job_of(problem.payload, code))


def job_of(payload: MbppPayload, code: str) -> Job:
    """The whole suite of a row against an answer."""
    tests = (payload.setup, *payload.tests) if payload.setup else payload.tests
    return Job(code=code, prelude=payload.imports, remote=payload.names, tests=tests)


def _payload(number: int, row: dict[str, Any], where: str) -> MbppPayload:
    """A row, if all its own code is Python and its tests ask something of the answer.

    Raises:
        EnvironmentUnavailableError: it is not, so that every answer would be graded alike.
    """
    code = row["code"].replace("\r\n", "\n")
    setup = (row.get("test_setup_code") or "").replace("\r\n", "\n")
    given = row.get("test_imports") or []
    tests = tuple(test.replace("\r\n", "\n") for test in (*row["test_list"], *(row.get("challenge_test_list") or [])))
    task = f"task_id {row['task_id']}"
    for field, texts in (("code", [code]), ("test_setup_code", [setup]), ("test_imports", given), ("tests", tests)):
        problem = next(filter(None, map(problem_of_module, texts)), "")
        if problem:
            raise broken_row("MBPP", number, f"there is no Python module in its {field} ({task}): {problem}", where=where)
    if not row["test_list"]:
        raise broken_row("MBPP", number, f"its test_list ({task}) is empty", where=where)
    names = defined_names(code) & used_names(setup, *tests)
    if not names:
        raise broken_row("MBPP", number, f"its tests ({task}) name nothing that its code defines", where=where)
    imports = "\n".join(part for part in (imports_of(code), *given) if part)
    text = row["text"] if "text" in row else row["prompt"]
    return MbppPayload(row["task_id"], text, code, imports, setup, tests, tuple(sorted(names)))
