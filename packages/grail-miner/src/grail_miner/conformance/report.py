"""What was found, for a person and for a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from grail_miner.conformance.causes import Cause
from grail_miner.conformance.reading import Reading

LEAST_AGREEMENT = 0.97
"""Share of tokens that an engine in bf16 must draw as a verifier does; one in float32 must draw all (`least` 1)."""

FLOAT32_TIE = 1e-4
"""Two tokens whose scores are this near are drawn by the order of sums: not counted against an engine in float32."""

CLEARLY_LOST = 1.0  # a margin that no honest numerics have
_MOST_CLEARLY_LOST = 0.005
_QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
_EDGES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
_BAR = 40
_SHOWN = 5


@dataclass(frozen=True)
class Broken:
    """The first token of an answer that a verifier does not draw."""

    request: int
    group: int
    index: int  # of the completion's token
    position: int  # in prompt and completion
    drawn: int
    expected: int
    margin: float


@dataclass(frozen=True)
class ConformanceReport:
    reading: Reading
    group_of: tuple[int, ...]
    causes: tuple[Cause, ...]
    same_again: tuple[int, int]  # requests that gave the same tokens in another batch, of how many
    engine: str  # its numerics class
    least: float = LEAST_AGREEMENT
    asked_again: int = 0  # answers over HTTP that could not be used, and whose rows were asked for again

    @property
    def conforms(self) -> bool:
        reading = self.reading
        if not len(reading.margins) or reading.cut_short() or reading.run_on():
            return False
        if self.least >= 1:
            return bool((reading.margins <= FLOAT32_TIE).all())
        clearly = float((reading.margins > CLEARLY_LOST).mean())
        return reading.agreement >= self.least and clearly <= _MOST_CLEARLY_LOST

    def broken(self) -> list[Broken]:
        """Where each answer breaks first, by completion index."""
        found = []
        for number, row in enumerate(self.reading.rows):
            if len(row.lost):
                at = int(row.lost[0])
                position = len(row.request.prompt) + at
                margin = float(row.margins[at])
                found.append(Broken(number, self.group_of[number], at, position, row.tokens[at], int(row.draws[at]), margin))
        return sorted(found, key=lambda one: (one.index, one.request))

    def histogram(self) -> list[tuple[str, int]]:
        """How many margins are 0, and how many lie in each span above."""
        margins = self.reading.margins
        counts = [("0", int((margins == 0).sum()))]
        for low, high in pairwise(_EDGES):
            counts.append((f"≤ {high:g}", int(((margins > low) & (margins <= high)).sum())))
        return counts

    def quantiles(self) -> dict[float, float]:
        margins = self.reading.margins
        return {q: float(np.quantile(margins, q, method="higher")) for q in _QUANTILES} if len(margins) else {}


def to_json(report: ConformanceReport) -> dict[str, object]:
    """For `--json`."""
    margins = report.reading.margins
    return {
        "conforms": report.conforms,
        "engine": report.engine,
        "requests": len(report.reading.rows),
        "tokens": len(margins),
        "agreement": report.reading.agreement,
        "least_agreement": report.least,
        "margin_quantiles": {f"{q:g}": value for q, value in report.quantiles().items()},
        "margin_histogram": [[edge, count] for edge, count in report.histogram()],
        "clearly_lost": int((margins > CLEARLY_LOST).sum()),
        "same_again": list(report.same_again),
        "asked_again": report.asked_again,
        "cut_short": len(report.reading.cut_short()),
        "run_on": len(report.reading.run_on()),
        "breaks": [vars(one) for one in report.broken()[:_SHOWN]],
        "causes": [vars(cause) for cause in report.causes],
    }


def lines(report: ConformanceReport) -> Iterator[str]:
    """For a terminal."""
    reading, margins = report.reading, report.reading.margins
    lost = int((margins > 0).sum())
    yield f"engine {report.engine}: {len(reading.rows)} requests, {len(margins)} tokens"
    yield f"  token agreement with the verifier {reading.agreement:.2%} ({lost} differ; asked for: {report.least:.0%})"
    yield f"  made again in another batch: {report.same_again[0]} of {report.same_again[1]} gave the same tokens"
    if report.asked_again:
        yield f"  {report.asked_again} answers could not be used, and their rows were asked for again: see `rows_asked_again`"
    if quantiles := report.quantiles():
        yield "  margins: " + ", ".join(f"{q:.1%} ≤ {value:.4g}" for q, value in quantiles.items())
    most = max((count for _, count in report.histogram()), default=1) or 1
    for edge, count in report.histogram():
        yield f"    {edge:>7} {count:>7}  {'#' * round(_BAR * count / most)}"
    broken = report.broken()
    for one in broken[:_SHOWN]:
        yield (
            f"  breaks: request {one.request} (group {one.group}), completion token {one.index} at position {one.position}: "
            f"{one.drawn} in place of {one.expected}, margin {one.margin:.4g}"
        )
    if len(broken) > _SHOWN:
        yield f"  … and {len(broken) - _SHOWN} more answers"
    for cause in report.causes:
        share = "" if cause.explained is None else f" (explains {cause.explained:.0%} of what was looked at)"
        yield f"  likely cause: {cause.what}{share}"
        yield f"    try: {cause.advice}"
    yield "  conforms" if report.conforms else "  DOES NOT CONFORM"
