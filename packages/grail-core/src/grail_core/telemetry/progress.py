"""How far a long command is: a bar on standard error where that is a terminal, else a line every 30 seconds.

In a pipe or a file nothing is said in the first 30 seconds, since most commands are done by then; from then on a line each
30 seconds, also while a single step takes long. What was told last is said at the end.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from grail_core.text import printable

EVERY_S: Final = 30.0
FIRST_S = 4.0
"""Until the first line of `while_waiting`."""
AGAIN_S = 10.0


class Told(Protocol):
    def __call__(self, label: str, done: int, total: int, note: str = "") -> None:
        """What is being done, the steps done, the steps there are, and what else is worth a word."""


@contextmanager
def progress() -> Iterator[Told]:
    if sys.stderr.isatty():
        with _bars() as told:
            yield told
        return
    lines = Lines(say)
    over = threading.Event()
    clock = threading.Thread(target=_tick, args=(lines, over), name="progress", daemon=True)
    clock.start()
    try:
        yield lines.told
    finally:
        over.set()
        clock.join()
        lines.end()


@contextmanager
def while_waiting(line: Callable[[], str]) -> Iterator[None]:
    """For what takes a moment as a rule: nothing for `FIRST_S`, then a line on standard error, and more every `AGAIN_S`."""
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = FIRST_S
        while not over.wait(pause):
            say(f"{printable(line())}, {time.monotonic() - began:.0f} s so far")
            pause = AGAIN_S

    clock = threading.Thread(target=tell, name="waiting", daemon=True)
    clock.start()
    try:
        yield
    finally:
        over.set()
        clock.join()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Lines:
    """What is said where nobody watches. `told` may be called from any thread, as often as one likes."""

    def __init__(
        self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic, every_s: float = EVERY_S
    ) -> None:
        self._say, self._clock, self._every_s = say, clock, every_s
        self._began = self._last = clock()
        self._now: tuple[str, int, int, str] | None = None
        self._said: tuple[str, int, int, str] | None = None
        self._lock = threading.Lock()

    def told(self, label: str, done: int, total: int, note: str = "") -> None:
        with self._lock:
            self._now = (label, done, total, note)
            if self._clock() - self._last >= self._every_s:
                self._line()

    def tick(self) -> None:
        """Called now and then, so that a step that takes long is not silence."""
        with self._lock:
            if self._clock() - self._last >= self._every_s:
                self._line()

    def end(self) -> None:
        """The last state, unless that was said."""
        with self._lock:
            if self._now is not None and self._now != self._said:
                self._line()

    def _line(self) -> None:
        passed = self._clock() - self._began
        self._last = self._clock()
        if self._now is None:
            self._say(f"working, {passed:.0f} s so far")
            return
        label, done, total, note = self._said = self._now
        of = f"{done:,}/{total:,}" if total else f"{done:,}"
        self._say(f"{of} {printable(label)}, {passed:.0f} s so far" + (f", {printable(note)}" if note else ""))


def _tick(lines: Lines, over: threading.Event) -> None:
    while not over.wait(1.0):
        lines.tick()


@contextmanager
def _bars() -> Iterator[Told]:
    """One bar for each label."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from grail_core.telemetry.console import PlainColumn, PlainConsole

    columns: list[Any] = [PlainColumn(), BarColumn(), MofNCompleteColumn(), PlainColumn("note"), TimeRemainingColumn()]
    with Progress(*columns, console=PlainConsole(stderr=True)) as shown:
        tasks: dict[str, Any] = {}

        def told(label: str, done: int, total: int, note: str = "") -> None:
            if label not in tasks:
                tasks[label] = shown.add_task(label, total=total, note=note)
            shown.update(tasks[label], completed=done, total=total, note=note)

        yield told
