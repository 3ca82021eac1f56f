"""The command around `measure`: what is measured is said first; progress goes to standard error, the result to the output."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from grail_core.errors import ConfigurationError
from grail_core.participant.settings import Settings
from grail_core.participant.waiting import Stopping
from grail_core.telemetry.console import PlainConsole
from grail_envs.bound import BoundEnvironments
from grail_envs.registry import DEFAULT_ENV_ID
from grail_miner.bench.choice import STAGES, Choice, Measured, advice, choose
from grail_miner.bench.measure import Bench, measure
from grail_miner.bench.subject import Model, environment_for, find_model, set_up
from grail_miner.equipment import visible_gpus
from grail_miner.layout import Layout, plan
from grail_miner.live.state import TICKING

SETTING = "GRAIL_PIPELINE_GROUPS_PER_BATCH"


@dataclass(frozen=True)
class BenchRequest:
    """`environment` None: the checkpoint's, or the smallest there is. `max_tokens`: where no checkpoint says it."""

    seconds: float
    model: Path | None = None
    environment: str | None = None
    max_tokens: int = 512
    most: int = 256


def bench_command(settings: Settings, stopping: Stopping, asked: BenchRequest, *, as_json: bool) -> None:
    """Measure, and print what was found.

    Raises:
        KeyboardInterrupt: stopped before anything was measured.
        ConfigurationError: the time was too short for anything. Else as `set_up` and `measure`.
    """
    telling = PlainConsole(stderr=True)
    layout = plan(settings, visible_gpus())
    with tempfile.TemporaryDirectory(prefix="grail-bench-") as scratch:
        named = environment_for(settings, asked.environment or DEFAULT_ENV_ID)
        model = find_model(settings, asked.model, named, asked.max_tokens, Path(scratch))
        own = asked.environment is None and asked.model is None and not model.synthetic
        environment = BoundEnvironments(settings.data_dir)(model.manifest) if own else named
        telling.say(f"{layout.backend} ({layout.why}); {model.what}; problems of {environment.spec.env_id}")
        with set_up(settings, layout, model, environment, Path(scratch)) as subject, stopping() as stop, _batches_untold():
            bench = measure(subject, stop, asked.seconds, telling.say, most=asked.most)
            stopped = stop.is_set()
    if not bench.measured:
        if stopped:
            raise KeyboardInterrupt
        raise ConfigurationError(f"nothing was measured: {bench.ended}", where="--seconds", hint="give it more time")
    choice = choose(bench.measured)
    if as_json:
        print(json.dumps(_json(bench, choice, model, layout, environment.spec.env_id), indent=2))
    else:
        _print(bench, choice, model, settings)


@contextmanager
def _batches_untold() -> Iterator[None]:
    """The progress lines say of a run what its events would say of each batch; lost groups are told all the same."""
    stages = logging.getLogger("grail_miner.pipeline.stages")

    def is_told(record: logging.LogRecord) -> bool:
        return record.getMessage() not in TICKING

    stages.addFilter(is_told)
    try:
        yield
    finally:
        stages.removeFilter(is_told)


def _json(bench: Bench, choice: Choice, model: Model, layout: Layout, environment: str) -> dict[str, Any]:
    return {
        "groups_per_batch": choice.chosen.batch,
        "why": choice.why,
        "slowest": choice.chosen.slowest,
        "advice": advice(choice.chosen),
        "ended": bench.ended,
        "backend": layout.backend,
        "model": model.what,
        "synthetic": model.synthetic,
        "environment": environment,
        "max_tokens": model.manifest.policy.max_tokens,
        "sizes": [
            {
                "batch": one.batch,
                "groups_per_s": one.rate,
                "spread": one.spread,
                "runs": [run.rate for run in one.runs],
                "tokens_per_s": max(run.tokens_per_s for run in one.runs),
                "stages": {name: one.stage(name) for name in STAGES},
                "memory_bytes": one.memory_bytes,
                "gpu_bytes": list(one.gpu_bytes),
            }
            for one in bench.measured
        ],
    }


def _print(bench: Bench, choice: Choice, model: Model, settings: Settings) -> None:
    console = PlainConsole()
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("batch", "groups/s", "spread", *STAGES, "memory", *(["GPUs"] if choice.chosen.gpu_bytes else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for one in bench.measured:
        table.add_row(*_row(one), style="bold" if one.batch == choice.chosen.batch else "")
    console.print(table)
    console.say("Rates are groups of 16 per second: of the whole pipeline, and of each stage while it works.")
    console.say(f"Ended: {bench.ended}.")
    console.say(f"{SETTING}={choice.chosen.batch}: {choice.why}.")
    if settings.pipeline_groups_per_batch == choice.chosen.batch:
        console.say("That is what is set now.")
    console.say(f"{advice(choice.chosen)}.")
    if model.synthetic:
        console.say("The model is synthetic: ask again with --model, or once a checkpoint is in the cache.")


def _row(one: Measured) -> list[str]:
    memory = "–" if one.memory_bytes is None else f"{one.memory_bytes / 2**30:.2f} GiB"
    gpus = [" ".join(f"{used / 2**30:.1f}" for used in one.gpu_bytes) + " GiB"] if one.gpu_bytes else []
    stages = [f"{one.stage(name):.3g}" for name in STAGES]
    return [str(one.batch), f"{one.rate:.3g}", f"±{one.spread:.2g}", *stages, memory, *gpus]
