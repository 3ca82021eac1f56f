"""Many runs, each in a process of its own, some at a time; one that is done is on disk and is not run again.

A run's file is named by a digest of everything its points follow from besides the code, and is written whole or not at all: a
study that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.disk import write_atomically
from grail_core.errors import ConfigurationError
from grail_core.protocol.encoding import canonical_json
from tooling.studies.learning_curves.curve import Point, Run, curve


@dataclass(frozen=True)
class Finished:
    """A run with its points; `seconds` of wall time, `processor_s` of processor time, the model's making included."""

    run: dict[str, Any]
    points: tuple[Point, ...]
    seconds: float
    processor_s: float

    @property
    def task(self) -> str:
        return str(self.run["task"])

    @property
    def loss(self) -> str:
        return str(self.run["settings"]["update"]["loss"])

    @property
    def is_control(self) -> bool:
        return float(self.run["settings"]["optimiser"]["learning_rate"]) == 0


def file_of(run: Run, folder: Path) -> Path:
    """Where the points of a run are kept."""
    digest = hashlib.sha256(canonical_json(run.to_json())).hexdigest()[:12]
    kind = "control" if run.is_control else run.loss
    return folder / f"{run.task}-{kind}-{run.seed}-{digest}.json"


def run_all(
    runs: Sequence[Run],
    folder: Path,
    *,
    jobs: int,
    cache_dir: Path | None = None,
    told: Callable[[Finished], None] = lambda one: None,
) -> list[Finished]:
    """Every run, in the order given; `told` of each as soon as it is there.

    Raises:
        ConfigurationError: a file in the folder is no run's.
        Exception: what a run failed with; those that were done by then are on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [run for run in runs if not file_of(run, folder).exists()]
    for run in runs:
        if run not in missing:
            told(read(file_of(run, folder)))
    if missing:
        spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(min(jobs, len(missing)), mp_context=spawn, initializer=_alone) as pool:
            waiting = {pool.submit(carry_out, run, folder, cache_dir): run for run in missing}
            try:
                for done in as_completed(waiting):
                    done.result()
                    told(read(file_of(waiting[done], folder)))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [read(file_of(run, folder)) for run in runs]


def carry_out(run: Run, folder: Path, cache_dir: Path | None = None) -> None:
    """One run from its model to its file."""
    start, processor = time.perf_counter(), time.process_time()
    points = [dataclasses.asdict(point) for point in curve(run, cache_dir=cache_dir)]
    value = {
        "run": run.to_json(),
        "points": points,
        "seconds": time.perf_counter() - start,
        "processor_s": time.process_time() - processor,
    }
    write_atomically(file_of(run, folder), json.dumps(value, indent=1).encode())


def read(path: Path) -> Finished:
    """What `carry_out` wrote.

    Raises:
        ConfigurationError: it did not write this.
    """
    try:
        value = json.loads(path.read_bytes())
        points = tuple(Point(**point) for point in value["points"])
        return Finished(value["run"], points, float(value["seconds"]), float(value["processor_s"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"this is not the file of a run: {error!r}", where=str(path), hint="delete it, or choose another folder with --out"
        ) from error


def _alone() -> None:
    """One thread a process: the others have the other processors, and the bits do not depend on how many there are."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
