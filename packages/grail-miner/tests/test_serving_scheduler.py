"""The queue and the running batch, over HTTP: who joins, what is full, what fails, who vanished, and how it ends."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from grail_core.errors import MachineFaultError
from grail_core.inference.features import Features
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.serving import scheduler as scheduling
from grail_miner.serving.answering import AdmittedOrder, Answering
from grail_miner.serving.model_process import ModelProcess
from grail_miner.serving.models import ToProve
from grail_miner.serving.scheduler import QueueFullError, Scheduler, ShuttingDownError
from grail_miner.serving.tickets import Ticket
from tooling.testing.gated_models import GatedModels
from tooling.testing.serving_node import MODEL, PATIENCE_S, RunningNode, answering_of, running_node, save_served_model, until


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Answering:
    return answering_of(save_served_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def models() -> GatedModels:
    return GatedModels()


Ask = Callable[..., Future[httpx.Response]]


@contextmanager
def gated(models: GatedModels, answering: Answering, state: Path, *, max_queue: int = 8) -> Iterator[tuple[RunningNode, Ask]]:
    """A node behind the gate, and a function that asks it in the background."""
    with ThreadPoolExecutor(16) as pool:

        def ask(prompt: str, **more: Any) -> Future[httpx.Response]:
            return pool.submit(node.post, "/v1/completions", body(prompt, **more))

        try:
            with running_node(answering, state, models=models, max_queue=max_queue) as node:
                try:
                    yield node, ask
                finally:
                    models.open.release(100_000)
        finally:
            models.open.release(100_000)


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": 3, "seed": 1, **more}


def wait_for_pending(node: RunningNode, number: int) -> None:
    until(lambda: node.node.scheduler.pending == number)


def order_of(answering: Answering, prompt: str, choices: int = 1) -> AdmittedOrder:
    policy = GenerationPolicy(3)
    return answering.admit(answering.unsigned(Features(prompt=prompt), policy, choices, 0), policy, now_s=0)


def text_of(answer: Future[httpx.Response]) -> str:
    return str(answer.result().json()["choices"][0]["text"])


def test_a_request_joins_what_runs_and_does_not_wait_for_its_end(
    models: GatedModels, answering: Answering, tmp_path: Path
) -> None:
    with gated(models, answering, tmp_path) as (node, ask):
        long = ask("a long one", max_tokens=60)
        models.wait_for_burst()
        models.open.release()
        models.wait_for_burst()  # it runs
        short = ask("short")
        wait_for_pending(node, 1)
        for _ in range(5):  # it begins with the second of them, and has three tokens
            models.open.release()
            models.wait_for_burst()
        assert short.result().status_code == 200
        assert not long.done()
        models.open.release(1_000)
        assert long.result().json()["usage"]["completion_tokens"] == 60


def test_a_full_queue_says_when_to_come_back(models: GatedModels, answering: Answering, tmp_path: Path) -> None:
    with gated(models, answering, tmp_path, max_queue=1) as (node, ask):
        running = ask("running")
        models.wait_for_burst()
        waiting = ask("waiting")
        wait_for_pending(node, 1)
        refused = node.post("/v1/completions", body("too many"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert node.get("/info").json()["pending"]["offchain"] == 1
        models.open.release(1_000)
        assert (running.result().status_code, waiting.result().status_code) == (200, 200)
        assert node.post("/v1/completions", body("too many")).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MachineFaultError("no memory"), 503, "machine_fault"),
        (RuntimeError("CUDA out of memory"), 503, "machine_fault"),
        (ValueError("a mistake of ours about a-secret-prompt"), 500, "internal_error"),
        (BaseException("a panic"), 500, "internal_error"),
    ],
)
def test_a_request_that_ends_the_models_is_found_and_fails_alone(
    models: GatedModels, answering: Answering, tmp_path: Path, error: BaseException, status: int, code: str
) -> None:
    models.fails[len(order_of(answering, "the bad one").prompt)] = error
    with gated(models, answering, tmp_path / "state") as (node, ask):
        first = ask("first", max_tokens=20)
        models.wait_for_burst()
        batch = []
        for number, prompt in enumerate(("good", "the bad one", "fine"), start=1):
            batch.append(ask(prompt))
            wait_for_pending(node, number)
        while not models.failed_with:
            models.open.release()
            models.wait_for_burst()
        until(lambda: not node.node.scheduler.healthy)
        healths = [node.get("/health").status_code]
        models.open.release(100_000)
        assert first.result().status_code == 200
        assert [answer.result().status_code for answer in batch] == [200, status, 200]
        told = batch[1].result().json()["error"]
        assert told["code"] == code
        assert "secret" not in told["message"]
        assert node.post("/v1/completions", body("next")).status_code == 200
        assert healths == [503]
        assert node.get("/health").json() == {"status": "healthy"}
        texts = [text_of(answer) for answer in (first, batch[0], batch[2])]
    assert list(map(len, models.failed_with)) == [4, 2, 1]  # by halves
    models.fails.clear()
    with gated(models, answering, tmp_path / "again") as (_, ask):
        models.open.release(100_000)
        assert texts == [text_of(ask("first", max_tokens=20)), text_of(ask("good")), text_of(ask("fine"))]


def test_an_answer_without_a_proof_is_not_given_and_spoils_nobody_elses(
    models: GatedModels, answering: Answering, tmp_path: Path
) -> None:
    models.unprovable.add(len(order_of(answering, "unprovable").prompt))
    with gated(models, answering, tmp_path) as (_, ask):
        models.open.release(100_000)
        other = ask("another", max_tokens=30)
        refused = ask("unprovable").result()
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "unprovable")
        assert other.result().status_code == 200


def test_a_client_that_vanished_while_it_waited_costs_nothing(
    models: GatedModels, answering: Answering, tmp_path: Path
) -> None:
    with gated(models, answering, tmp_path) as (node, ask):
        running = ask("running")
        models.wait_for_burst()
        with node.connection() as connected:
            connected.sendall(node.request_bytes("/v1/completions", body("vanished")))
            wait_for_pending(node, 1)
        wait_for_pending(node, 0)
        models.open.release(1_000)
        assert running.result().status_code == 200
    assert sum(begun for begun, _ in models.bursts) == 1


def test_a_client_that_vanishes_in_the_middle_leaves_the_batch(
    models: GatedModels, answering: Answering, tmp_path: Path
) -> None:
    with gated(models, answering, tmp_path) as (node, _):
        with node.connection() as connected:
            connected.sendall(node.request_bytes("/v1/completions", body("vanishes", max_tokens=100, n=3)))
            models.wait_for_burst()
            models.open.release()
            models.wait_for_burst()
            assert len(models.running) == 3
        until(lambda: node.node.scheduler._cancelled)
        models.open.release()
        models.wait_for_burst()
        models.open.release()
        until(lambda: not models.running)
        assert models.bursts[-1] == (0, 3)
        assert node.node.scheduler.running == 0


def test_at_the_end_what_runs_is_answered_and_what_waits_is_told(
    models: GatedModels, answering: Answering, tmp_path: Path
) -> None:
    with gated(models, answering, tmp_path) as (node, ask):
        running = ask("running")
        models.wait_for_burst()
        waiting = ask("waiting")
        wait_for_pending(node, 1)
        node.node.scheduler.stop_taking()
        refused = waiting.result()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert node.post("/v1/completions", body("late")).status_code == 503
        assert not running.done()
    assert running.result().status_code == 200


def test_no_more_completions_run_than_may_but_one_request_whole(models: GatedModels, answering: Answering) -> None:
    scheduler = Scheduler(answering, models, max_queue=8, max_rows=4)
    scheduler.hold(answering.to_hold)
    tickets = [
        scheduler.submit(order_of(answering, text, choices)) for text, choices in (("a", 3), ("b", 1), ("c", 1), ("d", 6))
    ]
    models.open.release(100_000)
    scheduler.start()
    assert [len(ticket.receipt.result(PATIENCE_S).answer.choices) for ticket in tickets] == [3, 1, 1, 6]
    scheduler.close()
    assert models.bursts[0] == (4, 0)
    assert max(begun for begun, _ in models.bursts) == 6


def test_a_request_that_was_taken_back_makes_room(models: GatedModels, answering: Answering) -> None:
    scheduler = Scheduler(answering, models, max_queue=1)
    scheduler.hold(answering.to_hold)
    first = scheduler.submit(order_of(answering, "a"))
    with pytest.raises(QueueFullError):
        scheduler.submit(order_of(answering, "b"))
    scheduler.cancel(first)
    second = scheduler.submit(order_of(answering, "c"))
    scheduler.close()
    with pytest.raises(ShuttingDownError):
        second.receipt.result(0)


def test_a_stream_whose_model_process_is_killed_goes_on_with_the_next_one(answering: Answering, tmp_path: Path) -> None:
    """Real processes: one is killed in the middle of an answer, and the answer is the one that it would have been."""
    asked = body("once upon a time", max_tokens=100, stream=True, n=2)
    processes = ModelProcess(device="cpu")
    with running_node(answering, tmp_path, models=processes) as node:
        whole = text_of_stream(httpx.post(node.url + "/v1/completions", json=asked, timeout=PATIENCE_S).text)
        with httpx.stream("POST", node.url + "/v1/completions", json=asked, timeout=PATIENCE_S) as response:
            lines = response.iter_lines()
            begun = [next(lines) for _ in range(8)]
            first = processes.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            killed = text_of_stream("\n".join([*begun, *lines]))
        assert killed == whole
        assert processes.pid != first
    assert processes.pid is None


def test_who_asks_much_keeps_nobody_else_waiting_for_all_of_it(models: GatedModels, answering: Answering) -> None:
    scheduler = Scheduler(answering, models, max_queue=8, max_rows=2)
    scheduler.hold(answering.to_hold)
    ended: list[str] = []
    for name, client in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("a4", "a"), ("b1", "b"), ("c1", "c"), ("b2", "b")):
        ticket = scheduler.submit(order_of(answering, name), client=client)
        ticket.receipt.add_done_callback(lambda _, name=name: ended.append(name))  # type: ignore[misc]
    models.open.release(100_000)
    scheduler.start()
    until(lambda: len(ended) == 7)
    scheduler.close()
    assert [set(ended[at : at + 2]) for at in (0, 2, 4)] == [{"a1", "b1"}, {"a2", "c1"}, {"a3", "b2"}]


def test_nobody_fills_the_queue_for_the_others(models: GatedModels, answering: Answering) -> None:
    scheduler = Scheduler(answering, models, max_queue=2)
    scheduler.hold(answering.to_hold)
    for name in ("a1", "a2"):
        scheduler.submit(order_of(answering, name), client="a")
    with pytest.raises(QueueFullError):
        scheduler.submit(order_of(answering, "a3"), client="a")
    scheduler.submit(order_of(answering, "b1"), client="b")
    with pytest.raises(QueueFullError):
        scheduler.submit(order_of(answering, "b2"), client="b")
    assert scheduler.pending == 3
    scheduler.close()


class FailingProofs(GatedModels):
    """Of whom the first so many proofs fail."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.proved: list[int] = []  # lengths of prompts

    def prove(self, job: ToProve) -> list[RolloutProof]:
        self.failures -= 1
        self.proved.append(len(job.prompt))
        if self.failures >= 0:
            raise MachineFaultError("no memory is left")
        return super().prove(job)


