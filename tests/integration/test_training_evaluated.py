"""Promises of a run that evaluates its checkpoints: real children beside the learning, which they cannot touch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grail_core.protocol.types import Window
from grail_trainer.evaluating.child import LEAST_PRIORITY
from grail_trainer.evaluating.record import FILE
from grail_trainer.evaluation_settings import EvaluationSettings
from grail_trainer.service import TrainerService
from grail_trainer.start import evaluations_of
from tooling.testing.faults import events
from tooling.testing.learning_network import ENVIRONMENT, LearningNetwork, learning_model, service
from tooling.testing.ranks import torchrun
from tooling.testing.small_network import FIRST_WINDOW
from tooling.testing.trainer_in_network import NEVER

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]

WINDOWS = [Window(FIRST_WINDOW + 30 * number) for number in range(2)]
LONG = 1_000_000
"""Held-out problems that no child comes to the end of while a test lasts."""
DEADLINE = 900.0
"""Seconds after which what never comes fails a test and does not hang it."""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LearningNetwork:
    """Two windows, mined and judged; a child finds it by the settings of this process."""
    model = learning_model(tmp_path / "model")
    (tmp_path / "network").mkdir()
    network = LearningNetwork(tmp_path / "network", model=model, environment=ENVIRONMENT, miners=1)
    for window in WINDOWS:
        network.advance_to(window + 1)
        network.mine_and_upload("miner-0", range(2), window)
        network.judge(window)
    (tmp_path / "params.json").write_text(json.dumps(network.params.to_json()))
    values = {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(network.root / "chain.sqlite"),
        "NETUID": str(network.params.netuid),
        "GRAIL_NETWORK": str(tmp_path / "params.json"),
        "GRAIL_STORAGE_ROOT": str(network.root / "buckets"),
        "GRAIL_CACHE_DIR": str(tmp_path / "cache"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return network


def trainer_of(network: LearningNetwork, every: int = 1, problems: int = 8) -> TrainerService:
    trainer = service(network.participant("trainer"), network.root.parent / "model")
    chosen = EvaluationSettings(evaluate_every=every, evaluate_problems=problems, evaluate_samples=2)
    trainer.evaluations = evaluations_of(trainer.participant, chosen)
    return trainer


def lines(trainer: TrainerService) -> list[dict[str, Any]]:
    path = trainer.participant.state.trainer / FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """A zombie that nobody waits for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def child_of(trainer: TrainerService) -> Callable[[], int | None]:
    def pid() -> int | None:
        child = trainer.evaluations._child if trainer.evaluations is not None else None
        return None if child is None else child.pid

    return pid


def test_published_checkpoints_are_evaluated_as_the_command_evaluates_them_and_each_once(network: LearningNetwork) -> None:
    trainer = trainer_of(network, every=2)
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
        assert trainer_of(network, every=2).run(threading.Event(), windows=1) == 1  # nothing is left to do
    assert names.count("checkpoint_evaluated") == 1
    (line,) = lines(trainer)
    first = trainer.publisher.view().stored[0].manifest
    assert (line["checkpoint"], line["sequence"], line["valid_from"]) == (first.digest.hex(), 0, first.valid_from)
    command = ["evaluate", "--checkpoint", str(first.valid_from), "--problems", "8", "--samples", "2", "--json"]
    done = subprocess.run([sys.executable, "-m", "grail_trainer.cli", *command], capture_output=True, check=True)
    assert {name: line[name] for name in json.loads(done.stdout)} == json.loads(done.stdout)

    assert trainer_of(network, every=1).run(threading.Event(), windows=1) == 1  # and now the newest is due
    assert [one["checkpoint"] for one in lines(trainer)] == [
        item.manifest.digest.hex() for item in trainer.publisher.view().stored
    ]


def test_a_child_that_is_killed_is_told_and_the_window_is_learned_from(network: LearningNetwork) -> None:
    trainer = trainer_of(network, every=100, problems=LONG)
    killed: list[int] = []

    def kill() -> None:
        pid = until(child_of(trainer))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    thread.join()
    assert killed
    assert names.count("evaluation_failed") == 1
    assert "window_trained" in names
    assert not lines(trainer)


def test_an_evaluation_that_is_not_done_is_not_started_twice_and_a_stop_ends_it(network: LearningNetwork) -> None:
    trainer, stop = trainer_of(network, problems=LONG), threading.Event()
    pids: list[int] = []

    def ending() -> None:
        pids.append(until(child_of(trainer)))
        until(lambda: "evaluation_skipped" in names)
        stop.set()

    with events() as names:
        thread = threading.Thread(target=ending)
        thread.start()
        trainer.run(stop, windows=1)
        thread.join()
    assert names.count("window_trained") == 1
    assert "evaluation_failed" not in names  # it was ended on purpose
    assert not alive(pids[0])
    assert not lines(trainer)


def test_the_shipped_command_evaluates_also_where_two_ranks_learn(network: LearningNetwork) -> None:
    """One process evaluates, whatever torchrun told the rank that started it."""
    options = ["--model", str(network.root.parent / "model"), "--windows", "1", "--epochs", "1", "--minibatches", "2"]
    evaluated = ["--evaluate-every", "2", "--evaluate-problems", "8", "--evaluate-samples", "2"]
    done = torchrun(2, "-m", "tooling.testing.trainer_in_network", str(network.root), NEVER, *options, *evaluated)
    assert done.returncode == 0, done.stderr
    (line,) = lines(trainer_of(network))
    assert (line["sequence"], line["problems"], line["samples"]) == (0, 8, 2)


def test_a_child_does_not_outlive_a_trainer_that_is_killed(network: LearningNetwork, tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\n"
        "from grail_trainer.evaluating.child import EvaluationChild\n"
        "from grail_trainer.evaluation_settings import EvaluationSettings\n"
        f"child = EvaluationChild('head', EvaluationSettings(evaluate_problems={LONG}), pathlib.Path('samples'))\n"
        "while not os.path.exists('samples/sat.jsonl'): assert child._process.poll() is None\n"
        "print(child.pid, os.getpriority(os.PRIO_PROCESS, child.pid), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, priority = map(int, done.stdout.split())
    assert priority == LEAST_PRIORITY
    until(lambda: not alive(pid))


def test_settings_that_no_child_can_read_are_told_with_what_it_said(
    network: LearningNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(network)
    monkeypatch.setenv("GRAIL_NETWORK", str(network.root / "nothing.json"))
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    assert "evaluation_failed" in names
    assert "checkpoint_evaluated" not in names
