"""The HTTP below boto3: every byte of an answer within a time and a size, nothing followed, nothing decompressed.

boto3 signs requests and reads the shapes of answers; sending them is ours, by the event it offers for that (`before-send`),
because its own session reads whatever comes for as long as it comes. Here

* each send and receive gets what is left of the time (`time_limits`), the headers' too, so that dripping is no way around it,
  and silence is none around a stop;
* an answer that is no object is at most MAX_ANSWER_BYTES long, an error's body MAX_ERROR_BYTES; headers are bounded by Python's
  http.client (100 of 64 KiB);
* XML has no document type, so there are no entities to expand, and no NUL, so it is in no encoding that hides one;
* a redirect is an answer like others, and what is compressed stays so;
* what is not 2xx never reaches boto3's readers: it becomes an `AnswerStatus` with two short texts.

An object's body is not read here: its reader decides how much of it to take.
"""

from __future__ import annotations

import io
import os
import re
import select
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import botocore.httpsession
import urllib3
from botocore.awsrequest import AWSResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from grail_core.errors import StorageError
from grail_core.storage.s3_answers import http_date_ms, unexpected
from grail_core.storage.time_limits import StoreLimits, may_be_stopped, seconds_left

MAX_ANSWER_BYTES = 2 << 20
"""A page of a listing: a thousand keys of 1,024 characters, and 250 bytes with each."""

MAX_ERROR_BYTES = 64 << 10
CONNECT_S = 5.0
_SENT_AT_ONCE = 256 << 10
_STOP_POLL_S = 0.25
_CODE = re.compile(rb"<Code>([A-Za-z0-9._-]{1,64})</Code>")
_ERROR = re.compile(rb"\s*(?:<\?xml[^>]{0,200}\?>)?\s*<Error[ >]")
_SECONDS = re.compile(r"\d{1,6}", re.ASCII)
_MESSAGE = re.compile(rb"<Message>([^<]{0,1000})</Message>")


class AnswerStatus(Exception):
    """The store's answer was not 2xx. `code` and `message` are its own words: hostile text, short."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = _retry_after_s(headers.get("retry-after"))
        self.skew_s = _skew_s(headers.get("date"))


class Transport:
    """Sends what boto3 has signed. Thread-safe; keeps connections open."""

    def __init__(self, limits: StoreLimits) -> None:
        self._timeout = urllib3.Timeout(connect=CONNECT_S, read=limits.idle_s)
        self._managers: dict[str | None, urllib3.PoolManager] = {}

    def send(self, request: Any, **_: Any) -> AWSResponse:
        """boto3's `before-send` event.

        Raises:
            AnswerStatus: the status is not 2xx.
            StorageError: the answer is too large, or XML with a document type.
            urllib3.exceptions.HTTPError, OSError: no answer, or not in time.
        """
        left = seconds_left()
        if left <= 0:
            raise TimeoutError("the time for this request is over")
        headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
        answer = self._manager(request.url).urlopen(
            request.method,
            request.url,
            body=request.body or None,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
            timeout=self._timeout,
        )
        try:
            return self._told(request, answer)
        except BaseException:
            answer.close()
            raise

    def _told(self, request: Any, answer: Any) -> AWSResponse:
        if not 200 <= answer.status < 300:
            body = b"" if request.method == "HEAD" else _read_most(answer, MAX_ERROR_BYTES)
            answer.close()
            raise AnswerStatus(answer.status, _first(_CODE, body), _first(_MESSAGE, body), answer.headers)
        if request.stream_output:
            return AWSResponse(request.url, answer.status, answer.headers, answer)
        body = b"" if request.method == "HEAD" else _read_most(answer, MAX_ANSWER_BYTES + 1)
        if len(body) > MAX_ANSWER_BYTES:
            raise unexpected(f"more than {MAX_ANSWER_BYTES} bytes where no object was asked for", request.url.partition("?")[0])
        if b"<!DOCTYPE" in body or b"\0" in body:
            raise unexpected("XML that defines entities or hides its text", request.url.partition("?")[0])
        answer.release_conn()
        if _ERROR.match(body):  # S3 has begun to answer 200 before it knows the outcome of a request that takes long
            raise AnswerStatus(500, _first(_CODE, body), _first(_MESSAGE, body), answer.headers)
        return AWSResponse(request.url, answer.status, answer.headers, _Whole(body))

    def _manager(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = None if urllib.request.proxy_bypass(parts.hostname or "") else urllib.request.getproxies().get(parts.scheme)
        if proxy not in self._managers:
            trusted = os.environ.get("AWS_CA_BUNDLE") or botocore.httpsession.get_cert_path(True)
            options: dict[str, Any] = {"maxsize": 10, "ssl_context": _verifying(str(trusted))}
            manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
            self._managers[proxy] = manager
        return self._managers[proxy]


@lru_cache(maxsize=4)
def _verifying(trusted: str) -> ssl.SSLContext:
    """One for all connections: the authorities take 15 ms to read, and first sight opens 256 connections at once."""
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.check_hostname = True
    if os.path.isdir(trusted):
        context.load_verify_locations(capath=trusted)
    else:
        context.load_verify_locations(cafile=trusted)
    return context


class _Whole:
    """A body that has been read, as boto3 asks for one."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._body


