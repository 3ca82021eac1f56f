"""What seeded sampling costs: the same requests to the same engine with our processor and without it, drawing greedily."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from grail_core.generation.base import GenerationRequest, ServedWeights
from grail_miner.conformance.run import collect
from tooling.conformance.engine import Dtype, Engine, Running, running

REQUESTS = 192
TIMES = 3


def tokens_per_second(running: Running, *, seeded: bool = True) -> list[float]:
    """Of each repetition; different seeds, the same prompts."""
    found = []
    with _unseeded(running, seeded):
        for repetition in range(TIMES):
            requests = [GenerationRequest((1 + index % 200,) * 24, 1_000 * repetition + index) for index in range(REQUESTS)]
            began = time.monotonic()
            tokens = sum(len(done.tokens) for done in collect(running.generator, requests))
            found.append(tokens / (time.monotonic() - began))
    return found


def compare(engine: Engine, dtype: Dtype, python: Path, weights: ServedWeights, state: Path) -> dict[str, object]:
    """Medians, and every repetition. No row ends early: the model is told of no end token."""
    endless = replace(weights, end_tokens=frozenset())
    figures: dict[str, object] = {"requests": REQUESTS, "concurrent": 48}
    for name, plugin in (("with", True), ("without", False)):
        with running(engine, dtype, python, endless, state, plugin=plugin) as one:
            speeds = tokens_per_second(one, seeded=plugin)
        figures[name] = {"median": statistics.median(speeds), "all": speeds}
    return figures


@contextmanager
def _unseeded(running: Running, seeded: bool) -> Iterator[None]:
    """Requests that name no processor: SGLang runs it for those alone that do, vLLM was started without it."""
    generator = running.generator
    if seeded:
        yield
        return
    plain = generator.request_body

    def body(*arguments: Any) -> dict[str, Any]:
        made = plain(*arguments)
        if running.engine == "sglang":
            made["custom_logit_processor"] = None
            made["sampling_params"]["custom_params"] = None
        else:
            made["sampling_params"]["extra_args"] = None
        return made

    generator.request_body = body  # type: ignore[method-assign]
    try:
        yield
    finally:
        del generator.request_body
