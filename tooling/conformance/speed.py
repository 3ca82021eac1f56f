"""What seeded sampling costs: the same requests to the same engine with our processor and without it, drawing greedily.

The engine without it is the control of all other checks as well: they must find that it does not conform, and say why.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.generation.base import GenerationRequest, ServedWeights
from grail_miner.conformance.report import ConformanceReport
from grail_miner.conformance.run import collect
from tooling.conformance.checks import report_of
from tooling.conformance.engine import Dtype, Engine, Running, running

REQUESTS = 192
TIMES = 3


@dataclass(frozen=True)
class Compared:
    """Tokens a second of each repetition, and what is said of the engine without our processor."""

    seeded: list[float]
    greedy: list[float]
    control: ConformanceReport


def compare(engine: Engine, dtype: Dtype, python: Path, weights: ServedWeights, state: Path) -> Compared:
    """One engine after the other, each started anew."""
    with running(engine, dtype, python, weights, state) as one:
        seeded = tokens_per_second(one)
    with running(engine, dtype, python, weights, state, plugin=False) as one, _unseeded(one):
        return Compared(seeded, tokens_per_second(one), report_of(one, weights, 1.0))


def tokens_per_second(running: Running) -> list[float]:
    """Of each repetition; other seeds, the same prompts. The first one, which warms up, is left out."""
    found = []
    for repetition in range(TIMES + 1):
        requests = [GenerationRequest((1 + index % 200,) * 24, 1_000 * repetition + index) for index in range(REQUESTS)]
        began = time.monotonic()
        tokens = sum(len(done.tokens) for done in collect(running.generator, requests))
        found.append(tokens / (time.monotonic() - began))
    return found[1:]


@contextmanager
def _unseeded(running: Running) -> Iterator[None]:
    """Requests that name no processor: SGLang runs it for those alone that do, vLLM was started without it."""
    generator = running.generator
    plain = generator.request_body

    def body(*arguments: Any) -> dict[str, Any]:
        made = plain(*arguments)
        if running.engine == "sglang":
            made["custom_logit_processor"] = None
            made["sampling_params"]["custom_params"] = None
        else:
            made["sampling_params"]["extra_args"] = None
        return made

    generator.request_body = body  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del generator.request_body
