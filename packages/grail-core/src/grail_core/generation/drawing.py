"""One batch of rows on its way through an engine: so many requests at a time, results handed over as they come.

Every row is an HTTP request of its own. That way a finished row is there at once, a failure costs one row and not its batch,
and the engine, which keeps every prompt's prefix in its cache, loses nothing by it. Requests in flight are bounded, and so are
rows that nobody has taken yet: while these are many, no new request is made.

A row is asked for a few times, since the same seed gives the same tokens. One that fails all the same is left out and told; it
is the batch that fails where the engine serves other weights, cuts rows, refuses our key, is no engine, or answers nothing
usable many times in a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

from grail_core.errors import EngineError
from grail_core.generation.answers import EngineAnswer, UnusableAnswerError
from grail_core.generation.base import Completion, Drawn
from grail_core.generation.http import EngineHttp, RefusedError, TransientError
from grail_core.generation.rows import EngineLimitError, Row, RowRules, WrongWeightsError
from grail_core.telemetry import get_logger

log = get_logger(__name__)

TRIES = 4
RETRY_S = 0.2
"""Before the second try; twice as long before each further one."""

MAX_LOST_IN_A_ROW = 16
"""Rows lost with none drawn in between, after which the engine counts as broken."""

_POLL_S = 0.1  # how often `cancelled` is asked while nothing comes

AskRow = Callable[[Row, tuple[int, ...], str], Awaitable[EngineAnswer]]
"""Row, its tokens so far, a request id that nobody else has → what the engine says. Raises as `EngineHttp.ask` does."""


class Drawing:
    """A batch being drawn.

    Args:
        rules: what rows must obey. ask_row, abort: the engine's own way. request_ids: a new one each time.
        concurrent: most requests in flight, and about as many finished rows that wait to be taken.
        retry_s: see RETRY_S.
    """

    def __init__(
        self,
        http: EngineHttp,
        rules: RowRules,
        rows: Sequence[Row],
        *,
        ask_row: AskRow,
        abort: Callable[[Sequence[str]], Awaitable[None]],
        request_ids: Callable[[], str],
        concurrent: int,
        retry_s: float = RETRY_S,
    ) -> None:
        self.failure: EngineError | WrongWeightsError | None = None
        self.asked_again, self.why_again = 0, ""  # answers that could not be used, and what the last one's fault was
        self._http, self._rules, self._rows = http, rules, rows
        self._ask_row, self._abort, self._request_ids = ask_row, abort, request_ids
        self._concurrent = max(1, concurrent)
        self._retry_s = retry_s
        self._some = threading.Condition()  # guards the next three
        self._ready: deque[Drawn] = deque()
        self._ended = False
        self._stopping = False
        self._work: Future[None] | None = None
        # What follows belongs to the loop.
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._in_flight: set[str] = set()
        self._lost_in_a_row = 0
        self._told_of: set[int] = set()

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
                if self._in_flight:
                    await self._abort(sorted(self._in_flight))
            finally:
                with self._some:
                    self._ended = True
                    self._some.notify_all()

    async def _work_off(self, waiting: Iterator[Row]) -> None:
        for row in waiting:
            await self._room.wait()
            tokens = await self._draw(row)
            if tokens is None:
                continue
            self._lost_in_a_row = 0
            with self._some:
                self._ready.append(Drawn(row.index, Completion(tokens)))
                self._some.notify_all()
            self._look_for_room()

    async def _draw(self, row: Row) -> tuple[int, ...] | None:
        """The row's tokens, in as many requests as it takes; None where they cannot be had."""
        tokens: tuple[int, ...] = ()
        finished = False
        while not finished:
            extended = await self._extend(row, tokens)
            if extended is None:
                return None
            tokens, finished = extended
            if not finished:
                self._tell_of_foreign_end(tokens[-1])
        return tokens

    async def _extend(self, row: Row, so_far: tuple[int, ...]) -> tuple[tuple[int, ...], bool] | None:
        """What `RowRules.extended` makes of the engine's answer; None where none can be used."""
        failed: Exception | None = None
        for attempt in range(TRIES):
            if attempt:
                self.asked_again, self.why_again = self.asked_again + 1, str(failed)
                await asyncio.sleep(self._retry_s * 2 ** (attempt - 1))
            try:
                return self._rules.extended(row, so_far, await self._answer(row, so_far))
            except (TransientError, UnusableAnswerError, EngineLimitError) as error:
                failed = error
            except RefusedError as error:
                if error.status < 400 or error.status in (401, 403, 404, 405):
                    raise no_engine(self._http.url, error) from error
                failed = error
                break  # it would say so again
        if isinstance(failed, EngineLimitError):
            raise EngineError(
                f"the engine ends rows too early: {failed}",
                where=self._http.url,
                hint="raise its context length and its memory for keys and values; no engine limit may lie below the policy's",
            ) from failed
        self._note_lost(row, len(so_far), str(failed))
        return None

    async def _answer(self, row: Row, so_far: tuple[int, ...]) -> EngineAnswer:
        request_id = self._request_ids()
        self._in_flight.add(request_id)
        try:
            answer = await self._ask_row(row, so_far, request_id)
        except asyncio.CancelledError:
            raise  # the engine may be at it: it stays noted, to be aborted
        except BaseException:
            self._in_flight.discard(request_id)
            raise
        self._in_flight.discard(request_id)
        if answer.request_id != request_id:  # prompts tell a group's rows apart no more than their lengths do
            raise UnusableAnswerError("the answer belongs to another request")
        return answer

    def _note_lost(self, row: Row, tokens: int, why: str) -> None:
        log.event("row_lost", level=logging.WARNING, row=row.index, after_tokens=tokens, why=why, url=self._http.url)
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= min(MAX_LOST_IN_A_ROW, len(self._rows)):
            raise EngineError(
                f"the engine answered nothing usable for {self._lost_in_a_row} rows, one after the other; of the last: {why}",
                where=self._http.url,
                hint="look into the engine's own log",
            )

    def _tell_of_foreign_end(self, token: int) -> None:
        if token not in self._told_of and len(self._told_of) < MAX_LOST_IN_A_ROW:
            self._told_of.add(token)
            log.event("foreign_end_token", level=logging.WARNING, token=token, url=self._http.url)

    def _look_for_room(self) -> None:
        if len(self._ready) < self._concurrent:
            self._room.set()
        else:
            self._room.clear()


def no_engine(url: str, error: RefusedError) -> EngineError:
    """A refusal that any other request would meet too."""
    hint = "is this an engine of a tested version, and vLLM with VLLM_SERVER_DEV_MODE=1?"
    if error.status in (401, 403):
        hint = "the engine wants another API key"
    elif error.status < 400:
        hint = "this address redirects, which is not followed; give the engine's own"
    return EngineError(f"the engine refuses requests: {error}", where=url, hint=hint)