class _TimedSocket:
    """A socket whose every send and receive ends with the time that is left around it (`at_most`)."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._idle = inner.gettimeout()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def settimeout(self, seconds: float | None) -> None:
        self._idle = seconds
        self._inner.settimeout(seconds)

    def limit(self) -> None:
        left = seconds_left()
        if left <= 0:
            raise TimeoutError("the time for this answer is over")
        self._inner.settimeout(left if self._idle is None else min(left, self._idle))

    def await_bytes(self) -> None:
        """Until there is something to read, or no more time; at once where nobody can stop it, and the receive itself waits."""
        if not may_be_stopped() or (isinstance(self._inner, ssl.SSLSocket) and self._inner.pending()):
            return
        readable = select.poll()
        readable.register(self._inner, select.POLLIN)
        waited = 0.0
        while not readable.poll(1000 * min(_STOP_POLL_S, max(0.0, seconds_left()))):
            waited += _STOP_POLL_S
            if seconds_left() <= 0 or (self._idle is not None and waited >= self._idle):
                raise TimeoutError("nothing came in the time that there was")

    def sendall(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while view:
            self.limit()
            view = view[self._inner.send(view[:_SENT_AT_ONCE]) :]

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self, self._inner.makefile("rb", buffering=0)), 64 << 10)


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: _TimedSocket, inner: Any) -> None:
        self._timed = timed
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._timed.await_bytes()
        self._timed.limit()
        count: int | None = self._inner.readinto(buffer)
        return count

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _Connection(HTTPConnection):
    def connect(self) -> None:
        _within(self)
        super().connect()
        self.sock = _TimedSocket(self.sock)


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        _within(self)
        super().connect()
        self.sock = _TimedSocket(self.sock)


def _within(connection: HTTPConnection) -> None:
    """Connecting and the TLS handshake take at most what is left."""
    left = seconds_left()
    if left <= 0:
        raise TimeoutError("the time for this request is over")
    if isinstance(connection.timeout, int | float):
        connection.timeout = min(connection.timeout, left)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _read_most(answer: Any, most: int) -> bytes:
    """The body's first `most` bytes."""
    parts: list[bytes] = []
    size = 0
    while size < most and (part := answer.read(min(64 << 10, most - size), decode_content=False)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _retry_after_s(text: str | None) -> float:
    """Seconds that the store asks to wait; of its two forms the one in seconds, which stores send."""
    return float(text) if text is not None and _SECONDS.fullmatch(text) else 0.0


def _skew_s(text: str | None) -> float | None:
    """How far the answer's own time is ahead of this machine's clock."""
    try:
        return http_date_ms(text, "") / 1000 - time.time()
    except StorageError:
        return None


def _first(pattern: re.Pattern[bytes], body: bytes) -> str:
    match = pattern.search(body)
    return match[1].decode("utf-8", "replace") if match else ""
