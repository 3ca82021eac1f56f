"""`localnet`: the whole subnet on this machine, with blocks that follow the work.

    hatch run bench localnet          a table; a few minutes
    hatch run bench localnet --json   one flat object

`localnet.window_s` is the mean of six windows of one miner, one validator and one trainer on the tiny model that localnet
makes: each window 64 rollouts are mined and proved, judged, every one of them examined again by the trainer and trained on,
the delta published, and applied by all. `localnet.run_s` is the default size with six windows (four miners, two validators,
1,024 rollouts a window), from the model to the report, seven evaluations of 2,048 problems among it; `localnet.model_s` is
what making the model took before, or finding it in the cache. Beside each time stands the processor time of all its
processes, which other work on the machine disturbs less.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tooling import REPOSITORY
from tooling.localnet.plan import Layout, Plan
from tooling.localnet.processes import init_command, init_environment

Figures = dict[str, float]
WINDOWS = 6
ONE_OF_EACH = ("--miners", "1", "--cheat", "none", "--validators", "1", "--groups", "4", "--evaluation-problems", "64")
PLAN = Plan(WINDOWS, "sat", 81, False, 3, ("zero-sketch",), 2, 1500)


@dataclasses.dataclass(frozen=True)
class Ran:
    summary: dict[str, Any]
    seconds: float  # of real time
    processor_seconds: float  # of all its processes


def measure() -> Figures:
    """Every figure of the benchmark, by its key. Errors: RuntimeError for a run that did not keep its promises."""
    with tempfile.TemporaryDirectory(prefix="grail-bench-") as folder:
        root = Path(folder)
        started = time.perf_counter()
        subprocess.run(init_command(PLAN, Layout(root)), env=init_environment(PLAN), check=True, stdout=sys.stderr)
        model_s = time.perf_counter() - started
        small = _run(root / "small", root / "model", *ONE_OF_EACH)
        whole = _run(root / "whole", root / "model")
    mined, counted = small.summary["rollouts_announced"], small.summary["rollouts_verified_fraction"]
    if mined != 64 * WINDOWS or counted != 1.0:
        raise RuntimeError(f"{mined} rollouts were mined, {counted} of them in files that passed every check")
    if not whole.summary["validators_agree"]:
        raise RuntimeError("the validators of the default run do not agree")
    return {
        "localnet.window_s": small.summary["seconds_per_window"],
        "localnet.window_processor_s": small.processor_seconds / WINDOWS,  # starts and two evaluations among it
        "localnet.run_s": whole.seconds,
        "localnet.run_processor_s": whole.processor_seconds,
        "localnet.run_window_s": whole.summary["seconds_per_window"],
        "localnet.run_gain_sigmas": whole.summary["eval_gain_sigmas"],
        "localnet.model_s": model_s,
        "localnet.load_average": os.getloadavg()[0],
    }


def _run(out: Path, model: Path, *options: str) -> Ran:
    command = [sys.executable, "-m", "tooling.localnet", "--json", "--windows", str(WINDOWS)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(
        [*command, "--model", str(model), "--out", str(out), *options], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
    )
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(json.loads(ended.stdout), seconds, used)
