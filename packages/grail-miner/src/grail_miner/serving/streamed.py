"""An HTTP answer that is written piece by piece: to who keeps reading, and for nobody else.

A piece that is not taken in time ends the connection, and so does a client that goes; both are told to whoever makes the pieces
by closing them, so that nothing is computed for nobody. While there is nothing to write, a comment keeps the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from grail_miner.serving.openai_streams import KEEP_ALIVE

SLOW_SECONDS: Final = 60.0
"""For one piece to be taken by who reads it."""
KEEP_ALIVE_SECONDS: Final = 15.0

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy that would hold pieces back
)


class StreamedResponse(Response):
    """Server-sent events.

    Args:
        pieces: is closed at the end, however that comes.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], *, slow_seconds: float = SLOW_SECONDS, keep_alive: float = KEEP_ALIVE_SECONDS
    ) -> None:
        super().__init__(status_code=HTTPStatus.OK)
        self._pieces = pieces
        self._slow_seconds = slow_seconds
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.ensure_future(self._write(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((writing, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, gone):
                task.cancel()
            await asyncio.gather(writing, gone, return_exceptions=True)
        if not writing.cancelled() and isinstance(writing.exception(), Exception):
            raise RuntimeError("a stream's pieces end with an error of their own") from writing.exception()

    async def _write(self, send: Send) -> None:
        waiting: asyncio.Task[bytes] | None = None
        try:
            async with asyncio.timeout(self._slow_seconds):  # behind another answer on this connection that nobody reads
                await send({"type": "http.response.start", "status": self.status_code, "headers": list(_HEADERS)})
            while True:
                waiting = waiting or asyncio.ensure_future(anext(self._pieces))
                done, _ = await asyncio.wait((waiting,), timeout=self._keep_alive)
                if not done:
                    await self._send(send, KEEP_ALIVE)
                    continue
                try:
                    piece = waiting.result()
                except StopAsyncIteration:
                    break
                waiting = None
                await self._send(send, piece)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return  # it does not read: what is open is closed by the server
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)  # what it came to, if it is done, is nobody's any more
            close = getattr(self._pieces, "aclose", None)
            if close is not None:
                await close()

    async def _send(self, send: Send, piece: bytes) -> None:
        async with asyncio.timeout(self._slow_seconds):
            await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
