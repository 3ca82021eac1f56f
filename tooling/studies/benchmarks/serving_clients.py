"""Clients of a node in a process of their own, so that what they compute is none of the server's time.

They hold their connections, and measure from the first byte that they send.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Self

import httpx

_PATH = "/v1/chat/completions"


class Clients:
    """One client a body, as a context manager."""

    def __init__(self, bodies: Sequence[dict[str, Any]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, its = context.Pipe()
        self._process = context.Process(target=_run, args=(its, list(bodies)), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send(None)
        self._process.join()

    def ask_all(self, url: str, first: int, end: int) -> None:
        """The bodies from one to before another at once, answered whole."""
        self._measured("all", url, first, end)

    def first_text(self, url: str, number: int) -> float:
        """Seconds to the first text of one of them, streamed, alone."""
        return self._measured("first", url, number, number + 1)

    def _measured(self, what: str, url: str, first: int, end: int) -> float:
        self._ours.send((what, url, first, end))
        seconds: float = self._ours.recv()
        return seconds


def _run(parent: Connection, bodies: list[dict[str, Any]]) -> None:
    clients: dict[str, httpx.Client] = {}
    with ThreadPoolExecutor(len(bodies)) as pool:
        while (asked := parent.recv()) is not None:
            what, url, first, end = asked
            client = clients.setdefault(url, httpx.Client(base_url=url, timeout=60, trust_env=False))
            begun = time.perf_counter()
            if what == "all":
                answers = list(pool.map(lambda body, client=client: client.post(_PATH, json=body), bodies[first:end]))
                if any(answer.status_code != 200 for answer in answers):
                    raise AssertionError(f"a request was not answered: {[answer.status_code for answer in answers]}")
                parent.send(time.perf_counter() - begun)
            else:
                parent.send(_first_text(client, bodies[first]))


def _first_text(client: httpx.Client, body: dict[str, Any]) -> float:
    begun = time.perf_counter()
    with client.stream("POST", _PATH, json={**body, "stream": True, "max_tokens": 4}) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and '"content": ""' not in line:
                return time.perf_counter() - begun
    raise AssertionError("no text came")
