"""KernelBench as a data set: its published tasks by level, from the hub at one revision or from a local folder.

A row is a module with `Model`, `get_inputs` and `get_init_inputs`; its sizes are what they are. Most are far larger than the
interpreter can work through: only those with at most `reference.MAX_ELEMENTS` elements of inputs are judged, and all others
are inconclusive: `names` picks the rows that a network asks.
"""

from __future__ import annotations

import os
from typing import Any, Final

from grail_core.errors import ConfigurationError
from grail_envs.code_answers import problem_of_module
from grail_envs.data_sets import Field, HubSource, broken_row, load_rows
from grail_envs.kernels.drawing import Task
from grail_envs.kernels.tasks.form import OTHER_DRAWS, SHOWN_DRAWS

HUB_REPOSITORY: Final = "ScalingIntelligence/KernelBench"
LEVELS: Final = (1, 2, 3)
FIELDS: Final = {"name": Field.TEXT, "problem_id": Field.WHOLE, "level": Field.WHOLE, "code": Field.TEXT}


def kernelbench_rows(
    levels: tuple[int, ...], names: tuple[str, ...], revision: str, data_dir: str | os.PathLike[str] | None
) -> list[dict[str, Any]]:
    """The rows of these levels, in the order of their numbers; with `names` only those.

    Raises:
        ConfigurationError: a level that there is not, no row of a name, or neither a folder nor a revision to get the set by.
        EnvironmentUnavailableError: the set is not there, is unreadable, or a row is no module.
    """
    if not levels or not set(levels) <= set(LEVELS):
        raise ConfigurationError(f"KernelBench has no level {levels}", where="levels", hint="levels are 1, 2 and 3")
    hub = HubSource(HUB_REPOSITORY, ("default",), f"level_{levels[0]}", revision) if revision else None
    rows: list[dict[str, Any]] = []
    for level in levels:
        source = hub and HubSource(hub.repository, hub.configurations, f"level_{level}", hub.revision)
        files = (f"kernelbench/level_{level}.jsonl", f"kernelbench/level_{level}.json")
        found, where = load_rows("KernelBench", data_dir=data_dir, local_files=files, hub=source, fields=FIELDS)
        for number, row in enumerate(found):
            problem = problem_of_module(row["code"])
            if problem:
                raise broken_row("KernelBench", number, f"its code ({row['name'][:60]}) is no module: {problem}", where=where)
        rows += sorted(found, key=lambda row: int(row["problem_id"]))
    missing = set(names) - {row["name"] for row in rows}
    if missing:
        raise ConfigurationError(
            f"KernelBench has no task {min(missing)[:60]!r} in these levels", where="names", hint="names are those of its rows"
        )
    return [row for row in rows if not names or row["name"] in names]


def task_of(row: dict[str, Any]) -> Task:
    """A row as a task: every draw has its sizes."""
    return Task(row["name"], row["code"], (row["code"],) * (SHOWN_DRAWS + OTHER_DRAWS))
