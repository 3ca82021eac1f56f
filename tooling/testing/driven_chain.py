"""A development chain whose time goes where it is waited for, so that a role alone in a test waits for nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from grail_core.chain.development.local import LocalChain
from grail_core.protocol.types import Block


class Driven:
    """A chain whose clock goes to whatever block somebody waits for, but not past `limit`: there they wait for the stop."""

    def __init__(self, inner: LocalChain, limit: int) -> None:
        self.inner, self.limit, self.lock = inner, limit, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def wait_for_block(self, number: Block, *, stop: threading.Event, finalised: bool = False) -> bool:
        if number > self.limit:
            stop.wait()
            return False
        with self.lock:
            seen = self.inner.finalised_block() if finalised else self.inner.current_block()
            if number > seen:
                self.inner.advance(number - seen)
        return True


class Unhurried(threading.Event):
    """A stop that nobody sets and no pause waits for: what a role retries with pauses is retried at once, so many times.

    Args:
        each: called at every pause with its number from 1; it may move the clock. most: pauses, after which the test fails.
    """

    def __init__(self, each: Callable[[int], object] = lambda _: None, most: int = 1000) -> None:
        super().__init__()
        self._each, self._most, self._count = each, most, 0

    def wait(self, timeout: float | None = None) -> bool:
        self._count += 1
        assert self._count <= self._most, f"it still waits after {self._most} pauses"
        self._each(self._count)
        return self.is_set()
