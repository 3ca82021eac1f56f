"""Promises of `grail-trainer run` under torchrun: one trainer, whose other ranks nobody outside ever sees."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.protocol.types import Window
from grail_trainer.learning.sharded_state import INDEX, read_whole
from grail_trainer.learning.training_state import MASTER
from tooling import REPOSITORY
from tooling.testing.learning_network import ENVIRONMENT, LearningNetwork, learning_model, published_log
from tooling.testing.ranks import launcher
from tooling.testing.small_network import FIRST_WINDOW
from tooling.testing.trainer_in_network import NEVER

pytestmark = pytest.mark.heavy

WINDOWS = (FIRST_WINDOW, Window(FIRST_WINDOW + 30))
OPTIONS = ("--epochs", "2", "--learning-rate", "0.001", "--kl-coefficient", "0.02", "--tokens-per-pass", "512")
"""Several passes a step, so that each rank has some of its own."""


@dataclass(frozen=True)
class Prepared:
    """A network whose windows are mined and judged, and nobody has learned from."""

    root: Path
    model: Path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("ranks")
    model = learning_model(folder / "sat")
    (folder / "network").mkdir()
    network = LearningNetwork(folder / "network", environment=ENVIRONMENT, model=model)
    for window in WINDOWS:
        network.advance_to(window + 1)
        network.mine_and_upload("miner-0", window=window)
        network.judge(window)
    return Prepared(folder / "network", model)


@dataclass(frozen=True)
class Run:
    """One trainer's network."""

    root: Path
    model: Path

    def train(self, ranks: int, *options: str, killed_at: str = NEVER) -> subprocess.CompletedProcess[str]:
        """`grail-trainer run` until both windows are learned from."""
        program = [] if ranks > 1 else [sys.executable]
        program = [*(launcher(ranks) if ranks > 1 else program), "-m", "tooling.testing.trainer_in_network"]
        return subprocess.run(
            [*program, str(self.root), killed_at, "--model", str(self.model), "--windows", "2", *OPTIONS, *options],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    @property
    def network(self) -> LearningNetwork:
        return LearningNetwork.reopened(self.root, environment=ENVIRONMENT)

    def published(self) -> dict[str, Tensor]:
        """Weights of the newest checkpoint, as any reader gets them."""
        participant = self.network.participant("miner-1")
        head = self.network.participant("trainer").own_checkpoints.sequence().head
        assert head is not None
        assert head.window == WINDOWS[-1]
        return dict(LiveCheckpoint(participant.checkpoints).at(head).model.state())

    def log(self, window: Window = WINDOWS[-1]) -> dict[str, Any]:
        return published_log(self.network.participant("trainer"), window)

    def masters(self) -> dict[str, Tensor]:
        """float32, from the one state that is kept, whoever wrote it."""
        (state,) = self.states()
        return {name: tensor for name, tensor in read_whole(state).items() if name.startswith(MASTER)}

    def states(self) -> list[Path]:
        return sorted(self.network.participant("trainer").state.trainer.glob("*state-*"))


def copy_of(prepared: Prepared, folder: Path) -> Run:
    shutil.copytree(prepared.root, folder)
    return Run(folder, prepared.model)


@pytest.fixture(scope="module")
def alone(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = copy_of(prepared, tmp_path_factory.mktemp("alone") / "network")
    ended = run.train(1)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return run


def assert_learned_the_same(run: Run, alone: Run) -> None:
    """Masters to 1e-5. What is published is bfloat16: where masters differ at all, a weight may be rounded the other way."""
    masters, wanted = (one.masters() for one in (run, alone))
    assert masters.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(masters[name], tensor, atol=1e-5, rtol=0)
    expected, found = alone.published(), run.published()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].float(), tensor.float(), atol=1e-5, rtol=2**-7)
    others = sum(int((found[name] != tensor).sum()) for name, tensor in expected.items())
    assert others < 0.01 * sum(tensor.numel() for tensor in expected.values())
    ours, theirs = run.log(), alone.log()
    assert ours["groups"] == theirs["groups"]
    for name in ("loss", "gradient_norm", "entropy", "kl_behaviour", "kl_reference"):
        assert float(ours["statistics"][name]) == pytest.approx(float(theirs["statistics"][name]), abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("options", [(), ("--tensor-parallel", "2")], ids=["sharded", "tensor parallel"])
def test_two_ranks_publish_what_one_process_publishes(
    prepared: Prepared, alone: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    run = copy_of(prepared, tmp_path / "network")
    ended = run.train(2, *options)
    assert ended.returncode == 0, ended.stderr[-6000:]
    assert_learned_the_same(run, alone)
    assert [one.log()["machine"]["world_size"] for one in (run, alone)] == [2, 1]
    (state,) = run.states()
    assert (state / INDEX).is_file()
    assert ended.stderr.count("trainer_started") == 1


@pytest.mark.parametrize("step", ["learn", "save"])
def test_a_rank_that_dies_ends_the_others_and_the_window_is_learned_from_anew(
    prepared: Prepared, alone: Run, tmp_path: Path, step: str
) -> None:
    run = copy_of(prepared, tmp_path / "network")
    ended = run.train(2, killed_at=step)
    assert ended.returncode != 0
    assert run.network.participant("trainer").own_checkpoints.sequence().head.window == WINDOWS[0]  # type: ignore[union-attr]
    again = run.train(2)
    assert again.returncode == 0, again.stderr[-6000:]
    assert_learned_the_same(run, alone)
    assert len(run.states()) == 1


def test_a_run_goes_on_with_another_number_of_ranks(prepared: Prepared, alone: Run, tmp_path: Path) -> None:
    run = copy_of(prepared, tmp_path / "network")
    assert run.train(2, killed_at="learn").returncode != 0
    ended = run.train(1)
    assert ended.returncode == 0, ended.stderr[-6000:]
    assert_learned_the_same(run, alone)
    (state,) = run.states()
    assert state.is_file()
