"""A development chain whose time goes where it is waited for, so that a role alone in a test waits for nobody."""

from __future__ import annotations

import threading
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
