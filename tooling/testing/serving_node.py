"""A node that answers requests, for tests: a real server at a real socket, a real small model, a state folder of its own."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from grail_core.checkpoints.served_model import read_served_folder
from grail_core.clock import WallClock, wall_clock_ms
from grail_core.keys import LocalSigner
from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.network import NETWORKS
from grail_core.served_http import TimedConnection
from grail_core.verification.receipt import NO_CHAIN
from grail_miner.serving.answering import Answering, ServedNetwork
from grail_miner.serving.clients import Clients
from grail_miner.serving.metering import metering_at
from grail_miner.serving.models import HfModels, Models
from grail_miner.serving.node import Node
from grail_miner.serving.receipt_store import ReceiptStore
from grail_miner.serving.repeats import Repeats
from grail_miner.serving.scheduler import Scheduler
from grail_miner.serving.service import serving
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.keys import ALICE
from tooling.testing.models.tiny_qwen2 import BYTES, END_TOKEN_ID, save_byte_model

MODEL = "tiny"
PATIENCE_S = 240.0  # a limit against hanging, below that of a test
"""How long a test waits for something that must come before it calls it missing."""


def save_served_model(folder: Path) -> Path:
    """A byte model that names its end token. Returns `folder`."""
    return save_byte_model(folder, replace(BYTES, end=END_TOKEN_ID))


NETWORK = ServedNetwork(NETWORKS["subnet-81"], NO_CHAIN)


def answering_of(folder: Path, signer: LocalSigner = ALICE) -> ClosedAnswers:
    return ClosedAnswers(read_served_folder(folder), PolicyModel.load(folder), NETWORK, signer, name=MODEL)


@dataclass(frozen=True)
class RunningNode:
    url: str
    node: Node

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """One request on a connection of its own."""
        return httpx.post(self.url + path, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=PATIENCE_S, trust_env=False)

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """For requests that no HTTP library sends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connected:
            yield connected

    def request_bytes(self, path: str, body: Any, **headers: str) -> bytes:
        """A POST as it goes over the wire."""
        raw = json.dumps(body).encode()
        lines = {"host": f"127.0.0.1:{self.port}", "content-type": "application/json", "content-length": str(len(raw))}
        head = "".join(f"{name}: {value}\r\n" for name, value in (lines | headers).items())
        return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + raw


@contextmanager
def running_node(
    answering: Answering,
    state: Path,
    *,
    models: Models | None = None,
    max_queue: int = 64,
    max_rows: int = 64,
    clock: WallClock = wall_clock_ms,
    clients: Clients | None = None,
    http: type[TimedConnection] = TimedConnection,
) -> Iterator[RunningNode]:
    """Answers while the block lasts.

    Args:
        models: in place of its own in this process, for some that fail or wait.
    """
    models = models or HfModels()
    metering = metering_at(state / "usage.sqlite", clock=clock)
    scheduler = Scheduler(answering, models, max_queue=max_queue, max_rows=max_rows)
    scheduler.first_token = metering.metrics.first_token
    scheduler.hold(answering.to_hold)
    node = Node(
        answering=answering,
        scheduler=scheduler,
        receipts=ReceiptStore(state / "receipts", state / "receipt-key", clock=clock),
        repeats=Repeats(state / "repeats.sqlite", clock=clock),
        metering=metering,
        name=MODEL,
        clock=clock,
    )
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with serving(node, bound, threading.Event(), clients=clients, http=http) as url:
            yield RunningNode(url, node)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come; what does not within PATIENCE_S fails the test."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)
