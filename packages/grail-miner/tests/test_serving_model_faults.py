"""A node whose model process comes to harm: what runs is tried again or fails by name, and the next request is served."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from grail_core.errors import MachineFaultError
from grail_miner.serving.answering import Answering
from grail_miner.serving.model_process import ModelProcess
from tooling.testing.mortal_models import mortal_command
from tooling.testing.serving_node import MODEL, RunningNode, answering_of, running_node, save_served_model

pytestmark = pytest.mark.heavy  # each child imports torch

ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 100, "seed": 1}
QUESTIONS: tuple[dict[str, Any], ...] = (
    {**ASKED, "stream": True},
    {**ASKED, "n": 3, "seed": 2},
    {**ASKED, "prompt": "Another", "seed": 3},
)


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Answering:
    return answering_of(save_served_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def undisturbed(answering: Answering, tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, str]]:
    with running_node(answering, tmp_path_factory.mktemp("state")) as node:
        return [texts_of(node.post("/v1/completions", asked)) for asked in QUESTIONS]


def texts_of(answer: httpx.Response) -> dict[int, str]:
    """Of an answer with its receipt, streamed or not."""
    assert answer.status_code == 200, answer.text
    assert answer.text.count('"answer_digest"') == 1, answer.text
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    texts: dict[int, str] = {}
    for told in [json.loads(line) for line in lines] if streamed else [answer.json()]:
        for choice in told["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


@contextmanager
def mortal_node(answering: Answering, tmp_path: Path, *fates: str) -> Iterator[tuple[RunningNode, ModelProcess]]:
    """Whose first child has the first fate, and so on; those after the last live."""
    written = tmp_path / "fates"
    written.write_text("\n".join([*fates, ""]))
    processes = ModelProcess(device="cpu", command=mortal_command(written))
    with running_node(answering, tmp_path / "state", models=processes) as node:
        yield node, processes
        assert written.read_text() == ""  # every one of them was met


@pytest.mark.parametrize(
    "fates",
    [
        ("draw",),
        ("draw", "draw"),
        ("draw", "start"),
        ("prove",),
        ("memory",),
        ("nonsense", "memory"),
    ],
)
def test_answers_are_those_of_a_process_that_nothing_happened_to(
    answering: Answering, undisturbed: list[dict[int, str]], tmp_path: Path, fates: tuple[str, ...]
) -> None:
    with mortal_node(answering, tmp_path, *fates) as (node, _), ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda asked: node.post("/v1/completions", asked), QUESTIONS))
        assert [texts_of(answer) for answer in answers] == undisturbed


@pytest.mark.parametrize("fates", [("draw", "draw"), ("memory", "memory"), ("prove", "prove"), ("draw", "load")])
@pytest.mark.parametrize("stream", [False, True])
def test_what_ends_the_process_twice_fails_by_name_and_the_next_is_served(
    answering: Answering, tmp_path: Path, fates: tuple[str, ...], stream: bool
) -> None:
    with mortal_node(answering, tmp_path, *fates) as (node, _):
        failed = node.post("/v1/completions", {**ASKED, "stream": stream})
        assert failed.status_code == (200 if stream else 503)
        assert '"machine_fault"' in failed.text
        assert "[DONE]" not in failed.text
        assert node.post("/v1/completions", ASKED).status_code == 200


def test_three_deaths_in_a_row_fail_at_most_by_name_and_hang_nobody(answering: Answering, tmp_path: Path) -> None:
    with mortal_node(answering, tmp_path, "draw", "start", "load") as (node, _), ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda asked: node.post("/v1/completions", asked), QUESTIONS))
        failed = [answer for answer in answers if "answer_digest" not in answer.text]
        assert len(failed) <= 1
        assert all('"machine_fault"' in answer.text for answer in failed)
        assert node.post("/v1/completions", ASKED).status_code == 200


def test_a_child_killed_while_nothing_runs_is_replaced_with_the_next_request(answering: Answering, tmp_path: Path) -> None:
    with mortal_node(answering, tmp_path) as (node, processes):
        for _ in range(2):
            before = processes.pid
            assert before is not None
            os.kill(before, signal.SIGKILL)
            assert node.post("/v1/completions", {**ASKED, "max_tokens": 2}).status_code == 200
            assert processes.pid not in (None, before)


@pytest.mark.parametrize("fate", ["start", "load"])
def test_a_child_that_dies_in_its_start_is_told_and_the_next_one_is_another(
    answering: Answering, tmp_path: Path, fate: str
) -> None:
    written = tmp_path / "fates"
    written.write_text(f"{fate}\n")
    processes = ModelProcess(device="cpu", command=mortal_command(written))
    (wanted,) = answering.to_hold
    with pytest.raises(MachineFaultError, match="signal 9"):
        processes.hold(wanted)
    assert processes.pid is None
    assert processes.hold(wanted).proof_class
    processes.close()
