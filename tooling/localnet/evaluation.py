"""Held-out evaluation of checkpoints by the trainer's own command, several at a time, each in its own process.

A result is kept in the folder of the run, so that a resumed run evaluates nothing twice. Problems and sampling seeds are the
trainer's, fixed for the whole run.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.disk import write_atomically
from grail_core.errors import GrailError
from tooling.localnet.report.facts import EvaluationFact
from tooling.localnet.supervisor import last_lines


@dataclass(frozen=True)
class EvaluationTask:
    """One checkpoint to evaluate. `argv` prints one JSON object on its standard output."""

    label: str
    valid_from: int | None
    window_index: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: Path  # for results and logs

    @property
    def result(self) -> Path:
        return self.folder / f"{self.label}.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.label}.log"


class EvaluationFailedError(GrailError):
    """An evaluation process ended with an error."""


def run_evaluations(
    tasks: Sequence[EvaluationTask], *, on_result: Callable[[EvaluationFact], None], pause: Callable[[], None]
) -> list[EvaluationFact]:
    """Evaluate, as many at a time as there are processors.

    Args:
        on_result: called with each result as it comes in.
        pause: called while waiting; raises to give up, in which case the processes are ended.

    Raises:
        EvaluationFailedError: with the last lines of the process that failed.
    """
    waiting, facts = list(tasks), []
    running: list[tuple[EvaluationTask, subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < max(1, os.cpu_count() or 1):
                task = waiting.pop(0)
                known = _read(task)
                if known is not None:
                    facts.append(known)
                    on_result(known)
                    continue
                running.append((task, _start(task)))
            for task, process in _ended(running):
                running.remove((task, process))
                fact = _finish(task, process)
                facts.append(fact)
                on_result(fact)
            if running:
                pause()
                time.sleep(0.1)
    finally:
        for _, process in running:
            process.kill()
            process.wait()
    return sorted(facts, key=lambda fact: fact.window_index)


def _start(task: EvaluationTask) -> subprocess.Popen[bytes]:
    task.folder.mkdir(parents=True, exist_ok=True)
    with task.log.open("wb") as log, (task.folder / f"{task.label}.out").open("wb") as out:
        return subprocess.Popen(
            task.argv,
            env=dict(task.env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            cwd=task.folder,
            start_new_session=True,
        )


def _ended(
    running: Sequence[tuple[EvaluationTask, subprocess.Popen[bytes]]],
) -> Iterator[tuple[EvaluationTask, subprocess.Popen[bytes]]]:
    return iter([(task, process) for task, process in running if process.poll() is not None])


def _finish(task: EvaluationTask, process: subprocess.Popen[bytes]) -> EvaluationFact:
    output = (task.folder / f"{task.label}.out").read_bytes()
    if process.returncode == 0:
        try:
            value = json.loads(output)
            fact = _fact(task, value)
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationFailedError(
                f"the evaluation printed no usable result: {error!r}", where=str(task.folder / f"{task.label}.out")
            ) from error
        write_atomically(task.result, json.dumps(value, indent=1).encode())
        return fact
    lines = "\n    ".join(last_lines(task.log, 6))
    raise EvaluationFailedError(
        f"the evaluation of checkpoint {task.label} ended with exit code {process.returncode}:\n    {lines}",
        where=str(task.log),
    )


def _read(task: EvaluationTask) -> EvaluationFact | None:
    try:
        return _fact(task, json.loads(task.result.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fact(task: EvaluationTask, value: dict[str, Any]) -> EvaluationFact:
    return EvaluationFact(
        label=task.label,
        valid_from=task.valid_from,
        window_index=task.window_index,
        problems=int(value["problems"]),
        success=float(value["success"]),
        success_error=float(value["success_error"]),
        well_formed=float(value["well_formed"]),
        well_formed_error=float(value["well_formed_error"]),
        constant=float(value["constant"]),
    )
