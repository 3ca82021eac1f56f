"""A proxy before a real S3 server that fails as real stores and lines do: rarely, seeded, and sometimes after the fact.

In a thread (`FaultyProxy`) or as a process (`python -m tooling.testing.faulty_proxy --upstream URL --faults FILE`) that prints
where it listens. What goes wrong how often is a `Faults`, read from its file at each request, so that other processes can
change it meanwhile. Which request fails follows from the seed, the request and how often it came before, whatever threads do.
`GET /_faults` says how often each fault was brought about.

With `r2` it also refuses what R2 refuses: boto3's own checksums and their trailers ("Unauthorized"), and uploads whose parts
but the last are not equal.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import re
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from grail_core.disk import write_atomically

REQUEST_LOST = ("reset_before", "reset_in", "busy", "broken")
"""The request is not carried out: the line breaks before it or in it, 503 SlowDown, 500."""
ANSWER_LOST = ("reset_after", "broken_after")
"""It is, and nobody is told: the line breaks, or 500."""
ANSWER_ODD = ("latency", "truncated", "stale_list", "drip", "other_etag", "skew")
KINDS = (*REQUEST_LOST, *ANSWER_LOST, *ANSWER_ODD)

_UNSIGNED = re.compile(r"([?&])uploadId=[^&]*")
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "date", "server"})
_DRIPS = 8


@dataclass(frozen=True)
class Faults:
    """`rates`: of each kind, the share of requests that meet it."""

    seed: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    latency_s: float = 0.002
    drip_s: float = 0.001  # between the pieces of a body that drips
    retry_after_s: int | None = None  # in 503s
    skew_s: int = 3600  # by how much a refused clock is said to be wrong
    r2: bool = False

    def __post_init__(self) -> None:
        unknown = self.rates.keys() - set(KINDS)
        if unknown or not 0 <= sum(self.rates.values()) <= 1:
            raise ValueError(f"no such faults, or shares that are none: {dict(self.rates)}")

    def write(self, path: Path) -> None:
        """Whole at any moment: a proxy reads it at each request."""
        write_atomically(path, json.dumps(asdict(self) | {"rates": dict(self.rates)}).encode())

    @classmethod
    def read(cls, path: Path) -> Faults:
        return cls(**json.loads(path.read_text()))

    def of(self, request: str, before: int) -> str | None:
        """What becomes of a request that came so often before."""
        digest = hashlib.sha256(f"{self.seed}\0{request}\0{before}".encode()).digest()
        at = int.from_bytes(digest[:8], "big") / 2**64
        for kind, rate in self.rates.items():
            if at < rate:
                return kind
            at -= rate
        return None


class FaultyProxy(ThreadingHTTPServer):
    """Listens on `url` until the `with` block ends; `faults` may be replaced, or lies in a file, read at each request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, faults: Faults | Path, *, port: int = 0) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.faults = faults
        self.met: Counter[str] = Counter()
        self.lists: dict[str, _Got] = {}
        self.parts: dict[str, dict[int, int]] = defaultdict(dict)  # sizes by upload and number
        self._before: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever has had enough of an answer is no fault."""

    def now(self) -> Faults:
        return Faults.read(self.faults) if isinstance(self.faults, Path) else self.faults

    def chosen(self, faults: Faults, request: str) -> str | None:
        with self._lock:
            before = self._before[request]
            self._before[request] += 1
            kind = faults.of(request, before)
            self.met[kind or "none"] += 1
            return kind

    def told(self) -> bytes:
        with self._lock:
            return json.dumps(dict(self.met)).encode()


@dataclass(frozen=True)
class _Got:
    """An answer, whole."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body waits for its headers to be acknowledged, 40 ms

    def _answer(self) -> None:
        if self.path == "/_faults":
            self._send(_Got(200, (), self.server.told()))
            return
        faults = self.server.now()
        path = _UNSIGNED.sub(r"\1uploadId", self.path)  # an upload's id is the store's own, different in every run
        kind = self.server.chosen(faults, f"{self.command} {path}")
        length = int(self.headers.get("Content-Length", 0))
        if kind in ("reset_before", "reset_in"):
            self.rfile.read(length // 2 if kind == "reset_in" else 0)
            self._reset()
            return
        body = self.rfile.read(length)
        refused = self._refused_early(faults, kind) or (self._refused_by_r2(length, body) if faults.r2 else None)
        if refused is not None:
            self._send(refused)
            return
        got = self._forwarded(body)
        if kind == "reset_after":
            self._reset()
        elif kind == "broken_after":
            self._send(_error(500, "InternalError", "We encountered an internal error. Please try again."))
        else:
            self._send(self._changed(kind, got), kind, faults)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer  # noqa: N815

    def _refused_early(self, faults: Faults, kind: str | None) -> _Got | None:
        if kind == "busy":
            headers = () if faults.retry_after_s is None else (("Retry-After", str(faults.retry_after_s)),)
            return _error(503, "SlowDown", "Please reduce your request rate.", *headers)
        if kind == "broken":
            return _error(500, "InternalError", "We encountered an internal error. Please try again.")
        if kind == "skew":
            date = self.date_time_string(int(time.time()) + faults.skew_s)
            text = "The difference between the request time and the current time is too large."
            return _error(403, "RequestTimeTooSkewed", text, ("Date", date))
        return None

    def _refused_by_r2(self, length: int, body: bytes) -> _Got | None:
        chunked = "aws-chunked" in self.headers.get("Content-Encoding", "")
        streaming = self.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
        if chunked or streaming or "x-amz-trailer" in self.headers or "x-amz-sdk-checksum-algorithm" in self.headers:
            return _error(401, "Unauthorized", "Unauthorized")
        query = parse_qs(urlsplit(self.path).query)
        upload = query.get("uploadId", [""])[0]
        if upload and self.command == "PUT":
            self.server.parts[upload][int(query["partNumber"][0])] = length
        elif upload and self.command == "POST":
            numbers = sorted(int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body))
            sizes = [self.server.parts[upload].get(number, 0) for number in numbers]
            if len(set(sizes[:-1])) > 1 or (len(sizes) > 1 and sizes[-1] > sizes[0]):
                return _error(400, "InvalidPart", "All non-trailing parts must have the same length.")
        return None

    def _forwarded(self, body: bytes) -> _Got:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = tuple((name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP)
            return _Got(answer.status, headers, answer.read())
        finally:
            connection.close()

    def _changed(self, kind: str | None, got: _Got) -> _Got:
        """The answer as it was, or as it was earlier, or of another object."""
        is_list = "list-type=2" in self.path and got.status == 200
        earlier = self.server.lists.get(self.path)
        if is_list:
            self.server.lists.setdefault(self.path, got)
        if kind == "stale_list" and is_list and earlier is not None:
            return earlier
        if kind == "other_etag":
            headers = tuple((name, '"0123"' if name.lower() == "etag" else value) for name, value in got.headers)
            return _Got(got.status, headers, got.body)
        return got

    def _send(self, got: _Got, kind: str | None = None, faults: Faults | None = None) -> None:
        if kind == "latency" and faults is not None:
            time.sleep(faults.latency_s)
        self.send_response_only(got.status)
        names = {name.lower() for name, _ in got.headers}
        if "date" not in names:
            self.send_header("Date", self.date_time_string())
        if "content-length" not in names and got.status != 204:
            self.send_header("Content-Length", str(len(got.body)))
        for name, value in got.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "truncated" and got.body:
            self.wfile.write(got.body[: len(got.body) // 2])
            self._reset()
        elif kind == "drip" and faults is not None:
            piece = max(1, -(-len(got.body) // _DRIPS))
            for at in range(0, len(got.body), piece):
                time.sleep(faults.drip_s)
                self.wfile.write(got.body[at : at + piece])
        else:
            self.wfile.write(got.body)

    def _reset(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _error(status: int, code: str, message: str, *headers: tuple[str, str]) -> _Got:
    return _Got(status, headers, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="A faulty line to an S3 server.")
    parser.add_argument("--upstream", required=True, help="URL of the server")
    parser.add_argument("--faults", type=Path, required=True, help="JSON file of what goes wrong")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    Faults.read(options.faults)
    proxy = FaultyProxy(options.upstream, options.faults, port=options.port)
    print(f"listening on {proxy.url}", flush=True)
    proxy.serve_forever()


if __name__ == "__main__":
    main()
