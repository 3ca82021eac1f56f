"""HTTP around the engine: routes, keys, bodies, and the faults that befall an answer whatever it says."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tooling.testing.engine_double.faults import ANSWER_KINDS, Fault, Occasion, Schedule

_LARGEST_BODY = 256 * 2**20
_PIECE = b" " * 65_536


class Refused(Exception):
    """What was asked is answered with this status and JSON value."""

    def __init__(self, status: int, value: Any) -> None:
        super().__init__(str(value))
        self.status, self.value = status, value


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Reply:
        return cls(status, json.dumps(value).encode())


@dataclass(frozen=True)
class Stream:
    """An answer of server-sent events, each a line's text after `data: `."""

    events: Iterator[str]
    cancel: Callable[[], None]  # nobody reads on


@dataclass(frozen=True)
class Call:
    """One request as a route sees it."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    fault: Fault | None  # of those that the route itself carries out
    gone: Callable[[], bool]  # the other side has closed the connection

    def value(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)

    def first(self, name: str, default: str) -> str:
        return self.query.get(name, [default])[0]


Handler = Callable[[Call], Reply | Stream]


@dataclass(frozen=True)
class Route:
    occasion: Occasion
    handler: Handler
    guarded: bool = True  # asks for the key, where there is one


Routes = Mapping[tuple[str, str], Route]


class DoubleServer(ThreadingHTTPServer):
    """Serves routes on loopback from the moment it is made until `stop` or `die`.

    Attributes:
        asked: (method, path) of every request, in the order in which they were read.
        bodies: the last body of each path.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], routes: Routes, faults: Schedule, *, unauthorised: Callable[[Route, str | None], bool]
    ) -> None:
        self.routes, self.faults, self.unauthorised = routes, faults, unauthorised
        self.dies: Callable[[], None] = self.die
        self.asked: list[tuple[str, str]] = []
        self.bodies: dict[str, bytes] = {}
        self.ends_on_errors: Callable[[], None] = lambda: None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)
        self.url = f"http://{address[0]}:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def die(self) -> None:
        """As the death of the process looks from outside: the port is closed and every connection is reset. From any thread."""
        threading.Thread(target=self.shutdown, daemon=True).start()
        self.socket.close()
        with self._lock:
            for connection in self._open:
                _reset(connection)

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # its reader was quicker
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that has had enough is no fault; what a route raises is answered with 500."""


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()


class _Handler(BaseHTTPRequestHandler):
    server: DoubleServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def _gone(self) -> bool:
        ready, _, _ = select.select([self.connection], [], [], 0)
        return bool(ready) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if length > _LARGEST_BODY:
            self.close_connection = True
            self._send(Reply.json({"detail": "too large"}, 413))
            return
        body = self.rfile.read(length)
        self.server.asked.append((self.command, parts.path))
        self.server.bodies[parts.path] = body
        route = self.server.routes.get((self.command, parts.path))
        if route is None:
            known = any(path == parts.path for _, path in self.server.routes)
            detail = "Method Not Allowed" if known else "Not Found"
            self._send(Reply.json({"detail": detail}, 405 if known else 404))
            return
        if route.guarded and self.server.unauthorised(route, self.headers.get("Authorization")):
            self._send(Reply.json({"error": "Unauthorized"}, 401))
            return
        fault = self.server.faults.strike(route.occasion)
        kind = fault.kind if fault is not None and fault.kind in ANSWER_KINDS else None
        if fault is not None and kind is not None and self._instead(fault):
            return
        call = Call(
            self.command, parts.path, parse_qs(parts.query), dict(self.headers.items()), body, fault if kind is None else None,
            self._gone,
        )  # fmt: skip
        try:
            answer = route.handler(call)
        except Refused as refusal:
            answer = Reply.json(refusal.value, refusal.status)
        except (ConnectionError, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - answered with 500 and printed, as a web framework does
            answer = Reply(500, b"Internal Server Error", "text/plain; charset=utf-8")
            print(f"{parts.path}: {type(error).__name__}: {error}", flush=True)
        if isinstance(answer, Stream):
            self._send_events(answer, kind)
        else:
            self._send(answer, kind)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer  # noqa: N815

    def _instead(self, fault: Fault) -> bool:
        """Faults in whose case nothing that was asked for is done. Whether it was one of them."""
        if fault.kind == "dies":
            self.server.dies()
        elif fault.kind == "error_500":
            self._send(Reply(500, b"Internal Server Error", "text/plain; charset=utf-8"))
        elif fault.kind == "loading_503":
            self._send(Reply.json({"error": {"message": "the model is loading"}}, 503))
        elif fault.kind == "redirect":
            self._send(Reply(307, headers={"Location": fault.value}))
        elif fault.kind == "huge_body":
            self._send_without_end()
        else:
            return False
        return True

    def _send(self, reply: Reply, kind: str | None = None) -> None:
        if kind == "no_response":
            self._break()
            return
        body = b'{"text": "", "meta_info": {' if kind == "invalid_json" else reply.body
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "half_response":
            self.wfile.write(body[: len(body) // 2])
            self._break()
            return
        self.wfile.write(body)

    def _send_events(self, stream: Stream, kind: str | None) -> None:
        if kind == "no_response":
            stream.cancel()
            self._break()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number, event in enumerate(stream.events):
                text = event
                if kind == "invalid_json":
                    text = '{"choices": ['
                elif kind == "half_response" and number >= 1:
                    self.wfile.write(f"{len(event) + 8:x}\r\ndata: {event[: len(event) // 2]}".encode())
                    stream.cancel()
                    self._break()
                    return
                data = f"data: {text}\n\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            stream.cancel()
            self.close_connection = True

    def _send_without_end(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(2**30))
        self.end_headers()
        with contextlib.suppress(OSError):  # the reader has had enough
            for _ in range(2**30 // len(_PIECE)):
                self.wfile.write(_PIECE)

    def _break(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        _reset(self.connection)

    def log_message(self, format: str, *args: object) -> None:
        pass


def bearer_is(header: str | None, key: str) -> bool:
    """Whether an Authorization header carries this key."""
    scheme, _, token = (header or "").partition(" ")
    return scheme.lower() == "bearer" and token == key
