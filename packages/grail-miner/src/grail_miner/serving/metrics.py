"""What a node can be watched by, in Prometheus' text format: counts, queue, open streams, and how long clients wait.

Each node has a registry of its own. Values of labels come from closed lists, and of clients as many names as a file can hold;
whatever else there is counts as "other", so that nobody's requests make the page long. No text of a request is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from grail_miner.serving.clients import MAX_CLIENTS, NAME, OPERATOR

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
ROUTES: Final = ("chat", "completions", "orders")
OUTCOMES: Final = ("answered", "refused", "unavailable", "failed", "gone")
"""Answered; refused by a limit; queue full, or the node is stopping; failed here; the client went before its answer."""
OTHER: Final = "other"
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 400.0)


class Metrics:
    """Safe to call from several threads; nothing here waits."""

    def __init__(self) -> None:
        self._registry = mine = CollectorRegistry()
        self._requests = Counter(
            "grail_requests", "Requests that ended or were refused.", ["route", "outcome", "client"], registry=mine
        )
        self._tokens = Counter("grail_tokens", "Tokens of prompts and completions.", ["kind", "client"], registry=mine)
        self._queue = Gauge("grail_queue_length", "Requests that wait.", registry=mine)
        self._streams = Gauge("grail_open_streams", "Answers that are being streamed.", registry=mine)
        self._first = Histogram(
            "grail_first_token_seconds", "From admission to the first token.", buckets=_SECONDS, registry=mine
        )
        self._whole = Histogram(
            "grail_request_seconds", "From admission to the end.", ["route"], buckets=_SECONDS, registry=mine
        )
        self._clients = {OPERATOR.name}
        self._lock = threading.Lock()

    def first_token(self, seconds: float) -> None:
        """A request has its first token, so many seconds after it was admitted."""
        self._first.observe(seconds)

    def finished(
        self, *, client: str, route: str, outcome: str, prompt_tokens: int, completion_tokens: int, seconds: float
    ) -> None:
        """An admitted request has ended."""
        client, route = self._client(client), _among(ROUTES, route)
        self._requests.labels(route, _among(OUTCOMES, outcome), client).inc()
        self._tokens.labels("prompt", client).inc(prompt_tokens)
        self._tokens.labels("completion", client).inc(completion_tokens)
        self._whole.labels(route).observe(seconds)

    def refused(self, *, client: str, route: str) -> None:
        """A limit refused a request."""
        self._requests.labels(_among(ROUTES, route), "refused", self._client(client)).inc()

    def watch_queue(self, length: Callable[[], float]) -> None:
        """`length` is asked whenever the page is made."""
        self._queue.set_function(length)

    def watch_streams(self, count: Callable[[], float]) -> None:
        """`count` is asked whenever the page is made."""
        self._streams.set_function(count)

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def _client(self, name: str) -> str:
        """A client's own label for the first so many names; a file that is replaced again and again brings no more."""
        with self._lock:
            if name not in self._clients:
                if len(self._clients) > MAX_CLIENTS or not NAME.fullmatch(name):
                    return OTHER
                self._clients.add(name)
            return name


def _among(known: tuple[str, ...], value: str) -> str:
    return value if value in known else OTHER
