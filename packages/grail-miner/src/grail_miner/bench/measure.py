"""Runs of the pipeline, one batch size after the other, until larger ones bring nothing or time is up."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from grail_core.errors import EngineError, MachineFaultError
from grail_miner.bench.choice import STAGES, Measured, Run, worth_going_on
from grail_miner.bench.subject import Subject
from grail_miner.budget import TimeBudget
from grail_miner.limits import MOST_GROUPS_PER_BATCH
from grail_miner.pipeline.stages import Made, Pipeline, Plan, WindowClock
from grail_miner.pipeline.trace import Trace

RUNS: Final = 3  # of each size: a median and a spread
_BATCHES: Final = 3  # of a run: with fewer nothing is drawn while something is proved
_LEAST_GROUPS: Final = 4  # of a run

Say = Callable[[str], None]


@dataclass
class Bench:
    """What was measured, by growing batch; `ended`: why there is no more."""

    measured: list[Measured] = field(default_factory=list)
    ended: str = ""


def measure(subject: Subject, stop: threading.Event, seconds: float, say: Say, *, most: int = MOST_GROUPS_PER_BATCH) -> Bench:
    """Try 1, 2, 4, … groups at a time.

    Args:
        seconds: for all of it, from now on. Nothing is begun that is not expected to end in time, and what does not end is
            broken off and not counted.
        stop: ends it at once, with what was found. say: progress, a line at a time.

    Raises:
        EngineError, MachineFaultError: not even one group at a time can be made.
    """
    bench, until = Bench(), time.monotonic() + seconds
    number, per_group = 0, 0.0
    say("one group to warm up")
    warm = _run(subject, number, 1, 1, stop, until)
    if warm is None:
        bench.ended = "stopped" if stop.is_set() else f"{seconds:g} s were over before the first group was made"
        return bench
    batch, per_group = 1, 1 / warm.rate
    while batch <= most:
        groups = max(_LEAST_GROUPS, _BATCHES * batch)
        runs: list[Run] = []
        _forget_peak()
        try:
            while len(runs) < RUNS and time.monotonic() + groups * per_group < until:
                number += 1
                run = _run(subject, number, groups, batch, stop, until)
                if run is None:
                    break
                runs.append(run)
                per_group = 1 / run.rate
                say(f"{batch} at a time: {run.rate:.3g} groups/s, {run.tokens_per_s:.4g} tokens/s ({groups} groups)")
        except (EngineError, MachineFaultError) as error:
            if not bench.measured and not runs:
                raise
            bench.ended = f"{batch} groups at a time are too many here: {error.what}"
        if runs:
            bench.measured.append(Measured(batch, tuple(runs), _peak_bytes(), _gpu_bytes()))
        if not bench.ended:
            bench.ended = _why_to_end(bench, runs, batch, most, stop, seconds)
        if bench.ended:
            break
        batch *= 2
    return bench


def _why_to_end(bench: Bench, runs: list[Run], batch: int, most: int, stop: threading.Event, seconds: float) -> str:
    if stop.is_set():
        return "stopped"
    if len(runs) < RUNS:
        return f"{seconds:g} s are over"
    if not worth_going_on(bench.measured):
        return "larger batches bring no more"
    return "no larger batch is taken" if 2 * batch > most else ""


def _run(subject: Subject, number: int, groups: int, batch: int, stop: threading.Event, until: float) -> Run | None:
    """One window's worth of groups through the stages; None where it was broken off."""
    mining, prepared = subject.mining, subject.prepared
    began = time.monotonic()
    clock = WindowClock(lambda: until - time.monotonic(), lambda: round(1000 * (time.monotonic() - began)))
    plan = Plan(number, groups, batch, mining.prover.slots)
    with Pipeline(mining.work(subject.context(number), prepared), plan, _Eager(finish_seconds=0.0), clock) as pipeline:
        made = pipeline.run(stop)
    if stop.is_set() or made.cancelled or made.begun < groups or not made.groups:
        return None
    return _rates(made, pipeline.trace, plan.slots)


class _Eager(TimeBudget):
    """Begins whatever it may: how many groups fit is the question, and not the answer."""

    def groups_that_fit(self, seconds_left: float, at_most: int, in_flight: int = 0) -> int:
        return at_most if seconds_left > 0 else 0

    def too_late_to_draw(self, seconds_left: float, waiting: int) -> bool:
        return seconds_left <= 0


def _rates(made: Made, trace: Trace, slots: int) -> Run:
    count = len(made.groups)
    least = 1e-9  # a stage that takes no time that a clock sees
    stages = {name: count * (slots if name == "prove" else 1) / max(least, trace.seconds(name)) for name in STAGES}
    rollouts = [rollout for group in made.groups for rollout in group.rollouts]
    tokens = sum(len(rollout.tokens) - rollout.prompt_length for rollout in rollouts)
    return Run(count / made.seconds, stages, tokens / made.seconds)


def _forget_peak() -> None:
    """From now on the system's largest resident size is a new one, where it lets us say so."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int | None:
    """Largest resident size of this process since `_forget_peak`; None where the system does not say."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])


def _gpu_bytes() -> tuple[int, ...]:
    """In use on each visible GPU, by whatever process."""
    import torch

    pairs = [torch.cuda.mem_get_info(index) for index in range(torch.cuda.device_count())]
    return tuple(total - free for free, total in pairs)
