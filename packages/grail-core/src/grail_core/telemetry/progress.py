"""How far a long command is: a bar on standard error where that is a terminal, else a line a step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from grail_core.text import printable


class Told(Protocol):
    def __call__(self, label: str, done: int, total: int) -> None:
        """What is being done, the steps done, the steps there are."""


@contextmanager
def progress() -> Iterator[Told]:
    if not sys.stderr.isatty():
        yield lambda label, done, total: print(f"{done}/{total} {printable(label)}", file=sys.stderr, flush=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from grail_core.telemetry.console import PlainColumn, PlainConsole

    columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), PlainColumn()]
    with Progress(*columns, console=PlainConsole(stderr=True)) as shown:
        task = shown.add_task("loading", total=None)
        yield lambda label, done, total: shown.update(task, description=label, completed=done, total=total)
