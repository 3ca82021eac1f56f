"""`sandbox`: one judged Python answer, fully isolated, beside a fresh interpreter and a warm fork without isolation.

    hatch run bench sandbox          a table
    hatch run bench sandbox --json   one flat object

`sandbox.ms` is the median of answers judged one after the other, `sandbox.per_s` the rate with as many callers as processors
plus one, both of the best of several windows, so that what else runs on the machine shows less; `_worst` is the worst one. The
load is in the figures too: on a busy machine the ratios to the two plain ways count.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from grail_envs.sandbox import GraderPool, Job

Figures = dict[str, float]
JOB = Job(
    code="def add_all(numbers):\n    return sum(numbers)\n",
    tests=("assert add_all([1, 2]) == 3", "assert add_all([]) == 0", "assert add_all([-1]) == -1"),
    remote=("add_all",),
)
WINDOWS = 6
REPEATS = 100


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    figures: Figures = {}
    pool = GraderPool("strict")
    _median_ms(lambda: pool.grade(JOB).passed, 20)
    callers = (os.cpu_count() or 1) + 1
    medians, rates = [], []
    for _ in range(WINDOWS):
        medians.append(_median_ms(lambda: pool.grade(JOB).passed, REPEATS))
        with ThreadPoolExecutor(callers) as executor:
            started = time.perf_counter()
            passed = sum(executor.map(lambda _: pool.grade(JOB).passed, range(2 * REPEATS)))
            rates.append(passed / (time.perf_counter() - started))
    figures["sandbox.ms"], figures["sandbox.ms_worst"] = min(medians), max(medians)
    figures["sandbox.per_s"], figures["sandbox.per_s_worst"] = max(rates), min(rates)
    pool.close()
    script = JOB.code + "\n".join(JOB.tests)
    fresh = [sys.executable, "-I", "-S", "-c", script]
    figures["sandbox.fresh_interpreter_ms"] = _median_ms(lambda: subprocess.run(fresh, check=True).returncode == 0, 40)
    figures["sandbox.plain_fork_ms"] = _median_ms(lambda: _forked(script), 100)
    figures["sandbox.load_average"] = os.getloadavg()[0]
    return figures


def _median_ms(action: Callable[[], bool], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        if not action():
            raise RuntimeError("a judged answer did not pass")
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _forked(script: str) -> bool:
    """The same in a bare fork of a small process, without any isolation (for comparison only)."""
    pid = os.fork()
    if pid == 0:
        try:
            exec(compile(script, "<answer>", "exec"), {})
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] == 0
