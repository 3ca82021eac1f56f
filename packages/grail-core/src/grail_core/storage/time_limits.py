"""How long a store may take: a total, whatever it does meanwhile.

A limit per read does not bound a store that sends one byte every few seconds. Here a caller says how long everything inside a
block may take in all, and the transport hands each read and write what is left of that:

    with at_most(8.0):
        store.get(key, max_bytes=32_768)  # NoAnswerError after eight seconds at the latest

The limit is of the thread that enters the block; blocks inside one another can only shorten it. An event that somebody sets
ends it at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_ENDS_AT: ContextVar[float] = ContextVar("grail_core.storage.ends_at", default=math.inf)
_STOPS: ContextVar[tuple[threading.Event, ...]] = ContextVar("grail_core.storage.stops", default=())


@dataclass(frozen=True)
class StoreLimits:
    """What one store is given where the caller gives less time by no `at_most`. Seconds, of this machine's monotonic clock."""

    answer_s: float = 30.0  # a request with all its tries, until the answer's body begins
    idle_s: float = 20.0  # between two bytes
    least_bytes_per_s: int = 256 << 10  # a body, sent or read, is given answer_s and its size over this
    listing_s: float = 120.0  # all pages of one listing, without the time that its reader takes

    def __post_init__(self) -> None:
        if min(self.answer_s, self.idle_s, self.least_bytes_per_s, self.listing_s) <= 0:
            raise ValueError("limits of a store are positive")

    def body_s(self, size: int) -> float:
        """Seconds for a body of so many bytes."""
        return self.answer_s + size / self.least_bytes_per_s


@contextmanager
def at_most(seconds: float, *, stop: threading.Event | None = None) -> Iterator[None]:
    """Everything that a store is asked inside the block takes at most so long in all, and ends when `stop` is set."""
    token = _ENDS_AT.set(min(_ENDS_AT.get(), time.monotonic() + seconds))
    stops = _STOPS.set((*_STOPS.get(), stop) if stop is not None else _STOPS.get())
    try:
        yield
    finally:
        _STOPS.reset(stops)
        _ENDS_AT.reset(token)


def seconds_left() -> float:
    """What is left of the shortest limit around this call, infinite if there is none; negative once it is over."""
    if any(stop.is_set() for stop in _STOPS.get()):
        return -math.inf
    return _ENDS_AT.get() - time.monotonic()


def may_be_stopped() -> bool:
    """Whether whoever waits here has to look at `seconds_left` now and then."""
    return bool(_STOPS.get())
