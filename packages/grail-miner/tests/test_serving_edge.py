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
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from grail_core.errors import ConfigurationError
from grail_core.inference.receipts import Receipt
from grail_core.served_http import TimedConnection
from grail_miner.serving.answering import Answering
from grail_miner.serving.clients import OPERATOR, Client, Clients
from grail_miner.serving.edge import MAX_BODIES, Edge, listen_address
from grail_miner.serving.new_token import add_client
from tooling.testing.serving_node import MODEL, RunningNode, answering_of, running_node, save_served_model, until

ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once", "max_tokens": 2}
MIB = 1 << 20


PROXIED = {"X-Forwarded-For": "203.0.113.9", "Host": "node.example.org"}


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Answering:
    return answering_of(save_served_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def node(answering: Answering, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(answering, tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture(scope="module")
def clients_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients") / "clients.toml"


@pytest.fixture(scope="module")
def token(clients_file: Path) -> str:
    """Of alice, who has the usual limits."""
    return add_client(clients_file, "alice")


@pytest.fixture(scope="module")
def shared(
    answering: Answering, clients_file: Path, token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningNode]:
    """A node that others may ask too."""
    with running_node(answering, tmp_path_factory.mktemp("shared"), clients=Clients(clients_file)) as running:
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
    assert listen_address(text, tokens=False) == address


@pytest.mark.parametrize("text", ["0.0.0.0:4000", "[::]:4000", "192.168.0.1:4000", "example.org:4000"])
def test_no_other_address_may_without_a_file_of_clients(text: str) -> None:
    with pytest.raises(ConfigurationError, match="nothing says who may ask from elsewhere"):
        listen_address(text, tokens=False)


@pytest.mark.parametrize("text", ["0.0.0.0:4000", "[::]:4000", "192.168.0.1:4000", "127.0.0.1:4000"])
def test_with_a_file_of_clients_any_address_of_this_machine_may_listen(text: str) -> None:
    assert listen_address(text, tokens=True)[1] == 4000


def test_a_name_is_no_address_to_listen_at() -> None:
    with pytest.raises(ConfigurationError, match="no IP address"):
        listen_address("example.org:4000", tokens=True)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "4000", "127.0.0.1:70000", "::1:4000", "127.0.0.1:-1", "[::1]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no address with a port"):
        listen_address(text, tokens=False)


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


def test_a_clients_unfinished_bodies_keep_nobody_else_from_asking(shared: RunningNode, token: str) -> None:
    head = shared.request_bytes("/v1/completions", ASKED, authorization=f"Bearer {token}")[:-1]
    with ExitStack() as stack:
        for _ in range(MAX_BODIES // 4):
            stack.enter_context(shared.connection()).sendall(head)
        until(lambda: shared.post("/v1/completions", ASKED, **bearer(token)).status_code == 503)
        assert shared.post("/v1/completions", ASKED).status_code == 200


def test_a_connection_that_stands_still_is_cut_and_one_that_is_used_is_not(answering: Answering, tmp_path: Path) -> None:
    lost: list[Exception | None] = []

    class Hurried(TimedConnection):
        look_seconds = 0.3

        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(exc)
            super().connection_lost(exc)

    with running_node(answering, tmp_path, http=Hurried) as node:
        with node.connection() as unfinished, node.connection() as silent:
            unfinished.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127")
            assert (unfinished.recv(1), silent.recv(1)) == (b"", b"")
        grail = node.post("/v1/completions", {**ASKED, "max_tokens": 900, "n": 16}).json()["grail"]
        receipt = f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}"
        until(lambda: len(lost) == 3)
        with httpx.Client(base_url=node.url, trust_env=False) as used, node.connection() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            deaf.sendall(f"GET {receipt} HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n\r\n".encode() * 40)
            until(lambda: used.get("/health").status_code == 200 and len(lost) == 4)
            assert used.get("/health").status_code == 200
            assert len(lost) == 4


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def openai_client(node: RunningNode, token: str) -> openai.OpenAI:
    """As it comes through a proxy."""
    return openai.OpenAI(base_url=f"{node.url}/v1", api_key=token, max_retries=0, default_headers=PROXIED)


def nonce_of(node: RunningNode, grail: dict[str, str]) -> int:
    found = node.get(f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}")
    return Receipt.from_bytes(found.content).order.nonce


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/orders", "/info", "/health", "/metrics", "/v1/usage", "/nothing"])
@pytest.mark.parametrize("how", [PROXIED, {"Host": "node.example.org"}, {"Via": "1.1 proxy"}])
def test_a_proxied_request_needs_a_token_whatever_it_asks(shared: RunningNode, path: str, how: dict[str, str]) -> None:
    for authorization in ({}, bearer("none"), bearer("x" * 49), {"Authorization": "Basic YTpi"}):
        headers = {**how, **authorization}
        refused = shared.post(path, ASKED, **headers) if path.startswith("/v1/c") else shared.get(path, **headers)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["error"]["code"] == "invalid_api_key"


def test_with_a_token_a_proxied_request_is_served_and_told_where_its_receipt_is(shared: RunningNode, token: str) -> None:
    answer = shared.post("/v1/completions", ASKED, **PROXIED, **bearer(token), **{"X-Forwarded-Proto": "https"})
    assert answer.status_code == 200
    grail = answer.json()["grail"]
    assert grail["receipt_url"] == f"https://node.example.org/v1/receipts/{grail['answer_digest']}"
    path = f"/v1/receipts/{grail['answer_digest']}"
    assert shared.get(f"{path}?token={grail['receipt_token']}", **PROXIED).status_code == 200  # its own token is enough
    assert shared.get(f"{path}?token={'0' * 64}", **PROXIED).status_code == 404
    assert shared.get(path, **PROXIED).status_code == 401
    assert shared.get("/v1/usage?token=1", **PROXIED).status_code == 401


def test_what_plain_proxies_speak_is_served_with_a_token_and_only_then(shared: RunningNode, token: str) -> None:
    """nginx's `proxy_pass` without a line more: HTTP/1.0."""
    for line, status in ((f"Authorization: bearer {token}\r\n", 200), ("", 401)):
        with shared.connection() as connected:
            connected.sendall(f"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n{line}\r\n".encode())
            with closing(HTTPResponse(connected)) as response:
                response.begin()
                assert response.status == status


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "https://example.org"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "foreign_origin"),
        ({"Content-Type": "text/plain"}, "content_type"),
    ],
)
def test_a_web_page_is_refused_with_a_token_and_without(
    shared: RunningNode, token: str, headers: dict[str, str], code: str
) -> None:
    for more in ({}, bearer(token), {**bearer(token), **PROXIED}):
        refused = shared.post("/v1/completions", ASKED, **headers, **more)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, code)


