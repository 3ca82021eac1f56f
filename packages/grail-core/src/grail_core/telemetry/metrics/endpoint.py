"""The HTTP endpoint of a role's metrics: one thread, `/metrics` and `/healthz`; nobody who asks costs the role anything.

At most MAX_OPEN connections are held, and a few that are just taken or closed, each for DEADLINE_S seconds. Where one more
comes the oldest goes, so that slow clients hold up no scrape, which takes milliseconds. A page is made once a second at most,
whoever asks how often. Requests are read up to MAX_REQUEST bytes, of which the first line alone is looked at; whoever sends on
after his answer is left. A name is looked up within RESOLVE_S; one that no server answers for is none that can be taken.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from grail_core.errors import ConfigurationError

MAX_OPEN: Final = 32
MAX_REQUEST: Final = 8_192
DEADLINE_S: Final = 5.0
FRESH_S: Final = 1.0
RESOLVE_S: Final = 3.0
_STOP_S: Final = 3.0
_AT_ONCE: Final = 4
_BACKLOG: Final = 256  # connections that the kernel holds until they are looked at


class Endpoint:
    """Answers until closed. `address` is where it can be asked; port 0 takes a free one.

    Raises:
        ConfigurationError: the address cannot be taken.
    """

    def __init__(self, host: str, port: int, page: Callable[[], bytes], content_type: str) -> None:
        self._page, self._content_type = page, content_type
        self._made, self._made_at = b"", -FRESH_S
        self._open: dict[asyncio.StreamWriter, None] = {}  # the oldest first
        self._bound = _bound(host, port)
        self._loop, self._serves = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        name = self._bound.getsockname()
        return str(name[0]), int(name[1])

    def close(self) -> None:
        self._serves.wait(_STOP_S)
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        self._bound.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._answer, sock=self._bound, limit=MAX_REQUEST, backlog=_AT_ONCE)
        server = self._loop.run_until_complete(serving)
        self._bound.listen(_BACKLOG)  # what asyncio made of it is how many it takes at once, before it looks at any
        self._serves.set()
        self._loop.run_forever()
        server.close()
        for writer in list(self._open):
            writer.transport.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        writer.transport.set_write_buffer_limits(0)  # an answer is out before the connection ends, also to who sends no more
        while len(self._open) > MAX_OPEN:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        try:
            # A client that goes, that is slow, or that sends no HTTP: there is nobody to tell.
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(DEADLINE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._response(head))
                    await writer.drain()  # all of it: see the limit below
                    writer.write_eof()
                    await _gone(reader)
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _message("405 Method Not Allowed", b"GET /metrics\n")
        if path == b"/healthz":
            return _message("200 OK", b"ok\n", bodiless=method == b"HEAD")
        if path != b"/metrics":
            return _message("404 Not Found", b"GET /metrics\n", bodiless=method == b"HEAD")
        now = time.monotonic()
        if now - self._made_at >= FRESH_S:
            self._made, self._made_at = self._page(), now
        return _message("200 OK", self._made, self._content_type, bodiless=method == b"HEAD")


async def _gone(reader: asyncio.StreamReader) -> None:
    """Until the client has it all and goes, so that no reset cuts its answer; or until it has sent too much."""
    left = MAX_REQUEST
    while left > 0 and (more := await reader.read(left)):
        left -= len(more)


def _message(status: str, body: bytes, kind: str = "text/plain; charset=utf-8", *, bodiless: bool = False) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode("ascii") + (b"" if bodiless else body)


def _bound(host: str, port: int) -> socket.socket:
    if not host:  # which would be every address of this machine
        raise _taken(host, port, OSError(errno.EADDRNOTAVAIL, "no address is named"))
    try:
        family, kind, address = _resolved(host, port)
        bound = socket.socket(family, kind)
    except OSError as error:
        raise _taken(host, port, error) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise _taken(host, port, error) from None
    return bound


def _resolved(host: str, port: int) -> tuple[int, int, tuple[object, ...]]:
    """The first address of this name, and what kind of socket it takes. Raises OSError, and so where no server says it."""
    found: queue.Queue[tuple[int, int, tuple[object, ...]] | OSError] = queue.Queue()

    def ask() -> None:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            found.put((family, kind, address))
        except UnicodeError:  # an empty label, or one of more than 63 bytes
            found.put(OSError(errno.EADDRNOTAVAIL, "this is no name of a machine"))
        except OSError as error:
            found.put(error)

    threading.Thread(target=ask, name="metrics-address", daemon=True).start()
    try:
        answer = found.get(timeout=RESOLVE_S)
    except queue.Empty:
        raise OSError(errno.ETIMEDOUT, f"no server has said within {RESOLVE_S:.0f} s what this name stands for") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _taken(host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"metrics cannot be served at {host}, port {port}: {error.strerror}",
        where="GRAIL_METRICS_ADDRESS, GRAIL_METRICS_PORT",
        hint="set GRAIL_METRICS_PORT to a port that is free, or GRAIL_METRICS_ADDRESS to an address of this machine",
    )
