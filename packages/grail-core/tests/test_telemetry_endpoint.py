"""The endpoint of a role's metrics: whoever asks, and however, costs the role nothing; a port that is taken costs a warning."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from grail_core.telemetry import get_logger
from grail_core.telemetry.metrics import endpoint
from grail_core.telemetry.metrics.endpoint import MAX_OPEN, MAX_REQUEST, Endpoint
from grail_core.telemetry.metrics.following import Follower
from grail_core.telemetry.metrics.metric import From, Metric
from grail_core.telemetry.metrics.monitoring import Monitoring, monitored

TABLE = (Metric("grail_test_windows_total", "counter", "windows", follows=(From("judged"),)),)
log = get_logger("grail_core.test_endpoint")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(endpoint, "FRESH_S", 0.0)
    made = Endpoint("127.0.0.1", 0, lambda: b"grail_x 1\n", "text/plain; version=0.0.4")
    yield made
    made.close()


def get(served: Endpoint, path: str = "/metrics", method: str = "GET") -> tuple[int, bytes]:
    host, port = served.address
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_two_paths_and_two_methods_are_answered(served: Endpoint) -> None:
    assert get(served) == (200, b"grail_x 1\n")
    assert get(served, "/metrics?name=x") == (200, b"grail_x 1\n")
    assert get(served, method="HEAD") == (200, b"")
    assert get(served, "/healthz") == (200, b"ok\n")
    assert get(served, "/")[0] == 404
    assert get(served, "/../etc/passwd")[0] == 404
    assert get(served, method="POST")[0] == 405


def test_three_hundred_clients_that_say_nothing_hold_up_no_scrape(served: Endpoint) -> None:
    with contextlib.ExitStack() as open_ones:
        for number in range(300):
            slow = open_ones.enter_context(socket.create_connection(served.address, timeout=20))
            if number % 2:
                slow.sendall(b"GET /metrics HT")
        assert get(served) == (200, b"grail_x 1\n")
        assert len(served._open) <= MAX_OPEN


def test_clients_that_come_all_at_once_take_few_of_the_roles_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, over, most = Endpoint._answer, threading.Event(), [0]

    async def counting(made: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        most[0] = max(most[0], len(os.listdir("/proc/self/fd")))
        await looked(made, reader, writer)

    def page() -> bytes:
        over.wait()  # while one page is made, others come
        return b"grail_x 1\n"

    monkeypatch.setattr(Endpoint, "_answer", counting)
    made = Endpoint("127.0.0.1", 0, page, "text/plain")
    try:
        with contextlib.ExitStack() as open_ones:
            first = open_ones.enter_context(socket.create_connection(made.address, timeout=20))
            first.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            for _ in range(200):
                open_ones.enter_context(socket.create_connection(made.address, timeout=20))
            before = len(os.listdir("/proc/self/fd"))
            over.set()
            assert get(made) == (200, b"grail_x 1\n")
            assert most[0] - before < 2 * MAX_OPEN
    finally:
        over.set()
        made.close()


@pytest.mark.parametrize("sent", [b"x" * (MAX_REQUEST * 40), b"\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET /metrics"])
def test_what_is_no_request_ends_its_own_connection_alone(served: Endpoint, sent: bytes) -> None:
    with socket.create_connection(served.address, timeout=20) as client, contextlib.suppress(OSError):
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(200).startswith((b"HTTP/1.1 4", b"")), "refused, or not answered"
    assert get(served)[0] == 200


def test_a_client_that_asks_and_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "DEADLINE_S", 0.3)
    made = Endpoint("127.0.0.1", 0, lambda: b"x" * 50_000_000, "text/plain")
    try:
        with socket.create_connection(made.address, timeout=20) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert client.recv(8)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1 << 20):  # until it is cut off: the whole page would be 50 MB
                    threading.Event().wait(0.05)
        assert not made._open
    finally:
        made.close()


def test_a_client_that_sends_on_after_its_answer_is_left_and_nothing_of_it_is_kept(served: Endpoint) -> None:
    sent, most = 0, 64 << 20  # the kernel's buffers on both sides take a few MB of it
    with socket.create_connection(served.address, timeout=20) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < most:
                sent += client.send(b"x" * (1 << 16))
    assert sent < most
    assert get(served)[0] == 200


def test_a_name_that_no_server_answers_for_keeps_no_role_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()

    def asks(*_: object, **__: object) -> list[object]:
        over.wait()
        raise OSError("nobody")

    monkeypatch.setattr(socket, "getaddrinfo", asks)
    monkeypatch.setattr(endpoint, "RESOLVE_S", 0.1)
    ran = []
    with caplog.at_level(logging.INFO), monitored(Monitoring(("prometheus",), "metrics.example.org", 0), TABLE):
        ran.append(1)
    over.set()
    assert ran == [1]
    assert "monitoring_unavailable" in [record.getMessage() for record in caplog.records]


def test_a_page_is_made_once_however_often_it_is_asked_for() -> None:
    made = []

    def page() -> bytes:
        made.append(1)
        return b"grail_x 1\n"

    served = Endpoint("127.0.0.1", 0, page, "text/plain")
    try:
        for _ in range(20):
            get(served)
        assert len(made) <= 3
    finally:
        served.close()


def test_a_port_that_is_taken_is_a_warning_and_the_role_runs(caplog: pytest.LogCaptureFixture) -> None:
    ran = []
    with socket.create_server(("127.0.0.1", 0)) as other, caplog.at_level(logging.INFO):
        port = other.getsockname()[1]
        with monitored(Monitoring(("prometheus",), "127.0.0.1", port), TABLE) as follower:
            log.event("judged")
            ran.append(follower)
    assert isinstance(ran[0], Follower)
    told = next(record for record in caplog.records if record.getMessage() == "monitoring_unavailable")
    assert told.levelno == logging.WARNING
    assert str(port) in str(vars(told))


@pytest.mark.parametrize(
    "address", ["no.such.host.invalid", "256.1.1.1", "", "192.0.2.1", "127.0.0..1", "a" * 64 + ".org", "[::1]"]
)
def test_an_address_that_is_none_of_this_machine_is_a_warning(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), monitored(Monitoring(("prometheus",), address, 0), TABLE):
        log.event("judged")
    assert "monitoring_unavailable" in [record.getMessage() for record in caplog.records]


def test_nothing_is_left_when_the_role_ends() -> None:
    before = threading.active_count()
    with monitored(Monitoring(("prometheus",), "127.0.0.1", 0), TABLE):
        assert threading.active_count() > before
    assert threading.active_count() == before
