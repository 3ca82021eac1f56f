"""Reading the roles' JSON event files while they are written.

A process appends one JSON object a line; a line without its newline is not read yet, and a line that is no object (cut off
by SIGKILL, then continued by the restarted process) is counted and skipped. Nothing of the protocol depends on events: they
are for the eyes and for timings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """One decision of one process. `fields` are as the process wrote them."""

    process: str
    name: str
    time: float  # Unix seconds
    fields: dict[str, Any] = field(default_factory=dict)

    def integer(self, name: str) -> int | None:
        value = self.fields.get(name)
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def number(self, name: str) -> float | None:
        value = self.fields.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return "" if value is None else str(value)


class EventTail:
    """The events of one process, from the beginning of its file, a few at a time."""

    def __init__(self, process: str, path: Path) -> None:
        self._process = process
        self._path = path
        self._offset = 0
        self.damaged_lines = 0

    def read(self) -> list[Event]:
        """Events completed since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        events = []
        for line in complete.splitlines():
            event = self._parse(line)
            if event is not None:
                events.append(event)
        return events

    def _parse(self, line: bytes) -> Event | None:
        if not line.strip():
            return None
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("no object")
        except ValueError:
            self.damaged_lines += 1
            return None
        name = value.pop("event", None)
        return Event(self._process, name, _seconds(value.pop("time", 0.0)), value) if isinstance(name, str) else None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
