"""The HTTP between a generator and its engine: one thread with an event loop, connections that are kept, nothing followed.

An engine runs on this machine, for this miner. What it answers is a stranger's bytes all the same: of bounded size and time,
never decompressed; redirects are answers like others; proxies and credentials of the environment are not used. Cancelling a
request closes its connection, which is how an engine learns that nobody waits any more.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from grail_core.addresses import without_access
from grail_core.errors import ConfigurationError, EngineError
from grail_core.text import printable

T = TypeVar("T")

CONNECT_S = 5.0
MAX_CONTROL_BYTES = 16 << 20
"""Of an answer about the server itself; a checksum of every tensor of a large mixture of experts has some megabytes."""

_IDLE_S = 3.0  # less than the 5 s after which the engines close a connection that idles
_SHOWN = 300  # characters of a refusal's body


class TransientError(Exception):
    """No answer, or one that says to ask again: the same request may be made once more."""


class RefusedError(Exception):
    """The engine understood and said no. `status` is its HTTP status."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(f"HTTP {status}: {what}")
        self.status = status


@dataclass(frozen=True)
class Ask:
    """One HTTP request."""

    method: str
    path: str
    body: Mapping[str, Any] | None
    seconds: float  # from the first byte sent to the last one read
    most: int = MAX_CONTROL_BYTES  # bytes of the answer


def checked_url(url: str) -> str:
    """`url` without a slash at its end.

    Raises:
        ConfigurationError: it is not http(s)://HOST[:PORT], or has a password, a path or a query in it.
    """
    hint = "write http://127.0.0.1:PORT; a key belongs into its own setting"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its words may be part of a password
        raise ConfigurationError("the engine's address cannot be read", where=without_access(url), hint=hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not url.isascii() or url != url.strip():
        raise ConfigurationError("the engine's address is no http(s)://HOST:PORT", where=without_access(url), hint=hint)
    if "@" in parts.netloc:
        raise ConfigurationError("the engine's address has a name or a password in it", where=without_access(url), hint=hint)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigurationError("the engine's address has a path or a query in it", where=without_access(url), hint=hint)
    return f"{parts.scheme}://{parts.netloc}"


class EngineHttp:
    """Requests to one engine. `ask` runs in the loop of `run`; `call` and `close` may come from any thread.

    Args:
        url: see `checked_url`. connections: most of them at a time. api_key: sent as a bearer token.
    """

    def __init__(self, url: str, *, connections: int, api_key: str | None = None) -> None:
        self.url = checked_url(url)
        self._headers = {"accept-encoding": "identity", "content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._connections = connections
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: httpx.AsyncClient | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` in the loop.

        Raises:
            EngineError: closed.
        """
        with self._lock:
            if self._closed:
                work.close()
                raise EngineError("this generator is closed", where=self.url)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="grail-engine-http", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, ask: Ask) -> bytes:
        """The body of a 2xx, waited for.

        Raises:
            TransientError, RefusedError: see `ask`. EngineError: closed, before or meanwhile.
        """
        try:
            return self.submit(self.ask(ask)).result()
        except CancelledError:
            raise EngineError("this generator was closed", where=self.url) from None

    def soon(self, callback: Any) -> None:
        """Call `callback` in the loop; nothing where it has ended."""
        with self._lock:
            if self._loop is not None and not self._closed:
                self._loop.call_soon_threadsafe(callback)

    async def ask(self, ask: Ask) -> bytes:
        """The body of a 2xx.

        Raises:
            TransientError: no whole answer in time, or one of 408, 425, 429, 5xx. RefusedError: another status.
        """
        content = None if ask.body is None else json.dumps(ask.body, allow_nan=False, separators=(",", ":")).encode()
        try:
            async with asyncio.timeout(ask.seconds), self._http().stream(ask.method, ask.path, content=content) as answer:
                status = answer.status_code
                coding = answer.headers.get("content-encoding", "identity")
                if coding != "identity":
                    raise TransientError(f"the answer is compressed ({printable(coding, 40)}), which was not asked for")
                body = await _read(answer, ask.most if 200 <= status < 300 else 64 << 10)
        except TimeoutError as error:
            raise TransientError(f"no whole answer in {ask.seconds:g} s") from error
        except (httpx.TransportError, httpx.InvalidURL, httpx.StreamError) as error:
            raise TransientError(f"{type(error).__name__}: {printable(str(error), _SHOWN)}".rstrip(": ")) from error
        if 200 <= status < 300:
            return body
        words = printable(body[: 4 * _SHOWN].decode("utf-8", "replace"), _SHOWN)
        if status in (408, 425, 429) or status >= 500:
            raise TransientError(f"HTTP {status}: {words}")
        raise RefusedError(status, words)

    def close(self) -> None:
        """Close every connection and end the thread. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _http(self) -> httpx.AsyncClient:
        """Made in the loop, which its connections belong to."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self.url,
                headers=self._headers,
                timeout=httpx.Timeout(None, connect=CONNECT_S),
                limits=httpx.Limits(max_connections=self._connections, keepalive_expiry=_IDLE_S),
                follow_redirects=False,
                trust_env=False,
            )
        return self._client


async def _read(answer: httpx.Response, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.aiter_raw():
        size += len(part)
        if size > most:
            raise TransientError(f"the answer is longer than {most} bytes")
        parts.append(part)
    return b"".join(parts)