def test_a_page_of_the_nodes_own_name_behind_tls_is_not_foreign(shared: RunningNode, token: str) -> None:
    assert shared.get("/info", **PROXIED, **bearer(token), Origin="https://node.example.org").status_code == 200


@pytest.mark.parametrize(
    "host", ["[", "a b", "a/b", "a@b", "a:b", "a:1:2", "node.example.org#", "[:::::]", "a:999999", "\u00fc"]
)
def test_a_host_that_is_none_is_refused_before_anything_is_answered(shared: RunningNode, token: str, host: str) -> None:
    with shared.connection() as connected:
        head = shared.request_bytes("/v1/completions", ASKED, **bearer(token)).replace(
            f"host: 127.0.0.1:{shared.port}".encode(), b"host: " + host.encode("latin-1")
        )
        connected.sendall(head)
        assert status_and_error(connected)[0] == 400


def test_this_machine_needs_no_token_and_an_unknown_one_is_no_mistake(shared: RunningNode) -> None:
    for authorization in ({}, bearer("none"), bearer("x" * 49)):
        assert shared.post("/v1/completions", ASKED, **authorization).status_code == 200
        assert shared.get("/metrics", **authorization).status_code == 200


def test_without_a_file_of_clients_an_authorization_is_not_looked_at(node: RunningNode, token: str) -> None:
    assert node.post("/v1/completions", ASKED, **bearer(token)).status_code == 200
    assert node.get("/info", **bearer(token), **PROXIED).json()["error"]["code"] == "proxied"


def test_each_clients_repeated_requests_are_counted_apart(shared: RunningNode, token: str) -> None:
    asked = {**ASKED, "prompt": "Counted apart"}
    answers = [shared.post("/v1/completions", asked, **more).json() for more in ({}, bearer(token), {}, bearer(token))]
    assert [nonce_of(shared, answer["grail"]) for answer in answers] == [0, 0, 1, 1]


def test_a_wrong_token_is_the_librarys_authentication_error(shared: RunningNode, token: str) -> None:
    with openai_client(shared, token[:-1] + "_") as client, pytest.raises(openai.AuthenticationError) as error:
        client.completions.create(**ASKED)
    assert error.value.code == "invalid_api_key"


