"""One row on its way through an engine: HTTP requests of its own, as many as it takes.

A row is asked for a few times, since the same seed gives the same tokens, and goes on where the engine ended it too early. One
that fails all the same is told as lost, which concerns it alone. What concerns every row is an error: the engine serves other
weights, cuts rows, refuses our key, is no engine, or answers nothing usable many times in a row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from grail_core.errors import EngineError
from grail_core.generation.answers import EngineAnswer, UnusableAnswerError
from grail_core.generation.http import EngineHttp, RefusedError, TransientError
from grail_core.generation.rows import EngineLimitError, Row, RowRules
from grail_core.telemetry import get_logger

log = get_logger(__name__)

TRIES = 4
RETRY_S = 0.2
"""Before the second try; twice as long before each further one."""

MAX_LOST_IN_A_ROW = 16
"""Rows lost with none drawn in between, after which the engine counts as broken."""

AskRow = Callable[[Row, tuple[int, ...], str], Awaitable[EngineAnswer]]
"""Row, its tokens so far, a request id that nobody else has → what the engine says. Raises as `EngineHttp.ask` does."""


class CutRowError(EngineError):
    """The engine ends a row below its limit, again and again: it has less room than it was said to have."""


class RowRequests:
    """Draws rows, as many at a time as are asked for. Everything of it belongs to the loop of `http`.

    Args:
        rules: what rows must obey. ask_row: the engine's own way. request_ids: a new one each time.
        most_lost: see MAX_LOST_IN_A_ROW; fewer where there are fewer rows.
        retry_s: see RETRY_S.
        in_words: what is logged and told of an error of one row; by default all that the engine said.

    Attributes:
        in_flight: what the engine may be at, by the row's index: to be aborted where a row's task is cancelled.
        asked_again, why_again: answers that could not be used, and what the last one's fault was.
    """

    def __init__(
        self,
        http: EngineHttp,
        rules: RowRules,
        *,
        ask_row: AskRow,
        request_ids: Callable[[], str],
        most_lost: int = MAX_LOST_IN_A_ROW,
        retry_s: float = RETRY_S,
        in_words: Callable[[Exception], str] = str,
    ) -> None:
        self.in_flight: dict[int, str] = {}
        self.asked_again, self.why_again = 0, ""
        self._http, self._rules = http, rules
        self._ask_row, self._request_ids = ask_row, request_ids
        self._most_lost = min(MAX_LOST_IN_A_ROW, most_lost)
        self._retry_s = retry_s
        self._in_words = in_words
        self._lost_in_a_row = 0
        self._told_of: set[int] = set()

    async def draw(self, row: Row) -> tuple[int, ...] | None:
        """The row's tokens, in as many requests as it takes; None where they cannot be had.

        Raises:
            EngineError, WrongWeightsError: no row can be had any more. CutRowError: as it is, the engine cannot be drawn with.
        """
        tokens: tuple[int, ...] = ()
        finished = False
        while not finished:
            extended = await self._extend(row, tokens)
            if extended is None:
                return None
            tokens, finished = extended
            if not finished:
                self._tell_of_foreign_end(tokens[-1])
        self._lost_in_a_row = 0
        return tokens

    async def _extend(self, row: Row, so_far: tuple[int, ...]) -> tuple[tuple[int, ...], bool] | None:
        """What `RowRules.extended` makes of the engine's answer; None where none can be used."""
        failed: Exception | None = None
        for attempt in range(TRIES):
            if attempt:
                self.asked_again += 1
                self.why_again = "" if failed is None else self._in_words(failed)
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
            raise CutRowError(
                f"the engine ends rows too early: {failed}",
                where=self._http.url,
                hint="raise its context length and its memory for keys and values; no engine limit may lie below the policy's",
            ) from failed
        assert failed is not None
        self._note_lost(row, len(so_far), self._in_words(failed))
        return None

    async def _answer(self, row: Row, so_far: tuple[int, ...]) -> EngineAnswer:
        request_id = self._request_ids()
        self.in_flight[row.index] = request_id
        try:
            answer = await self._ask_row(row, so_far, request_id)
        except asyncio.CancelledError:
            raise  # the engine may be at it: it stays noted, to be aborted
        except BaseException:
            del self.in_flight[row.index]
            raise
        del self.in_flight[row.index]
        if answer.request_id != request_id:  # prompts tell a group's rows apart no more than their lengths do
            raise UnusableAnswerError("the answer belongs to another request")
        return answer

    def _note_lost(self, row: Row, tokens: int, why: str) -> None:
        log.event("row_lost", level=logging.WARNING, row=row.index, after_tokens=tokens, why=why, url=self._http.url)
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= self._most_lost:
            raise EngineError(
                f"the engine answered nothing usable for {self._lost_in_a_row} rows, one after the other; of the last: {why}",
                where=self._http.url,
                hint="look into the engine's own log",
            )

    def _tell_of_foreign_end(self, token: int) -> None:
        if token not in self._told_of and len(self._told_of) < MAX_LOST_IN_A_ROW:
            self._told_of.add(token)
            log.event("foreign_end_token", level=logging.WARNING, token=token, url=self._http.url)


def no_engine(url: str, error: RefusedError) -> EngineError:
    """A refusal that any other request would meet too."""
    hint = "is this an engine of a tested version, and vLLM with VLLM_SERVER_DEV_MODE=1?"
    if error.status in (401, 403):
        hint = "the engine wants another API key"
    elif error.status < 400:
        hint = "this address redirects, which is not followed; give the engine's own"
    return EngineError(f"the engine refuses requests: {error}", where=url, hint=hint)


def kind_of(error: Exception) -> str:
    """An error of one row without the engine's own words, which may repeat what somebody asked."""
    if isinstance(error, RefusedError):
        return f"HTTP {error.status}"
    return type(error).__name__
