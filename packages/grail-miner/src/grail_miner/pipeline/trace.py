"""What each stage did and when: spans in memory, for the window's figures, a JSON file and a drawing of it.

Seconds are the pipeline's own monotonic clock, counted from the beginning of the window's groups.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from grail_core import svg
from grail_core.disk import write_atomically
from grail_core.protocol.types import Window
from grail_miner.pipeline.monitor import Monitor

MAX_SPANS: Final = 20_000
"""Of one window; 375 groups make about 1,600. What is beyond is counted alone."""

GENERATE, HELD, JUDGE, PROVE, PACK = "generate", "held", "judge", "prove", "pack"
FILE, CHECK, UPLOAD = "file", "check", "upload"
"""Stages; `held` is within `generate`: a finished group that has no room in front of the stage behind. `pack` makes records of
a group, `file` the signed file of all."""

_COLOURS: Final[Mapping[str, str]] = {
    GENERATE: "#4c78a8",
    HELD: "#c6d4e6",
    JUDGE: "#f58518",
    PROVE: "#54a24b",
    PACK: "#b279a2",
    FILE: "#b279a2",
    CHECK: "#eeca3b",
    UPLOAD: "#9d755d",
}
_LEFT, _TOP, _WIDTH, _LANE = 96, 34, 840, 22


@dataclass(frozen=True)
class Span:
    """`lane`: the thread of the stage; `what`: the group, or a batch's first."""

    stage: str
    lane: int
    what: int
    start: float
    end: float


class Trace:
    """A recorder for one window; entered from any thread."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._began = monitor.now()
        self._spans: list[Span] = []
        self._busy: dict[str, float] = defaultdict(float)
        self.lost = 0

    def now(self) -> float:
        return self._monitor.now() - self._began

    @contextmanager
    def span(self, stage: str, what: int, lane: int = 0) -> Iterator[None]:
        start = self.now()
        try:
            yield
        finally:
            self.add(stage, what, start, self.now(), lane)

    def add(self, stage: str, what: int, start: float, end: float, lane: int = 0) -> None:
        with self._monitor:
            self._busy[stage] += end - start
            if len(self._spans) < MAX_SPANS:
                self._spans.append(Span(stage, lane, what, start, end))
            else:
                self.lost += 1

    def seconds(self, stage: str) -> float:
        """That the stage's threads were at work, added up; generation without what it was held."""
        with self._monitor:
            return self._busy[stage] - (self._busy[HELD] if stage == GENERATE else 0.0)

    @property
    def spans(self) -> tuple[Span, ...]:
        """In the order they ended."""
        with self._monitor:
            return tuple(self._spans)


def write_trace(folder: Path, window: Window, trace: Trace) -> Path:
    """`window-N.json` and its drawing beside it. Returns the former. Raises StorageError."""
    spans = trace.spans
    path = folder / f"window-{window}.json"
    value = {"window": window, "lost": trace.lost, "spans": [asdict(span) for span in spans]}
    write_atomically(path, json.dumps(value).encode() + b"\n")
    drawing = gantt(spans, f"window {window}: what each stage did")
    write_atomically(path.with_suffix(".svg"), drawing.encode())
    return path


def gantt(spans: Sequence[Span], title: str) -> str:
    """One line a thread, one bar a span, seconds to the right. Needs at least one span."""
    order = list(_COLOURS)
    lanes = sorted({(order.index(GENERATE if s.stage == HELD else s.stage), s.lane) for s in spans})
    row = {lane: index for index, lane in enumerate(lanes)}
    lasts = max(span.end for span in spans) or 1.0
    scale = _WIDTH / lasts
    bottom = _TOP + _LANE * len(lanes)
    parts = [svg.label(_LEFT, 18, title, bold=True)]
    for seconds in _ticks(lasts):
        x = _LEFT + seconds * scale
        parts += [
            svg.grid_line(x, _TOP, x, bottom),
            svg.label(x, bottom + 16, f"{seconds:g} s", anchor="middle", small=True),
        ]
    for (stage, lane), index in row.items():
        several = sum(other == stage for other, _ in lanes) > 1
        name = f"{order[stage]} {lane}" if several else order[stage]
        parts.append(svg.label(_LEFT - 8, _TOP + _LANE * index + 15, name, anchor="end"))
    for span in sorted(spans, key=lambda span: (span.start, span.stage == HELD)):
        y = _TOP + _LANE * row[order.index(GENERATE if span.stage == HELD else span.stage), span.lane]
        told = f"{span.stage} {span.what}: {span.start:.3f} to {span.end:.3f} s"
        width = max(0.5, (span.end - span.start) * scale)
        parts.append(
            svg.rect(
                _LEFT + span.start * scale,
                y + 3,
                width,
                _LANE - 6,
                title=told,
                fill=_COLOURS[span.stage],
                stroke="white",
                stroke_width="0.5",
            )
        )
    return svg.document(_LEFT + _WIDTH + 24, bottom + 28, parts)


def _ticks(lasts: float) -> list[float]:
    """At most ten round steps from 0: of 1, 2 or 5 times a power of ten."""
    least = lasts / 10
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= least)
    return [index * step for index in range(int(lasts / step) + 1)]
