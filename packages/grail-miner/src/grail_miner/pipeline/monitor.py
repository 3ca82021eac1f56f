"""The one lock that the stages of a pipeline share, the threads that they run in, and the clock of its spans.

Everything that a stage waits for is a condition on shared state: `wait_for` it, `changed` when it may have come true. A test
replaces the whole of it by threads of which one runs at a time on a clock of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol


class Monitor(Protocol):
    """Entered while shared state is read or written; `wait_for` and `changed` are called within."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def wait_for(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Until `ready`, at most `timeout` seconds; others may enter meanwhile. Returns what it said last."""
        ...

    def changed(self) -> None: ...

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work`, which raises nothing, in a thread."""
        ...

    def join(self) -> None:
        """Wait for every thread that was started."""
        ...

    def now(self) -> float:
        """Seconds of a clock that does not go back."""
        ...


class Threads:
    """The `Monitor` of a machine: real threads, monotonic time."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> object:
        return self._condition.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._condition.__exit__(kind, error, traceback)

    def wait_for(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        return self._condition.wait_for(ready, timeout)

    def changed(self) -> None:
        self._condition.notify_all()

    def start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        while self._threads:
            self._threads.pop().join()

    def now(self) -> float:
        return time.monotonic()
