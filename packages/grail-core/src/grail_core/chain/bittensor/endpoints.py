"""Which endpoint of a chain is asked: a circuit breaker for each, and a choice that stays until there is a reason to leave.

An endpoint that does not answer is not asked again before its pause is over; pauses double with every failure in a row and are
jittered, so that many roles do not come back at one moment. The first of the list whose pause is over takes the place of one
that failed; where there is none, the one whose pause ends first. What asks and how is `connection`. A URL may hold a provider's
key in any part but host and port: only `name` is told to anybody.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from grail_core.telemetry import get_logger

log = get_logger(__name__)

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
LONGEST_WISH_S: Final = 600.0
"""An endpoint that refuses traffic may say for how long; it is believed up to here."""
_SHORTEST_KEY: Final = 5  # characters; a shorter part of a URL is a word like `ws`


def name_of(url: str) -> str:
    """Host and port of an endpoint. Everything else may be a key: user and password, path (many providers), query, fragment."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    shown = f"[{host}]" if ":" in host else host
    return (shown if port is None else f"{shown}:{port}") or "an endpoint without a host"


def _names_of(urls: Sequence[str]) -> list[str]:
    """Of a second URL of one host and port the name says that it is the second."""
    seen: Counter[str] = Counter()
    names = []
    for name in map(name_of, urls):
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


@dataclass
class Endpoint:
    """One URL and what became of asking it. Times are monotonic seconds."""

    url: str
    name: str  # that may be told
    failures: int = 0  # in a row
    failed_at: float = float("-inf")
    retry_at: float = float("-inf")

    def masked(self, text: str) -> str:
        """What the SDK or the node said, which may repeat the URL or a part of it, without anything that may be a key."""
        parts = urlsplit(self.url)
        told = text.replace(self.url, self.name)
        for part in (parts.username, parts.password, parts.path.strip("/"), parts.query, parts.fragment):
            if part and len(part) >= _SHORTEST_KEY:
                told = told.replace(part, "***")
        return told


class Endpoints:
    """The endpoints of one chain, in the order of preference. Threads may share it.

    Args:
        urls: at least one; a URL that stands there twice counts once.
        jitter: a number from 0 to 1; a pause is between a half and the whole of its length.
        told: whether it is an event that one is left.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        told: bool = True,
    ) -> None:
        different = list(dict.fromkeys(urls))
        self.every = tuple(map(Endpoint, different, _names_of(different)))
        self._monotonic, self._jitter, self._told = monotonic, jitter, told
        self._current = self.every[0]
        self._lock = threading.Lock()

    @property
    def current(self) -> Endpoint:
        return self._current

    def now(self) -> float:
        """Monotonic seconds, as `failed` wants the start of a request."""
        return self._monotonic()

    def wait_s(self, endpoint: Endpoint | None = None) -> float:
        """Seconds until an endpoint (None: the current one) may be asked; 0 where it may."""
        return max(0.0, (endpoint or self._current).retry_at - self._monotonic())

    def others(self) -> list[Endpoint]:
        """All that may be asked now but the current one."""
        return [one for one in self.every if one is not self._current and self.wait_s(one) == 0.0]

    def answered(self, endpoint: Endpoint) -> None:
        """It answered: what failed before counts no more."""
        if endpoint.failures:
            with self._lock:
                endpoint.failures, endpoint.retry_at = 0, float("-inf")

    def failed(self, endpoint: Endpoint, reason: str, *, asked_at: float, wish_s: float = 0.0) -> None:
        """It did not answer, or not what it should: pause it, and leave it if it is the one in use.

        Args:
            asked_at: `now()` when the request was sent; one that was sent before the last failure is a part of that.
            wish_s: for how long it wants to be left alone.
        """
        with self._lock:
            if asked_at < endpoint.failed_at:
                return
            now = self._monotonic()
            endpoint.failures, endpoint.failed_at = endpoint.failures + 1, now
            pause = min(FIRST_PAUSE_S * 2.0 ** min(endpoint.failures - 1, 16), LONGEST_PAUSE_S) * (0.5 + 0.5 * self._jitter())
            endpoint.retry_at = now + max(pause, min(wish_s, LONGEST_WISH_S))
            if endpoint is not self._current:
                return
            ready = [one for one in self.every if one.retry_at <= now]
            chosen = ready[0] if ready else min(self.every, key=lambda one: one.retry_at)
            self._current = chosen
        if chosen is not endpoint and self._told:
            _say_left(endpoint, chosen, reason)

    def take(self, chosen: Endpoint, reason: str) -> None:
        """Use this one from now on instead of one that answers, but not what it should."""
        with self._lock:
            left, self._current = self._current, chosen
        if left is not chosen:
            _say_left(left, chosen, reason)


def _say_left(left: Endpoint, taken: Endpoint, reason: str) -> None:
    log.event("chain_endpoint_left", level=logging.WARNING, endpoint=left.name, reason=reason[:300], taken=taken.name)
