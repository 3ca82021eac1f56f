"""The SDK's own websocket client before servers that are no nodes: one typed error each, and the next endpoint."""

from __future__ import annotations

import logging
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from grail_core.chain.bittensor.adapter import BittensorChain, Timing
from grail_core.chain.bittensor.connection import READ_SECONDS
from grail_core.chain.bittensor.endpoints import Endpoints
from grail_core.chain.bittensor.resolving import clients_by_sdk
from grail_core.errors import ChainError
from grail_core.telemetry import configure
from tooling.testing.faults import events

pytest.importorskip("bittensor")

ANSWERS = {
    "silent": b"",
    "closes": b"",
    "no websocket": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "refuses traffic": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n",
    "garbage": bytes(range(256)) * 64,
}
SILENCE_S = 1.0
"""Real seconds after which the silent server is given up."""


@contextmanager
def server(answer: str) -> Iterator[str]:
    """A TCP server with one answer for everybody; its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            held.append(connection)
            if answer != "silent":
                connection.recv(4096)
                connection.sendall(ANSWERS[answer])
                connection.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.close()
        for connection in held:
            connection.close()


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_that_is_no_node_is_left_with_a_typed_error(answer: str) -> None:
    with server(answer) as first, server("closes") as second:
        patience = SILENCE_S if answer == "silent" else READ_SECONDS
        timing = Timing(sleep=lambda seconds: None, read_seconds=patience)
        chain = BittensorChain(clients_by_sdk(), endpoints=[first, second], netuid=81, timing=timing)
        with events() as names, pytest.raises(ChainError, match="cannot be reached"):
            chain._connection.run("current block", lambda client, substrate: client.block())
        assert names == ["chain_endpoint_left"]
        left = chain._connection.endpoints.every[0]
        assert left.failures == 1
        assert (chain._connection.endpoints.wait_s(left) > 20) is (answer == "refuses traffic")
        chain.close()


SECRET_PARTS = ("hidden", b64encode(b"me:hidden").decode())


@pytest.mark.parametrize("answer", [name for name in ANSWERS if name != "silent"])
def test_a_key_in_an_endpoints_url_is_in_no_error_event_or_log_line_of_any_library(answer: str, tmp_path: Path) -> None:
    """With -vv, where the websocket library told request lines and headers."""
    log_file = tmp_path / "log"
    configure("miner", verbosity=2, log_file=log_file)
    logging.getLogger("somebody").debug("theirs")
    with server(answer) as first, server("closes") as second:
        urls = [f"ws://me:hidden@{url.removeprefix('ws://')}/hidden?apikey=a@hidden#hidden" for url in (first, second)]
        timing = Timing(sleep=lambda seconds: None)
        chain = BittensorChain(clients_by_sdk(), endpoints=urls, netuid=81, timing=timing)
        with pytest.raises(ChainError) as caught:
            chain.current_block()
        chain.close()
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://me:hidden@{second.removeprefix('ws://')}/hidden?key=hidden")
    logged = log_file.read_text()
    assert "theirs" in logged
    assert "chain_endpoint_left" in logged
    assert not [part for part in SECRET_PARTS if part in logged + str(caught.value)]


def test_two_urls_of_one_host_are_told_apart() -> None:
    endpoints = Endpoints(["wss://node/one", "wss://other:9944/x", "wss://node/two", "wss://[::1]:9/k", "wss://node:x/k"])
    names = ["node", "other:9944", "node (2)", "[::1]:9", "an endpoint without a host"]
    assert [endpoint.name for endpoint in endpoints.every] == names
