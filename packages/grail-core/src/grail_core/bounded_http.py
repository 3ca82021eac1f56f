"""One short answer of a stranger over HTTP: at most so many bytes in at most so many seconds, headers and all.

Nothing is followed and nothing decompressed: a few compressed bytes can be gigabytes. httpx limits each read alone, and who
sends a byte now and then is read for as long as it likes; here the connection is shut when the time is over, wherever the
library is in it. Looking up a name is the system's, and has the system's limits. For longer talks see `commands.node_http`,
`generation.http` and `storage.s3_transport`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

_PLAIN = "identity"


@dataclass(frozen=True)
class ShortAnswer:
    """`body` is empty where the status is not 200: it is not read."""

    status: int
    body: bytes


def get(url: str, *, most: int, seconds: float, trust_env: bool = True) -> ShortAnswer:
    """Ask once.

    Args:
        trust_env: go by the proxies of the environment.

    Raises:
        ValueError: it is no URL, or the answer is compressed, too long, or not whole in time. No part of the URL is in the
            message. httpx.HTTPError: no answer.
    """
    import httpx  # slow to import

    deadline = _Deadline(seconds)
    try:
        with (
            httpx.Client(timeout=seconds, follow_redirects=False, trust_env=trust_env, verify=_trusted()) as client,
            deadline,
            client.stream("GET", url, headers={"accept-encoding": _PLAIN}, extensions={"trace": deadline.trace}) as response,
        ):
            if response.status_code != 200:
                return ShortAnswer(response.status_code, b"")
            if response.headers.get("content-encoding", _PLAIN) != _PLAIN:
                raise ValueError("the answer is compressed, which was not asked for")
            body = b""
            for part in response.iter_raw():
                body += part
                if len(body) > most:
                    raise ValueError(f"the answer has more than {most} bytes")
            if deadline.over:
                raise ValueError(_too_slow(seconds))
            return ShortAnswer(200, body)
    except httpx.InvalidURL:
        raise ValueError("it is no URL") from None  # its words may be part of a password
    except httpx.HTTPError as error:
        if deadline.over or isinstance(error, httpx.ReadTimeout):  # which of two clocks of the same length was first
            raise ValueError(_too_slow(seconds)) from error
        raise


def _too_slow(seconds: float) -> str:
    return f"the answer came too slowly: it was not whole after {seconds:g} s"


class _Deadline:
    """Shuts a request's connection when its time is over: a read that waits then ends, and so does one that drips."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._socket = None

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpx's `trace` extension: tells of each connection when it is made, and again when TLS is begun on it."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                self._shut_if_over()

    def _end(self) -> None:
        with self._lock:
            self.over = True
            self._shut_if_over()

    def _shut_if_over(self) -> None:
        if self.over and self._socket is not None:
            with contextlib.suppress(OSError):  # closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # not TLS's own, which goes on in the clear


@cache
def _trusted() -> ssl.SSLContext:
    """Made once: reading the machine's certificates takes longer than a request."""
    import httpx

    return httpx.create_ssl_context()
