"""A node whose tokens an engine draws: over the doubles' real HTTP, proved by the real model, with receipts that hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from click.testing import CliRunner

from grail_core.checkpoints.served_model import read_served_folder
from grail_core.commands.grail import cli as grail
from grail_core.errors import EngineError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.engine_folder import EngineFolders
from grail_core.generation.options import EngineOptions
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.serving import scheduler
from grail_miner.serving.answering import Answering
from grail_miner.serving.engine_models import GONE_ON, EngineModels
from grail_miner.serving.models import Drawn, HfModels, NewRow, RowId
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import Fault
from tooling.testing.keys import ALICE
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.serving_node import MODEL, NETWORK, RunningNode, running_node, save_served_model, until

Flavour = Literal["sglang", "vllm"]
DRAWN_IN = "bf16-sdpa-cpu-vllm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def double(folder: Path) -> Iterator[EngineDouble]:
    with EngineDouble.of("vllm", folder, dtype="bfloat16") as made:
        yield made


def engine_models(flavour: Flavour, url: str, folders: Path, *, burst_seconds: float = 0.01) -> EngineModels:
    kind = SglangGenerator if flavour == "sglang" else VllmGenerator
    generator = kind(url, EngineOptions(flavour, url=url, max_concurrent=4), numerics_class=DRAWN_IN, retry_s=0.0)
    return EngineModels(generator, HfModels(), EngineFolders(folders), burst_seconds=burst_seconds)


Ask = Callable[..., Future[httpx.Response]]


@dataclass(frozen=True)
class Behind:
    """A node with an engine behind it, and a function that asks it in the background."""

    node: RunningNode
    ask: Ask


@contextmanager
def node_behind(double: EngineDouble, folder: Path, state: Path, flavour: Flavour = "vllm") -> Iterator[Behind]:
    models = engine_models(flavour, double.url, state / "engine")
    answering = Answering(read_served_folder(folder), NETWORK, ALICE, name=MODEL, require_drawable=models.require_drawable)
    with ThreadPoolExecutor(8) as pool, running_node(answering, state, models=models) as node:

        def ask(prompt: str, **more: Any) -> Future[httpx.Response]:
            return pool.submit(node.post, "/v1/completions", body(prompt, **more))

        try:
            yield Behind(node, ask)
        finally:
            double.faults.clear()
            double.engine.run_freely()
            double.engine.release()


def body(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": 3, "seed": 1, **more}


def told(answer: Future[httpx.Response]) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.result().status_code, answer.result().json()["error"]["code"]


@pytest.mark.parametrize("flavour", ["sglang", "vllm"])
def test_what_an_engine_draws_is_proved_and_its_receipt_accepted(flavour: Flavour, folder: Path, tmp_path: Path) -> None:
    with (
        EngineDouble.of(flavour, folder, dtype="bfloat16") as double,
        node_behind(double, folder, tmp_path, flavour) as behind,
    ):
        about = behind.node.get("/info").json()["grail"]
        assert (about["proof_class"], about["generation_class"]) == ("bf16-sdpa-cpu-transformers", DRAWN_IN)
        asked = ["ask", "Once upon a time", "--complete", "--node", behind.node.url, "--model", str(folder), "--json"]
        kept = tmp_path / "receipt.json"
        more = ["--choices", "2", "--max-tokens", "16", "--stop", "e", "--receipt", str(kept)]
        result = CliRunner().invoke(grail, [*asked, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout)
        assert said["receipt"]["outcome"] == "accept"
        assert json.loads(kept.read_bytes())["answer"]["generation_class"] == DRAWN_IN
        assert len(double.engine.finished) == 2


def test_requests_join_what_the_engine_is_drawing(double: EngineDouble, folder: Path, tmp_path: Path) -> None:
    with node_behind(double, folder, tmp_path) as behind:
        double.engine.hold()
        long = behind.ask("a long one", max_tokens=40)
        double.engine.until(lambda: len(double.engine.waiting) == 1)
        double.engine.allow(2)
        double.engine.until(lambda: double.engine.steps == 2)
        short = behind.ask("short")
        double.engine.until(lambda: len(double.engine.waiting) == 1)
        double.engine.allow(3)
        assert short.result().status_code == 200
        assert not long.done()
        double.engine.run_freely()
        assert long.result().json()["usage"]["completion_tokens"] == 40


def test_a_client_that_vanishes_frees_the_engine(double: EngineDouble, folder: Path, tmp_path: Path) -> None:
    with node_behind(double, folder, tmp_path) as behind:
        double.faults.add(Fault("stall", times=2, tokens=1))
        with behind.node.connection() as connected:
            connected.sendall(behind.node.request_bytes("/v1/completions", body("vanishes", n=2)))
            double.engine.until(lambda: len(double.engine.running) == 2)
        double.engine.until(lambda: not double.engine.busy())
        assert {request.finish for request in double.engine.finished} == {"abort"}
        until(lambda: behind.node.node.scheduler.running == 0)
        assert behind.ask("next").result().status_code == 200


def test_a_request_that_the_engine_cannot_draw_is_refused_at_once_and_by_name(
    double: EngineDouble, folder: Path, tmp_path: Path
) -> None:
    with node_behind(double, folder, tmp_path) as behind:
        before = len(double.server.asked)
        refused = behind.ask("again and again", repetition_penalty=1.1)
        assert told(refused) == (400, "engine_cannot_draw")
        assert refused.result().json()["error"]["param"] == "repetition_penalty"
        assert "repetition penalty of 1.1" in refused.result().json()["error"]["message"]
        assert len(double.server.asked) == before


def test_a_row_that_is_lost_fails_its_own_request_alone(double: EngineDouble, folder: Path, tmp_path: Path) -> None:
    with node_behind(double, folder, tmp_path) as behind:
        double.faults.add(Fault("slow_first_token", times=1), Fault("error_500", times=4))
        other = behind.ask("another")
        double.engine.until(lambda: len(double.engine.waiting) == 1)
        lost = behind.ask("lost")
        assert told(lost) == (503, "row_failed")
        assert "retry-after" in lost.result().headers
        assert not other.done()
        double.engine.release()
        assert other.result().status_code == 200


def test_an_engine_that_names_other_weights_is_loaded_again_and_no_answer_is_made_of_them(
    double: EngineDouble, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_PAUSE_S", 0.0)
    with node_behind(double, folder, tmp_path) as behind:
        want = behind.ask("once").result().json()["choices"]
        double.faults.add(Fault("wrong_version", value="f" * 64))
        assert behind.ask("once").result().json()["choices"] == want
        double.faults.clear()
        double.faults.add(Fault("wrong_version", value="f" * 64, times=-1))
        assert told(behind.ask("once")) == (503, "engine_failed")
        double.faults.clear()
        assert behind.ask("once").result().json()["choices"] == want


def test_a_node_goes_on_with_the_engine_that_comes_after_one_that_died(
    double: EngineDouble, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_PAUSE_S", 0.0)
    with node_behind(double, folder, tmp_path) as behind:
        want = behind.ask("once").result().json()["choices"]
        double.faults.add(Fault("dies_in_generation", tokens=2))
        running = behind.ask("once")
        assert told(running) == (503, "row_failed")
        assert told(behind.ask("once"))[0] == 503
        port = double.url.rpartition(":")[2]
        with EngineDouble.of("vllm", folder, "--port", port, dtype="bfloat16") as again:
            assert again.url == double.url
            assert behind.ask("once").result().json()["choices"] == want


def test_the_engine_goes_on_to_the_next_model_once_nothing_of_the_last_runs_and_never_back(
    double: EngineDouble, folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(folder, tmp_path / "next")
    save_byte_model(tmp_path / "weights", seed=9)
    shutil.copy(tmp_path / "weights" / "model.safetensors", other / "model.safetensors")
    models = engine_models("vllm", double.url, tmp_path / "engine", burst_seconds=0.2)
    first, second = (Answering(read_served_folder(one), NETWORK, ALICE).to_hold[0] for one in (folder, other))
    assert models.hold(first).generation_class == DRAWN_IN
    models.hold(second)
    assert double.engine.label == first.container_id.hex()

    def row(number: int, container_id: bytes) -> NewRow:
        return NewRow(RowId(number), container_id, GenerationRequest((20, 21), 5, GenerationPolicy(4)))

    double.engine.hold(2)
    assert models.advance([row(0, first.container_id), row(1, second.container_id)], []) == []
    assert models.advance([row(2, first.container_id)], []) == []  # behind one of the next model
    assert len(double.engine.running) == 1
    double.engine.run_freely()
    drawn: dict[int, Drawn] = {}
    while len(drawn) < 3:
        drawn |= {one.id: one for one in models.advance([], [])}
    assert double.engine.label == second.container_id.hex()
    assert drawn[0].tokens != drawn[1].tokens
    assert [drawn[number].failed for number in range(3)] == [None, None, GONE_ON]
    models.release(first.container_id)
    assert [path.name[:16] for path in (tmp_path / "engine").iterdir() if path.is_dir() and not path.is_symlink()] == [
        second.container_id.hex()[:16]
    ]
    models.close()
    models.close()
    with pytest.raises(EngineError):
        models.advance([row(3, second.container_id)], [])
