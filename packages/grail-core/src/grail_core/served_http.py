"""HTTP/1.1 connections of a server of ours: who stands still is let go, so that nobody holds one of them for ever.

uvicorn closes connections that are silent between two requests, and no others: one whose head is never finished stays, and so
do one whose body trickles on after its answer, and one that is being closed while its client takes nothing of what it was sent.
Here every connection is looked at now and then; one that was found so twice, without anything between, is cut. Bodies and
streamed answers have times of their own where they are read and sent. Needs uvicorn, which the extra `inference` and the
validator's wheel bring.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS: Final = 1024
"""Beyond that uvicorn answers 503 at once."""
LOOK_SECONDS: Final = 20.0
"""Between two looks; who stands still is cut after one to two of these."""
_FILES: Final = 4 * MAX_CONNECTIONS  # with those of models, receipts and databases


class TimedConnection(H11Protocol):
    """One connection. Whoever serves with other times makes a class of its own with another `look_seconds`."""

    look_seconds = LOOK_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._stood: tuple[Any, ...] | None = None
        self._look_timer = self.loop.call_later(self.look_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look_timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        waiting = self.transport.get_write_buffer_size()  # bytes that its client has not taken
        answered = self.conn.our_state is h11.DONE  # and the rest of its request does not come to an end
        stands = self.transport.is_closing() or self.conn.their_state is h11.IDLE or answered or waiting > 0
        at = (self.cycle, self.transport.is_closing(), waiting) if stands else None
        if at is not None and at == self._stood:
            self.transport.abort()
            return
        self._stood = at
        self._look_timer = self.loop.call_later(self.look_seconds, self._look)


def make_room() -> None:
    """Let this process open as many files as its connections need, where the system lets it: many begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
