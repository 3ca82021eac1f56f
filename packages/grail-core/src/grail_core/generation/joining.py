"""Rows that join and leave an engine while it runs: engines batch by themselves, so each row is asked for as it comes.

The caller owns the loop, as with `streaming`: `add` what came, `poll` for what is finished, `cancel` what nobody waits for any
more, on the engine too. Requests in flight are bounded; what is added beyond that waits here. Tokens come when their row is
finished: what an engine says of a row that runs is not read. Rules, tries and errors are those of a batch (`row_requests`), but
that a row which the engine cuts is lost alone: rows are of different people here, and none may end the others'.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from grail_core.errors import EngineError
from grail_core.generation.base import GenerationRequest, Generator
from grail_core.generation.http import EngineHttp
from grail_core.generation.row_requests import CutRowError, RowRequests
from grail_core.generation.rows import Row
from grail_core.protocol.policy import GenerationPolicy
from grail_core.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class FinishedRow:
    """`id`: as it was added. `tokens`: None where the engine would not answer usably in several tries (`row_lost`)."""

    id: int
    tokens: tuple[int, ...] | None  # the end token, if any, is the last


class Joining(Protocol):
    """Rows on their way through one engine, with the weights that it served when this was made. Calls come from one thread."""

    def add(self, id: int, request: GenerationRequest) -> None:
        """Draw this row too.

        Args:
            id: a number that no other row of this has, ever.

        Raises:
            OutOfVocabularyError, OverlongSequenceError, ProtocolViolationError: it cannot be drawn; nothing else is touched.
        """
        ...

    def poll(self, seconds: float) -> list[FinishedRow]:
        """What was finished since the last call; waits for so long where nothing was.

        Raises:
            EngineError: the engine fails, or has other weights: every row that runs is lost, and this takes no more.
            Whatever nobody foresaw in drawing them.
        """
        ...

    def cancel(self, id: int) -> None:
        """Nothing more of this row; of one that is not there any more nothing happens."""
        ...

    def close(self) -> None:
        """Abort what is in flight, and wait until nothing is left of it. May be called twice."""
        ...


class JoiningGenerator(Generator, Protocol):
    """A generator whose rows can join one another; while they do, `generate` and `serve` are not called."""

    def require_joinable(self, prompt: int, policy: GenerationPolicy) -> None:
        """Ahead of `add`, whatever weights are served. May be called from any thread.

        Args:
            prompt: tokens. policy: its `max_tokens` are what the context has room for, at most.

        Raises:
            ProtocolViolationError: the engine cannot draw by this policy, or has no room for so many tokens.
        """
        ...

    def joining(self) -> Joining:
        """For rows of the weights in `version`.

        Raises:
            EngineError: none are served, or the engine does not say that it serves them (`version` is None then).
        """
        ...


class JoiningRows:
    """See `Joining`.

    Args:
        requests: what draws each row; of these alone. make_row: what is asked for a request, under this index; raises as `add`.
        abort: the engine's own way. concurrent: most requests in flight.
        told: what `poll` raises of the error that ended all rows; called in its thread.
        current: are these rows' weights still served?
    """

    def __init__(
        self,
        http: EngineHttp,
        requests: RowRequests,
        *,
        make_row: Callable[[int, GenerationRequest], Row],
        abort: Callable[[Sequence[str]], Awaitable[None]],
        concurrent: int,
        told: Callable[[Exception], Exception],
        current: Callable[[], bool],
    ) -> None:
        self._http, self._requests, self._make_row, self._abort = http, requests, make_row, abort
        self._told, self._current = told, current
        self._some = threading.Condition()  # guards the next three
        self._open: set[int] = set()
        self._finished: list[FinishedRow] = []
        self._failure: Exception | None = None
        # What follows belongs to the loop.
        self._slots = asyncio.Semaphore(max(1, concurrent))
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def add(self, id: int, request: GenerationRequest) -> None:
        """See `Joining`."""
        row = self._make_row(id, request)
        with self._some:
            self._open.add(id)
        self._http.soon(lambda: self._begin(row))

    def poll(self, seconds: float) -> list[FinishedRow]:
        """See `Joining`."""
        with self._some:
            self._some.wait_for(lambda: self._finished or self._failure is not None, seconds)
            finished, self._finished = self._finished, []
            failure = self._failure
        if self._http.closed:
            raise EngineError("this generator is closed", where=self._http.url)
        if not self._current():
            raise EngineError("other weights are served since these rows were asked for", where=self._http.url)
        if failure is not None and not finished:
            raise self._told(failure)
        return finished

    def cancel(self, id: int) -> None:
        """See `Joining`."""
        with self._some:
            self._open.discard(id)
            self._finished = [one for one in self._finished if one.id != id]
        self._http.soon(lambda: self._end(id))

    def close(self) -> None:
        """See `Joining`."""
        with self._some:
            self._open.clear()
            self._finished.clear()
            self._failure = self._failure or EngineError("these rows were given up", where=self._http.url)
        if not self._http.closed:
            self._http.submit(self._end_all()).result()

    # In the loop.

    def _begin(self, row: Row) -> None:
        with self._some:
            if self._failure is not None or row.index not in self._open:
                return
        self._tasks[row.index] = task = asyncio.get_running_loop().create_task(self._draw(row))
        task.add_done_callback(lambda _: self._tasks.pop(row.index))

    def _end(self, id: int) -> None:
        if id in self._tasks:
            self._tasks[id].cancel()

    async def _end_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _draw(self, row: Row) -> None:
        try:
            async with self._slots:
                try:
                    tokens = await self._requests.draw(row)
                except CutRowError as error:
                    log.event("row_lost", level=logging.WARNING, row=row.index, why=error.what, url=self._http.url)
                    tokens = None
                finally:
                    asked = self._requests.in_flight.pop(row.index, None)
                    if asked is not None:
                        await self._abort([asked])
        except Exception as error:  # noqa: BLE001 - `poll` raises it
            self._fail(error)
            return
        with self._some:
            if row.index in self._open:
                self._open.discard(row.index)
                self._finished.append(FinishedRow(row.index, tokens))
                self._some.notify_all()

    def _fail(self, error: Exception) -> None:
        """Of one row, and so of all."""
        with self._some:
            self._failure = self._failure or error
            self._open.clear()
            self._some.notify_all()
        for task in self._tasks.values():
            if task is not asyncio.current_task():
                task.cancel()
