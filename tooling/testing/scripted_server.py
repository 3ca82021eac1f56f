"""An HTTP server that lies on request: prepared answers, one after another, whatever is asked."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """`headers` may contradict the body: a Content-Length of their own stands in for the right one."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawAnswer:
    """Bytes as they are, status line and headers among them: `start`, and `then` so often."""

    start: bytes = b""
    then: bytes = b""
    times: int = 0  # -1: until the connection or the server ends
    pause_s: float = 0.0  # before each `then`
    reset: bool = False  # the connection breaks instead of ending


class ScriptedServer(ThreadingHTTPServer):
    """Listens on `url` from the start until the `with` block ends; the last answer repeats.

    `requests` counts all of them, `sent` the bytes that raw answers got rid of.
    """

    daemon_threads = True

    def __init__(self, *answers: Answer | RawAnswer) -> None:
        self.answers: Sequence[Answer | RawAnswer] = answers
        self.requests = self.sent = 0
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that has had enough is no fault."""

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.answers[min(self.server.requests, len(self.server.answers) - 1)]
        self.server.requests += 1
        if isinstance(answer, RawAnswer):
            self._send_raw(answer)
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer  # noqa: N815

    def _send_raw(self, answer: RawAnswer) -> None:
        self.close_connection = True
        try:
            self.wfile.write(answer.start)
            left = answer.times
            while left and not self.server.stopping.wait(answer.pause_s):
                self.wfile.write(answer.then)
                self.server.sent += len(answer.then)
                left -= 1
        except OSError:
            return  # the reader has had enough
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass
