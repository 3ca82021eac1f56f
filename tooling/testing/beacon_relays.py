"""Beacon relays of a test's network: real HTTP servers of the development key, each of which can fail, lie, and be counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from grail_core.beacon.development import DevelopmentKey, Relay
from grail_core.protocol.beacon import BeaconChain

Answered = tuple[int, dict[str, Any]]


class TestedRelay(Relay):
    """Answers as the development relay does, unless `fault` is set: then as that makes of path and true answer."""

    __test__ = False

    def __init__(self, key: DevelopmentKey, chain: BeaconChain, clock: Callable[[], int]) -> None:
        self.requests: list[str] = []
        self.fault: Callable[[str, Answered], Answered] | None = None
        super().__init__(key, genesis_time_s=chain.genesis_time_s, period_s=chain.period_s, port=0, clock=clock)

    def answer(self, path: str) -> Answered:
        self.requests.append(path)
        true = super().answer(path)
        return true if self.fault is None else self.fault(path, true)


def down(path: str, true: Answered) -> Answered:
    """Nothing is there."""
    return 503, {"error": "down"}


@contextmanager
def relays(key: DevelopmentKey, chain: BeaconChain, clock: Callable[[], int], count: int) -> Iterator[list[TestedRelay]]:
    """So many relays that listen until the block ends."""
    with ExitStack() as stack:
        servers = []
        for _ in range(count):
            server = stack.enter_context(TestedRelay(key, chain, clock))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            servers.append(server)
        yield servers
