"""What a node can be watched by, in Prometheus' text format: counts, queue, open streams, and how long clients wait.

Each node has a registry of its own. Values of labels come from closed lists, and of clients as many names as a file can hold;
whatever else there is counts as "other", so that nobody's requests make the page long. No text of a request is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from grail_core.telemetry.metrics.metric import OTHER, Label, Metric
from grail_core.telemetry.metrics.prometheus import counter, gauge, histogram
from grail_miner.serving.clients import MAX_CLIENTS, NAME, OPERATOR

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
ROUTES: Final = ("chat", "completions", "orders")
OUTCOMES: Final = ("answered", "refused", "unavailable", "failed", "gone")
"""Answered; refused by a limit; queue full, or the node is stopping; failed here; the client went before its answer."""
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 400.0)


_ROUTE: Final = Label("route", ROUTES)
_CLIENT: Final = Label("client", (OPERATOR.name,), f"as many names of the file of clients as it can hold, {OPERATOR.name}")
REQUESTS: Final = Metric(
    "grail_requests_total",
    "counter",
    "requests that ended or were refused",
    labels=(_ROUTE, Label("outcome", OUTCOMES), _CLIENT),
)
TOKENS: Final = Metric(
    "grail_tokens_total",
    "counter",
    "tokens of prompts and completions",
    "tokens",
    labels=(Label("kind", ("prompt", "completion")), _CLIENT),
)
QUEUE: Final = Metric("grail_queue_length", "gauge", "requests that wait")
STREAMS: Final = Metric("grail_open_streams", "gauge", "answers that are being streamed")
FIRST: Final = Metric(
    "grail_first_token_seconds", "histogram", "from admission to the first token", "seconds", buckets=_SECONDS
)
WHOLE: Final = Metric(
    "grail_request_seconds", "histogram", "from admission to the end", "seconds", labels=(_ROUTE,), buckets=_SECONDS
)
METRICS: Final = (REQUESTS, TOKENS, QUEUE, STREAMS, FIRST, WHOLE)
"""Kept here and not by events: a node answers more requests than a log should have lines."""


class Metrics:
    """Safe to call from several threads; nothing here waits."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests, self._tokens = counter(REQUESTS, self.registry), counter(TOKENS, self.registry)
        self._queue, self._streams = gauge(QUEUE, self.registry), gauge(STREAMS, self.registry)
        self._first, self._whole = histogram(FIRST, self.registry), histogram(WHOLE, self.registry)
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
        return generate_latest(self.registry)

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
