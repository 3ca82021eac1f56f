"""The queue and its batches, over HTTP: what is full, what fails, who vanished, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from grail_core.errors import MachineFaultError
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_core.proof.errors import UnprovableError
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.serving.answering import AdmittedOrder, Answering
from grail_miner.serving.batching import Batches, QueueFullError, ShuttingDownError
from tooling.testing.serving_node import MODEL, PATIENCE_S, RunningNode, answering_of, running_node, save_served_model, until


class Gate:
    """The node's own answers, but each batch waits until it is let through; some prompts fail."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.begun = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.fails: dict[str, BaseException] = {}

    def answer(self, batch: Sequence[AdmittedOrder]) -> list[Receipt]:
        self.batches.append([str(one.asked.prompt) for one in batch])
        self.begun.release()
        assert self.open.acquire(timeout=PATIENCE_S)
        for one in batch:
            if str(one.asked.prompt) in self.fails:
                raise self.fails[str(one.asked.prompt)]
        return self._answering.answer(batch)

    def wait_for_batch(self) -> None:
        assert self.begun.acquire(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Answering:
    return answering_of(save_served_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def gate(answering: Answering) -> Iterator[Gate]:
    made = Gate(answering)
    yield made
    made.open.release(1_000)


@contextmanager
def gated(gate: Gate, answering: Answering, state: Path, max_queue: int = 8) -> Iterator[tuple[RunningNode, Any]]:
    """A node behind the gate, and a function that asks it in the background."""
    with ThreadPoolExecutor(16) as pool:

        def ask(prompt: str) -> Future[httpx.Response]:
            return pool.submit(node.post, "/v1/completions", body(prompt))

        try:
            with running_node(answering, state, answer=gate.answer, max_queue=max_queue) as node:
                try:
                    yield node, ask
                finally:
                    gate.open.release(1_000)
        finally:
            gate.open.release(1_000)


def body(prompt: str) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": 3, "seed": 1}


def wait_for_pending(node: RunningNode, number: int) -> None:
    until(lambda: node.node.batches.pending == number)


def order_of(answering: Answering, prompt: str, choices: int = 1) -> AdmittedOrder:
    policy = GenerationPolicy(3)
    return answering.admit(answering.unsigned(Features(prompt=prompt), policy, choices, 0), policy, now_s=0)


def test_what_waits_is_answered_together_in_the_order_of_arrival(gate: Gate, answering: Answering, tmp_path: Path) -> None:
    with gated(gate, answering, tmp_path) as (node, ask):
        answers = [ask("first")]
        gate.wait_for_batch()
        for number, prompt in enumerate(("second", "third"), start=1):
            answers.append(ask(prompt))
            wait_for_pending(node, number)
        gate.open.release(2)
        assert [answer.result().status_code for answer in answers] == [200] * 3
    assert gate.batches == [["first"], ["second", "third"]]


def test_a_full_queue_says_when_to_come_back(gate: Gate, answering: Answering, tmp_path: Path) -> None:
    with gated(gate, answering, tmp_path, max_queue=1) as (node, ask):
        running = ask("running")
        gate.wait_for_batch()
        waiting = ask("waiting")
        wait_for_pending(node, 1)
        refused = node.post("/v1/completions", body("too many"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert node.get("/info").json()["pending"]["offchain"] == 1
        gate.open.release(2)
        assert (running.result().status_code, waiting.result().status_code) == (200, 200)
        gate.open.release()
        assert node.post("/v1/completions", body("too many")).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MachineFaultError("no memory"), 503, "machine_fault"),
        (UnprovableError("a hidden state is zero"), 500, "unprovable"),
        (RuntimeError("CUDA out of memory"), 503, "machine_fault"),
        (ValueError("a mistake of ours about a-secret-prompt"), 500, "internal_error"),
        (BaseException("a panic"), 500, "internal_error"),
    ],
)
def test_one_request_that_fails_spoils_neither_its_batch_nor_the_next(
    gate: Gate, answering: Answering, tmp_path: Path, error: BaseException, status: int, code: str
) -> None:
    gate.fails["bad"] = error
    with gated(gate, answering, tmp_path) as (node, ask):
        first = ask("first")
        gate.wait_for_batch()
        batch = []
        for number, prompt in enumerate(("good", "bad", "fine"), start=1):
            batch.append(ask(prompt))
            wait_for_pending(node, number)
        gate.open.release(1_000)
        assert first.result().status_code == 200
        assert [answer.result().status_code for answer in batch] == [200, status, 200]
        told = batch[1].result().json()["error"]
        assert told["code"] == code
        assert "secret" not in told["message"]
        assert node.post("/v1/completions", body("next")).status_code == 200
    assert gate.batches == [["first"], ["good", "bad", "fine"], ["good"], ["bad"], ["fine"], ["next"]]


def test_a_client_that_vanished_before_its_batch_costs_nothing(gate: Gate, answering: Answering, tmp_path: Path) -> None:
    with gated(gate, answering, tmp_path) as (node, ask):
        running = ask("running")
        gate.wait_for_batch()
        with node.connection() as connected:
            connected.sendall(node.request_bytes("/v1/completions", body("vanished")))
            wait_for_pending(node, 1)
        wait_for_pending(node, 0)
        staying = ask("staying")
        wait_for_pending(node, 1)
        gate.open.release(2)
        assert (running.result().status_code, staying.result().status_code) == (200, 200)
    assert gate.batches == [["running"], ["staying"]]


def test_at_the_end_the_running_batch_is_answered_and_what_waits_is_told(
    gate: Gate, answering: Answering, tmp_path: Path
) -> None:
    with gated(gate, answering, tmp_path) as (node, ask):
        running = ask("running")
        gate.wait_for_batch()
        waiting = ask("waiting")
        wait_for_pending(node, 1)
        node.node.batches.stop_taking()
        refused = waiting.result()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert node.post("/v1/completions", body("late")).status_code == 503
        assert not running.done()
    assert running.result().status_code == 200
    assert gate.batches == [["running"]]


def test_a_batch_holds_no_more_completions_than_it_may_but_one_request_whole(gate: Gate, answering: Answering) -> None:
    batches = Batches(gate.answer, max_queue=8, max_rows=4)
    futures = [batches.submit(order_of(answering, text, choices)) for text, choices in (("a", 3), ("b", 1), ("c", 1), ("d", 6))]
    gate.open.release(1_000)
    batches.start()
    assert [len(future.result(PATIENCE_S).answer.choices) for future in futures] == [3, 1, 1, 6]
    batches.close()
    assert gate.batches == [["a", "b"], ["c"], ["d"]]


def test_a_request_that_was_taken_back_makes_room(gate: Gate, answering: Answering) -> None:
    batches = Batches(gate.answer, max_queue=1)
    first = batches.submit(order_of(answering, "a"))
    with pytest.raises(QueueFullError):
        batches.submit(order_of(answering, "b"))
    assert first.cancel()
    second = batches.submit(order_of(answering, "c"))
    batches.close()
    with pytest.raises(ShuttingDownError):
        second.result(PATIENCE_S)
    with pytest.raises(ShuttingDownError):
        batches.submit(order_of(answering, "d"))
