"""One batch of rows on its way through an engine: so many requests at a time, results handed over as they come.

Every row is an HTTP request of its own (`row_requests`). That way a finished row is there at once, a failure costs one row and
not its batch, and the engine, which keeps every prompt's prefix in its cache, loses nothing by it. Requests in flight are
bounded, and so are rows that nobody has taken yet: while these are many, no new request is made. A row that cannot be had is
left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

from grail_core.errors import EngineError
from grail_core.generation.base import Completion, Drawn
from grail_core.generation.http import EngineHttp
from grail_core.generation.row_requests import RowRequests
from grail_core.generation.rows import Row, WrongWeightsError

_POLL_S = 0.1  # how often `cancelled` is asked while nothing comes


class Drawing:
    """A batch being drawn.

    Args:
        requests: what draws each of `rows`; of this batch alone. abort: the engine's own way.
        concurrent: most requests in flight, and about as many finished rows that wait to be taken.
    """

    def __init__(
        self,
        http: EngineHttp,
        requests: RowRequests,
        rows: Sequence[Row],
        *,
        abort: Callable[[Sequence[str]], Awaitable[None]],
        concurrent: int,
    ) -> None:
        self.failure: EngineError | WrongWeightsError | None = None
        self._http, self._requests, self._rows, self._abort = http, requests, rows, abort
        self._concurrent = max(1, concurrent)
        self._some = threading.Condition()  # guards the next three
        self._ready: deque[Drawn] = deque()
        self._ended = False
        self._stopping = False
        self._work: Future[None] | None = None
        # What follows belongs to the loop.
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()

    def start(self) -> None:
        """Raises: EngineError: the generator is closed."""
        self._work = self._http.submit(self._draw_all())

    def next(self, cancelled: Callable[[], bool]) -> Drawn | None:
        """The next finished row; None where there is none left, `cancelled` says true, or the generator was closed.

        Raises:
            Whatever nobody foresaw in drawing them.
        """
        while not cancelled() and not self._http.closed:
            with self._some:
                if not self._ready and not self._ended:
                    self._some.wait(_POLL_S)
                drawn = self._ready.popleft() if self._ready else None
                ended = self._ended
            if drawn is not None:
                self._http.soon(self._look_for_room)
                return drawn
            if ended:
                if self._work is not None:
                    with contextlib.suppress(CancelledError):  # closed just now
                        self._work.result()
                return None
        return None

    def stop(self) -> None:
        """Abort what is in flight, on the engine too, and wait until nothing is left of it."""
        with self._some:
            self._stopping = True
        self._http.soon(self._cancel)
        with self._some:
            while self._work is not None and not self._ended and not self._http.closed:
                self._some.wait(_POLL_S)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _draw_all(self) -> None:
        waiting = iter(self._rows)
        try:
            self._task = asyncio.current_task()
            if not self._stopping:
                self._room.set()
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._concurrent, len(self._rows))):
                        group.create_task(self._work_off(waiting))
        except* (EngineError, WrongWeightsError) as errors:
            first = errors.exceptions[0]
            assert isinstance(first, EngineError | WrongWeightsError)  # the workers are tasks of one group, not of nested ones
            self.failure = first
        finally:
            try:
                if self._requests.in_flight:
                    await self._abort(sorted(self._requests.in_flight.values()))
            finally:
                with self._some:
                    self._ended = True
                    self._some.notify_all()

    async def _work_off(self, waiting: Iterator[Row]) -> None:
        for row in waiting:
            await self._room.wait()
            tokens = await self._requests.draw(row)
            if tokens is None:
                continue
            with self._some:
                self._ready.append(Drawn(row.index, Completion(tokens)))
                self._some.notify_all()
            self._look_for_room()

    def _look_for_room(self) -> None:
        if len(self._ready) < self._concurrent:
            self._room.set()
        else:
            self._room.clear()
