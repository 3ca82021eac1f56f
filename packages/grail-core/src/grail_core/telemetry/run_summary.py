"""What a role did between its start and its end, added up from its own events, and said once when it stops.

The event `ROLE_stopped` has `seconds` and a figure for each row of the role's table, whatever ended it; nothing here decides
anything, and a process that is killed says nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from grail_core.telemetry.logs import EventLogger, fields_of

LOST = "windows_lost"


@dataclass(frozen=True)
class Figure:
    """One figure of a summary: how often an event came, or the sum of one of its fields."""

    name: str
    field: str = ""  # "": count the events


Table = Mapping[str, tuple[Figure, ...]]
"""Event → what it adds to."""

MINER: Table = {
    "window_mined": (Figure("windows_mined"), Figure("rollouts", "rollouts"), Figure("bytes_uploaded", "bytes")),
    "round_sealed": (Figure("rounds"), Figure("bytes_uploaded", "bytes")),
    **dict.fromkeys(
        ("window_skipped", "window_left", "window_empty", "window_withheld", "upload_failed"),
        (Figure(LOST),),
    ),
}
VALIDATOR: Table = {
    "window_judged": (
        Figure("windows_judged"),
        Figure("files_checked", "checked"),
        Figure("files_failed", "failed"),
        Figure("rollouts", "rollouts_checked"),
    ),
    "round_judged": (Figure("rounds"), Figure("files_checked", "checked"), Figure("files_failed", "failed")),
    "weights_set": (Figure("weights_set"),),
    **dict.fromkeys(("window_not_scored", "round_not_scored"), (Figure(LOST),)),
}
TRAINER: Table = {
    "window_trained": (Figure("windows_trained"), Figure("rollouts", "rollouts")),
    "merge_published": (Figure("rounds"),),
    "checkpoint_published": (Figure("checkpoints"),),
    "training_alarm": (Figure("alarms"),),
    **dict.fromkeys(("window_not_trained", "round_not_merged"), (Figure(LOST),)),
}


class RunSummary(logging.Handler):
    """Adds up; `windows` is what the role itself counts as done, where it came to say so."""

    def __init__(self, table: Table, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._table, self._clock = table, clock
        self._began = clock()
        self._figures: dict[str, int] = {figure.name: 0 for figures in table.values() for figure in figures}
        self._reason = ""
        self.windows: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        fields = fields_of(record)
        if fields is None:
            return
        for figure in self._table.get(record.getMessage(), ()):
            value = fields.get(figure.field) if figure.field else 1
            if isinstance(value, int | float):
                self._figures[figure.name] += int(value)
            if figure.name == LOST:
                self._reason = str(fields.get("reason") or "")

    def fields(self) -> dict[str, Any]:
        done = self.windows
        if done is None:
            done = sum(self._figures.get(name, 0) for name in ("windows_mined", "windows_judged", "windows_trained", "rounds"))
        told: dict[str, Any] = {"windows": done, "seconds": round(self._clock() - self._began, 1), **self._figures}
        return told | ({"last_reason": self._reason} if self._reason else {})


@contextmanager
def said_at_the_end(log: EventLogger, event: str, table: Table) -> Iterator[RunSummary]:
    """Around what a role does; the event comes however the block ends."""
    summary = RunSummary(table)
    root = logging.getLogger()
    root.addHandler(summary)
    try:
        yield summary
    finally:
        root.removeHandler(summary)
        log.event(event, **summary.fields())