def test_a_limit_is_the_librarys_rate_limit_error_and_takes_no_draw(
    answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clients.toml"
    token = add_client(path, "bob")
    path.write_text(path.read_text() + "requests_per_minute = 1\ntokens_per_minute = 40\n")
    now, clients = [0.0], Clients(path)
    with running_node(answering, tmp_path / "state", clients=clients) as node, openai_client(node, token) as client:
        monkeypatch.setattr(node.node.metering.limits, "_clock", lambda: now[0])
        with pytest.raises(openai.BadRequestError) as too_large:
            client.completions.create(**{**ASKED, "max_tokens": 50})
        assert too_large.value.code == "limit_too_small"
        first: Any = client.completions.create(**ASKED)
        with pytest.raises(openai.RateLimitError) as error:
            client.completions.create(**ASKED)
        assert error.value.code == "rate_limit_exceeded"
        assert node.post("/v1/completions", {}, **bearer(token)).status_code == 429  # what it asks is not even read
        assert "1 times a minute" in str(error.value)
        now[0] += int(error.value.response.headers["retry-after"])
        again: Any = client.completions.create(**ASKED)
        assert [nonce_of(node, answer.grail) for answer in (first, again)] == [0, 1]
        samples = node.get("/metrics").text
    assert 'grail_requests_total{client="bob",outcome="refused",route="completions"} 3.0' in samples


def test_a_token_is_revoked_while_the_node_runs(answering: Answering, tmp_path: Path) -> None:
    path, now = tmp_path / "clients.toml", [0.0]
    token = add_client(path, "alice")
    clients = Clients(path, monotonic=lambda: now[0])
    with running_node(answering, tmp_path / "state", clients=clients) as node:
        assert node.get("/health", **PROXIED, **bearer(token)).status_code == 200
        path.write_text("")
        now[0] += 1
        assert node.get("/health", **PROXIED, **bearer(token)).status_code == 401
        other = add_client(path, "alice")
        now[0] += 1
        assert node.get("/health", **PROXIED, **bearer(other)).status_code == 200


def test_everybody_needs_a_token_where_the_file_says_so(answering: Answering, tmp_path: Path) -> None:
    """For a proxy that says nothing of itself, which would be taken for this machine."""
    path = tmp_path / "clients.toml"
    path.write_text("loopback = false\n")
    path.chmod(0o600)
    token = add_client(path, "alice")
    with running_node(answering, tmp_path / "state", clients=Clients(path)) as node:
        assert node.get("/health").status_code == 401
        assert node.get("/health", **bearer(token)).status_code == 200


def served_as(clients: Clients, peer: tuple[str, int] | None, **headers: str) -> Client | int:
    """Whom the edge lets a request of this peer through as, or the status that it is refused with."""
    found: list[Client | int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(int(message["status"]))

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["state"]["client"])

    lines = [(name.lower().encode(), value.encode()) for name, value in {"Host": "203.0.113.1", **headers}.items()]
    scope = {"type": "http", "method": "GET", "path": "/info", "query_string": b"", "http_version": "1.1", "client": peer}
    asyncio.run(Edge(app, max_body=MIB, clients=clients)({**scope, "headers": lines}, receive, send))
    return found[0]


def test_a_peer_elsewhere_is_whoever_its_token_says_where_it_is_taken_from(tmp_path: Path) -> None:
    path = tmp_path / "clients.toml"
    everywhere, inside = add_client(path, "everywhere"), add_client(path, "inside")
    path.write_text(path.read_text() + 'networks = ["10.0.0.0/8"]\n')
    clients = Clients(path)
    local = {"Host": "127.0.0.1"}
    for peer, token, headers, name in (
        ("203.0.113.9", everywhere, {}, "everywhere"),
        ("10.1.2.3", inside, {}, "inside"),
        ("203.0.113.9", inside, {}, None),
        ("203.0.113.9", inside, {"X-Forwarded-For": "10.1.2.3"}, None),  # whoever connects counts, not what it says
        ("203.0.113.9", "none", local, None),
        ("::ffff:203.0.113.9", "none", local, None),
        ("127.0.0.1", "none", local, OPERATOR.name),
        ("127.0.0.1", everywhere, local, "everywhere"),
    ):
        found = served_as(clients, (peer, 5), **headers, **bearer(token))
        assert (found.name if isinstance(found, Client) else None) == name, (peer, headers)
    assert served_as(clients, None, **local) == 401
