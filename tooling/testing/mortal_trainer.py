"""A trainer killed at a chosen line of its code or kill point, and started again until its windows are learned from.

`mortal_trainer` starts one process that makes a small network whose windows are mined and judged, and then forks a trainer's
process as often as it is asked to: the shipped service over a copy of that network, from no state at all to the checkpoint of
its last window. Each window is several optimiser steps, so that a kill falls between two of them too.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import grail_core
import grail_trainer
from grail_core.chain.development.local import LocalChain
from grail_core.protocol.types import Window
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from tooling.testing.kill_points import KillPoints
from tooling.testing.learning_network import LearningNetwork, learning_model, service
from tooling.testing.mortal_process import MortalProcess, forking
from tooling.testing.small_network import FIRST_WINDOW

WINDOWS = tuple(Window(FIRST_WINDOW + 30 * index) for index in range(4))
STEPS_OF_A_WINDOW = 10
_EPOCHS, _MINIBATCHES = 5, 2
_MET = "met.json"
_CORE, _TRAINER = (str(Path(str(package.__file__)).parent) for package in (grail_core, grail_trainer))
_COUNTED = (f"{_TRAINER}/", f"{_CORE}/checkpoints/", f"{_CORE}/disk.py", f"{_CORE}/state_file.py", f"{_CORE}/storage/")

_KINDS: Mapping[str, Mapping[str, Any]] = {
    "float32": {},
    "bfloat16-stochastic": {"master_dtype": "bfloat16-stochastic"},
    "adapters": {"lora_rank": 2},
}
KINDS = tuple(_KINDS)
"""What is trained."""


def settings_of(kind: str) -> HyperParameters:
    return HyperParameters(
        GrpoSettings(epochs=_EPOCHS, minibatches=_MINIBATCHES, kl_coefficient=0.01),
        OptimiserSettings(
            learning_rate=1e-3, warmup_steps=5, schedule="cosine", schedule_steps=40, weight_decay=0.01, **_KINDS[kind]
        ),
    )


class DeadlyLine:
    """Counts the lines of this project's trainer, checkpoints, stores and disk that run, and SIGKILLs at one of them.

    Args:
        kill_at: from 0; None: at none.
    """

    def __init__(self, kill_at: int | None) -> None:
        self.count, self._kill_at = 0, kill_at
        self._counted: dict[CodeType, bool] = {}

    def install(self) -> None:
        threading.settrace(self._call)
        sys.settrace(self._call)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        counted = self._counted.get(code)
        if counted is None:
            counted = self._counted[code] = code.co_filename.startswith(_COUNTED)
        return self._line if counted else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            if self.count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1
        return self._line


# --- the process that forks -------------------------------------------------------------------------------------------


def _network(root: Path) -> LearningNetwork:
    network = LearningNetwork(root, model=learning_model(root / "tiny"), miners=1)
    for window in WINDOWS:
        network.advance_to(window + 1)
        network.mine_and_upload("miner-0", window=window)
        network.judge(window)
    return network


def _in(network: LearningNetwork, root: Path) -> LearningNetwork:
    """The same network in a copy of its folder."""
    other = copy.copy(network)
    other.root, other.chain = root, LocalChain.open(root / "chain.sqlite")
    return other


def _live(network: LearningNetwork, kind: str) -> None:
    """One life: from wherever a former one has left it to the last window's checkpoint."""
    trainer = service(network.participant("trainer"), network.root / "tiny", settings_of(kind))
    learned = trainer.run(threading.Event(), windows=len(WINDOWS))
    if learned != len(WINDOWS):
        raise AssertionError(f"{learned} windows were learned from, not {len(WINDOWS)}")


def _fork(network: LearningNetwork, root: Path, kind: str, kill_line: int | None, kill_point: int | None) -> int:
    child = os.fork()
    if child == 0:
        try:
            lines, points = DeadlyLine(kill_line), KillPoints(kill_point)
            mine = _in(network, root)
            points.install()
            lines.install()
            _live(mine, kind)
            sys.settrace(None)
            (root / _MET).write_text(json.dumps({"lines": lines.count, "points": len(points.names)}))
        except BaseException:  # noqa: BLE001 - whatever it is, this is the end of the child and it must be seen
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status


def main() -> None:
    """Line by line: a folder with a copy of the network, what is trained, where to kill; the answer is the status it had."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    network = _network(Path(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(_fork(network, Path(asked["root"]), asked["kind"], asked["line"], asked["point"]), flush=True)


# --- who asks for it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """What a trainer has left behind once its windows are learned. Equal where nothing was lost, doubled or forgotten.

    Attributes:
        states: name → bytes of every file with tensors in its folder: masters, moments, what adapters stand beside.
        journal: all that it says. bucket: key → bytes, or what a signed object says: checkpoints and training logs.
    """

    states: Mapping[str, bytes]
    journal: Mapping[str, Any]
    bucket: Mapping[str, object]


class MortalTrainer(MortalProcess):
    """Lives of a trainer."""

    def live(self, root: Path, kind: str, *, kill_line: int | None = None, kill_point: int | None = None) -> bool:
        """One process; True if it was killed, False if it came to its end. What raises in it is an AssertionError."""
        return self._killed(root=str(root), kind=kind, line=kill_line, point=kill_point)

    @staticmethod
    def met(root: Path) -> tuple[int, int]:
        """Lines and kill points of the last life in this folder, if it came to its end."""
        met = json.loads((root / _MET).read_text())
        return int(met["lines"]), int(met["points"])

    @staticmethod
    def left(root: Path) -> Left:
        bucket = root / "buckets" / "bucket-trainer"
        (journal,) = (root / "state" / "trainer").rglob("journal.json")
        return Left(
            states={path.name: path.read_bytes() for path in journal.parent.glob("*.safetensors")},
            journal=json.loads(journal.read_bytes()),
            bucket={
                str(path.relative_to(bucket)): _unsigned(path.read_bytes()) for path in bucket.rglob("*") if path.is_file()
            },
        )


def _unsigned(raw: bytes) -> object:
    """What is said, where a signature, which is random, says it."""
    try:
        value = json.loads(raw)
    except ValueError:
        return raw
    return {name: said for name, said in value.items() if name != "signature"} if isinstance(value, dict) else raw


@contextmanager
def mortal_trainer(root: Path) -> Iterator[MortalTrainer]:
    with forking("tooling.testing.mortal_trainer", root, MortalTrainer) as handle:
        yield handle


if __name__ == "__main__":
    main()
