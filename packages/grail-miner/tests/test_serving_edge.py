"""At the edge of a node: who looks like this machine and is not, and bodies that are made to hurt."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPResponse
from typing import Any

import pytest
import uvicorn

from grail_core.errors import ConfigurationError
from grail_miner.serving.edge import MAX_BODIES, Edge, listen_address
from tooling.testing.serving_node import MODEL, RunningNode, answering_of, running_node, save_served_model, until

ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once", "max_tokens": 2}
MIB = 1 << 20


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = save_served_model(tmp_path_factory.mktemp("model"))
    with running_node(answering_of(folder), tmp_path_factory.mktemp("state")) as running:
        yield running


def status_and_error(connected: socket.socket) -> tuple[int, dict[str, Any]]:
    """Of the first response on a connection, as soon as it is there."""
    with closing(HTTPResponse(connected)) as response:
        response.begin()
        return response.status, json.loads(response.read())["error"]


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("X-Forwarded-For", "203.0.113.9", "proxied"),
        ("X-Forwarded-Proto", "https", "proxied"),
        ("X-Forwarded-Anything", "", "proxied"),
        ("Forwarded", "for=203.0.113.9", "proxied"),
        ("X-Real-IP", "127.0.0.1", "proxied"),
        ("Via", "1.1 proxy", "proxied"),
        ("CF-Connecting-IP", "203.0.113.9", "proxied"),
        ("True-Client-IP", "203.0.113.9", "proxied"),
        ("X-Original-Forwarded-For", "203.0.113.9", "proxied"),
        ("X_Forwarded_For", "203.0.113.9", "proxied"),
        ("Sec-Fetch-Site", "cross-site", "foreign_origin"),
        ("Host", "node.example.org", "host_not_local"),
        ("Host", "127.0.0.1.example.org:4000", "host_not_local"),
        ("Host", "user@127.0.0.1", "host_not_local"),
        ("Origin", "https://example.org", "foreign_origin"),
        ("Origin", "null", "foreign_origin"),
        ("Origin", "http://localhost:1", "foreign_origin"),
        ("Content-Type", "text/plain", "content_type"),
        ("Content-Type", "application/x-www-form-urlencoded", "content_type"),
        ("Content-Type", "multipart/form-data; boundary=application/json", "content_type"),
    ],
)
def test_a_proxy_or_a_web_page_is_not_this_machine(node: RunningNode, header: str, value: str, code: str) -> None:
    refused = node.post("/v1/completions", ASKED, **{header: value})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, code)
    if header != "Content-Type":
        assert node.get("/info", **{header: value}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_goes_by_several_names(node: RunningNode, host: str) -> None:
    name = f"{host}:{node.port}"
    own = {"Host": name, "Origin": f"http://{name}", "Content-Type": "application/json; charset=utf-8"}
    assert node.post("/v1/completions", ASKED, **own).status_code == 200


def test_a_request_without_a_host_is_refused(node: RunningNode) -> None:
    with node.connection() as connected:
        connected.sendall(b"GET /info HTTP/1.0\r\n\r\n")
        assert status_and_error(connected)[0] == 403


def test_a_peer_elsewhere_is_refused_whatever_it_says() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was let in")

    for client in (("203.0.113.9", 5), None):
        sent.clear()
        scope = {"type": "http", "method": "GET", "client": client, "headers": [(b"host", b"127.0.0.1")]}
        asyncio.run(Edge(never, max_body=MIB)(scope, receive, send))
        assert sent[0]["status"] == 403


def test_a_body_of_two_mebibytes_is_refused_by_its_length_and_by_what_arrives(node: RunningNode) -> None:
    refused = node.post("/v1/completions", {**ASKED, "prompt": "x" * (2 * MIB)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
    with node.connection() as connected:  # no byte of the body has to be sent for it
        head = node.request_bytes("/v1/completions", ASKED, **{"content-length": str(2 * MIB)}).partition(b"\r\n\r\n")[0]
        connected.sendall(head + b"\r\n\r\n")
        assert status_and_error(connected)[0] == 413


def test_an_endless_body_without_a_length_is_refused_at_the_limit(node: RunningNode) -> None:
    with node.connection() as connected:
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{node.port}\r\n"
            "content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        connected.sendall(head.encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(17):  # the first beyond the limit
            connected.sendall(chunk)
        status, error = status_and_error(connected)
    assert (status, error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[" + b"[]," * 300_000 + b"[]]",
        b'{"model": 1' + b"0" * 10_000 + b"}",
        b'{"model": NaN}',
        b'{"model": "a", "model": "b"}',
        b"\xff\xfe",
        b"",
        b"[]",
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "a", "temperature": 1e999}',
    ],
)
def test_json_that_is_made_to_hurt_is_refused_before_it_is_decoded(node: RunningNode, body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/orders"):
        head = node.request_bytes(path, {}, **{"content-length": str(len(body)), "connection": "close"})
        with node.connection() as connected:
            connected.sendall(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + body)
            assert status_and_error(connected)[0] == 400


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was let in")

    edge = Edge(never, max_body=MIB, body_seconds=0.05)
    server = uvicorn.Server(uvicorn.Config(edge, port=0, http="h11", ws="none", lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as connected:
            head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
            connected.sendall(head + b"{")
            status, error = status_and_error(connected)
        assert (status, error["code"]) == (408, "body_timeout")
    finally:
        server.should_exit = True
        thread.join()


def test_no_text_of_a_request_or_an_answer_is_in_a_log_line(node: RunningNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="grail_miner")
    caplog.set_level(logging.DEBUG, logger="uvicorn")
    answer = node.post("/v1/completions", {**ASKED, "prompt": "a-secret-prompt", "max_tokens": 12})
    node.post("/v1/completions", {**ASKED, "a-secret-name": "a-secret-value"})
    lines = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "a-secret" not in lines
    assert answer.json()["choices"][0]["text"] not in lines


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4000", ("127.0.0.1", 4000)),
        ("127.8.8.8:1", ("127.8.8.8", 1)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:4000", ("::1", 4000)),
    ],
)
def test_a_loopback_address_may_listen(text: str, address: tuple[str, int]) -> None:
    assert listen_address(text) == address


@pytest.mark.parametrize("text", ["0.0.0.0:4000", "[::]:4000", "192.168.0.1:4000", "example.org:4000"])
def test_no_other_address_may_and_the_error_says_when(text: str) -> None:
    with pytest.raises(ConfigurationError, match="client tokens come with a later version"):
        listen_address(text)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "4000", "127.0.0.1:70000", "::1:4000", "127.0.0.1:-1", "[::1]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no address with a port"):
        listen_address(text)


def test_what_a_plain_proxy_speaks_is_refused(node: RunningNode) -> None:
    """nginx's `proxy_pass` without a line more: HTTP/1.0, our own Host, and no header that tells of a proxy."""
    with node.connection() as connected:
        connected.sendall(f"GET /health HTTP/1.0\r\nHost: 127.0.0.1:{node.port}\r\nConnection: close\r\n\r\n".encode())
        status, error = status_and_error(connected)
    assert (status, error["code"]) == (403, "proxied")


def test_unfinished_bodies_of_others_keep_nobody_from_asking_how_the_node_is(node: RunningNode) -> None:
    """All places for bodies are taken by clients that never send theirs."""
    about = (f"Host: 127.0.0.1:{node.port}", "Content-Type: application/json", "Content-Length: 9")
    head = "\r\n".join(("POST /v1/completions HTTP/1.1", *about, "", ""))
    with ExitStack() as stack:
        for _ in range(MAX_BODIES):
            stack.enter_context(node.connection()).sendall(head.encode())
        until(lambda: node.post("/v1/completions", ASKED).status_code == 503)
        assert node.get("/health").status_code == 200