@pytest.mark.parametrize(("failures", "failed"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_proofs_that_fail_together_fail_by_name_and_nobody_after_them(answering: Answering, failures: int, failed: int) -> None:
    """Both answers are drawn with the same burst, and the second proof is tried on models that the first one ended."""
    models = FailingProofs(failures)
    scheduler = Scheduler(answering, models, max_queue=8)
    scheduler.hold(answering.to_hold)
    tickets = [scheduler.submit(order_of(answering, name)) for name in ("one", "another")]
    models.open.release(100_000)
    scheduler.start()
    errors = [ticket.receipt.exception(PATIENCE_S) for ticket in tickets]
    assert [type(error) for error in errors if error] == [MachineFaultError] * failed
    assert scheduler.submit(order_of(answering, "next")).receipt.result(PATIENCE_S)
    scheduler.close()


def test_an_answer_whose_client_went_before_its_proof_is_not_proved(answering: Answering) -> None:
    models = FailingProofs(0)
    scheduler = Scheduler(answering, models, max_queue=8)
    scheduler.hold(answering.to_hold)
    gone: list[Ticket] = []
    gone.append(scheduler.submit(order_of(answering, "it goes"), lambda: scheduler.cancel(gone[0])))
    stays = scheduler.submit(order_of(answering, "stays"))
    models.open.release(100_000)
    scheduler.start()
    assert stays.receipt.result(PATIENCE_S)
    scheduler.close()
    assert models.proved == [len(stays.order.prompt)]


def test_a_mistake_of_ours_fails_who_is_there_by_name_and_nobody_after_them(
    models: GatedModels, answering: Answering, tmp_path: Path
) -> None:
    def mistaken(seconds: float) -> None:
        node.node.scheduler.first_token = lambda seconds: None
        raise ZeroDivisionError

    models.open.release(100_000)
    with gated(models, answering, tmp_path) as (node, ask):
        node.node.scheduler.first_token = mistaken
        assert ask("unlucky").result().json()["error"]["code"] == "internal_error"
        assert ask("next").result().status_code == 200


def text_of_stream(said: str) -> dict[int, str]:
    texts: dict[int, str] = {}
    for line in said.splitlines():
        if line.startswith("data: {"):
            told = json.loads(line.removeprefix("data: "))
            assert "error" not in told
            for choice in told["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert said.rstrip().endswith("data: [DONE]")
    return texts


class Mortal(GatedModels):
    """Says that it has ended, and cannot be brought back at first."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = True
        self.tended = 0

    def tend(self) -> None:
        self.tended += 1
        if self.refuses:
            raise MachineFaultError("the model process ended")


def test_models_that_end_while_nothing_is_asked_are_brought_back_and_that_is_their_health(
    answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "_TEND_S", 0.01)
    models = Mortal()
    with gated(models, answering, tmp_path) as (node, ask):
        until(lambda: node.get("/health").status_code == 503)
        models.refuses = False
        until(lambda: node.get("/health").status_code == 200)
        models.open.release(1_000)
        assert ask("now").result().status_code == 200
    assert models.tended > 1
