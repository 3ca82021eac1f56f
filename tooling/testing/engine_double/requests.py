"""One sequence that the double decodes: what was asked, what came of it so far, and with which weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tooling.testing.engine_double.faults import Fault

FinishKind = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class Keys:
    """What the sampling plug-in is told with a request; it decides the token, whatever the engine's own sampler is set to."""

    seed: int  # 64-bit
    temperature: float
    top_k: int  # −1: all
    top_p: float

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Keys | None:
        """None where the request has no seed for the plug-in.

        Raises:
            ValueError: a seed without the rest, or values that are none.
        """
        if not given or "grail_seed" not in given:
            return None
        seed = given["grail_seed"]
        if not isinstance(seed, str) or not seed.isdecimal() or int(seed) >= 2**64:
            raise ValueError(f"grail_seed is the decimal string of a 64-bit seed, not {seed!r}")
        values = [given.get(name) for name in ("grail_temperature", "grail_top_k", "grail_top_p")]
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
            raise ValueError(f"grail_temperature, grail_top_k and grail_top_p are numbers, not {values}")
        temperature, top_k, top_p = (float(value) for value in values if value is not None)
        if not (math.isfinite(temperature) and temperature > 0) or not 0 < top_p <= 1 or (top_k != -1 and top_k < 1):
            raise ValueError(f"no such sampling: temperature {temperature}, top_k {top_k}, top_p {top_p}")
        return cls(int(seed), temperature, int(top_k), top_p)


@dataclass(frozen=True)
class Sampling:
    """How a request is drawn, after the defaults of engine and folder.

    `limit` and `min_tokens` count completion tokens; `stop` holds the folder's end tokens too unless they are ignored;
    `top_k` < 1: all; `seed` is the engine's own.
    """

    limit: int
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    stop: frozenset[int] = frozenset()
    seed: int | None = None
    keys: Keys | None = None
    logprobs: bool = False


@dataclass(frozen=True)
class Span:
    """Completion tokens [start, end) were drawn while the label was `version`."""

    version: str
    start: int
    end: int


@dataclass(eq=False)
class Request:
    """State of one sequence; changed by the engine's thread alone, read under its lock."""

    name: str
    prompt: tuple[int, ...]
    sampling: Sampling
    fault: Fault | None = None  # one that strikes while it is decoded
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    label_changes: list[tuple[str, int]] = field(default_factory=list)  # (label before, tokens drawn by then)
    finish: FinishKind | None = None
    matched: int | None = None  # the token that ended it
    message: str = ""  # why it was aborted
    aborting: bool = False  # SGLang: ends after its next step
    cached_tokens: int = 0  # of the prompt, taken from the prefix cache
    retractions: int = 0
    last_label: str = ""  # at the end
    cache: Any = None  # keys and values of the first `in_cache` tokens
    in_cache: int = 0
    generator: Any = None  # the engine's own random numbers

    def spans(self, label: str, count: int | None = None) -> tuple[Span, ...]:
        """Which labels the first `count` tokens were drawn under; `label` is the present one."""
        total = len(self.tokens) if count is None else count
        spans: list[Span] = []
        for version, end in (*self.label_changes, (self.last_label or label, total)):
            end = min(end, total)
            if spans and end <= spans[-1].end:
                continue
            if spans and version == spans[-1].version:
                spans[-1] = Span(version, spans[-1].start, end)
                continue
            spans.append(Span(version, spans[-1].end if spans else 0, end))
        return tuple(spans)
