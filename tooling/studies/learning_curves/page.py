"""The figures of many runs: lines for a terminal, a table and a drawing for the documentation.

Errors are of the mean over seeds (n − 1), so they hold what the model's making, the rollouts and the held-out problems add;
they say nothing of other settings than the ones that were run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from grail_core import svg
from grail_core.errors import ConfigurationError
from tooling.studies.learning_curves.curve import Point
from tooling.studies.learning_curves.runs import Finished

COLOURS = ("#2563eb", "#dc2626", "#059669", "#9333ea", "#d97706", "#0891b2")
CONTROL = "learning rate 0"
TABLE_BEGINS, TABLE_ENDS = "<!-- hatch run learn -->", "<!-- / -->"
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 320, 220, 52, 40, 70


@dataclass(frozen=True)
class Mean:
    """Of one value over seeds; `error` is its standard error, None for one seed."""

    value: float
    error: float | None

    def percent(self) -> str:
        return f"{100 * self.value:.1f}" + ("" if self.error is None else f" ± {100 * self.error:.1f}") + " %"

    def times(self) -> str:
        return f"× {self.value:.2f}" + ("" if self.error is None else f" ± {self.error:.2f}")


def mean(values: Sequence[float]) -> Mean:
    """Mean and standard error of the mean; NaN where there is nothing."""
    if not values:
        return Mean(math.nan, None)
    return Mean(fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None)


def name_of(one: Finished) -> str:
    """What a run is told by in a legend."""
    return CONTROL if one.is_control else one.loss


def line(one: Finished) -> str:
    """A finished run for a terminal."""
    first, last = one.points[0], one.points[-1]
    ratio = f"{last.success / first.success:5.2f}" if first.success else "    –"
    least = min(point.well_formed for point in one.points)
    undone = sum(bool(point.undone) for point in one.points)
    return (
        f"{one.task:16} {name_of(one):16} seed {one.run['seed']:3}  {100 * first.success:5.1f} → {100 * last.success:5.1f} %"
        f" (× {ratio})  well-formed {100 * first.well_formed:5.1f} → {100 * last.well_formed:5.1f} % (least {100 * least:5.1f})"
        f"  entropy {last.entropy:5.2f}  {one.processor_s:4.0f} s" + (f"  undone {undone}" if undone else "")
    )


def table(runs: Sequence[Finished]) -> str:
    """One row for each task and loss, in Markdown."""
    rows = [
        "| task | loss | seeds | held-out success before → after | ratio | well-formed before → after (least of any) "
        "| entropy, last window | processor s a run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, name, group in grouped(runs):
        first, last = [one.points[0] for one in group], [one.points[-1] for one in group]
        least = min(point.well_formed for one in group for point in one.points)
        ratios = [b.success / a.success for a, b in zip(first, last, strict=True) if a.success]
        rows.append(
            f"| {task} | {name} | {', '.join(str(one.run['seed']) for one in group)} "
            f"| {_of(first, 'success').percent()} → {_of(last, 'success').percent()} | {mean(ratios).times()} "
            f"| {_of(first, 'well_formed').percent()} → {_of(last, 'well_formed').percent()} ({100 * least:.1f} %) "
            f"| {_of(last, 'entropy').value:.2f} nats | {fmean(one.processor_s for one in group):.0f} |"
        )
    return "\n".join(rows)


def grouped(runs: Iterable[Finished]) -> list[tuple[str, str, list[Finished]]]:
    """(task, loss or control, its runs), in the order in which they first come."""
    found: dict[tuple[str, str], list[Finished]] = {}
    for one in runs:
        found.setdefault((one.task, name_of(one)), []).append(one)
    return [(task, name, group) for (task, name), group in found.items()]


def write_page(found: Sequence[Finished], folder: Path) -> None:
    """A drawing for each task, and the table between its two marks in learning.md."""
    for task in dict.fromkeys(task for task, _, _ in grouped(found)):
        own = [one for one in found if one.task == task]
        (folder / f"learning-{task.replace('_', '-')}.svg").write_text(drawing(own))
    path = folder / "learning.md"
    text = path.read_text() if path.exists() else ""
    before, begins, rest = text.partition(TABLE_BEGINS)
    _, ends, after = rest.partition(TABLE_ENDS)
    if not begins or not ends:
        raise ConfigurationError(
            "there is no place for the table", where=str(path), hint=f"two lines in it: {TABLE_BEGINS} and {TABLE_ENDS}"
        )
    path.write_text(f"{before}{TABLE_BEGINS}\n\n{table(found)}\n\n{TABLE_ENDS}{after}")


def drawing(runs: Sequence[Finished]) -> str:
    """One task's runs: held-out success and well-formed answers over the windows learned from, means over seeds with errors."""
    groups = grouped(runs)
    windows = max(point.window for one in runs for point in one.points)
    success = max(point.success + 2 * point.success_error for one in runs for point in one.points)
    lowest = min(point.well_formed for one in runs for point in one.points)
    parts = [*_panel(0, "held-out success", groups, "success", windows, (0.0, math.ceil(10 * success) / 10))]
    floor = min(0.9, math.floor(10 * lowest) / 10)
    parts += _panel(1, "well-formed answers", groups, "well_formed", windows, (floor, 1.0))
    at = _TOP + _HEIGHT + 52
    for index, (_, name, group) in enumerate(groups):
        x = _LEFT + 150 * index
        parts += [
            svg.line(x, at - 4, x + 22, at - 4, stroke=_colour(index, name), stroke_width=3),
            svg.label(x + 28, at, f"{name} ({len(group)})"),
        ]
    return svg.document(2 * _WIDTH + _LEFT + _GAP + 30, at + 20, parts)


def _panel(
    place: int,
    title: str,
    groups: Sequence[tuple[str, str, list[Finished]]],
    field: str,
    windows: int,
    bounds: tuple[float, float],
) -> list[str]:
    left, (low, high) = _LEFT + place * (_WIDTH + _GAP), bounds

    def x(window: float) -> float:
        return left + _WIDTH * window / windows

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (high - min(max(value, low), high)) / (high - low)

    parts = [svg.label(left, _TOP - 14, f"{title}, by windows learned from", bold=True)]
    for step in range(6):
        value = low + (high - low) * step / 5
        parts += [
            svg.grid_line(left, y(value), left + _WIDTH, y(value)),
            svg.label(left - 6, y(value) + 4, f"{100 * value:.0f} %", anchor="end", small=True),
        ]
    for window in range(0, windows + 1, max(1, windows // 6)):
        parts.append(svg.label(x(window), _TOP + _HEIGHT + 16, str(window), anchor="middle", small=True))
    for index, (_, name, group) in enumerate(groups):
        parts += _curve(group, field, x, y, _colour(index, name), 2 * (index - len(groups) / 2))
    return parts


def _curve(
    group: Sequence[Finished],
    field: str,
    x: Callable[[float], float],
    y: Callable[[float], float],
    colour: str,
    shift: float,
) -> list[str]:
    """`shift`: error bars stand so far beside their window, lest they hide each other's."""
    shared = set.intersection(*({point.window for point in one.points} for one in group))
    means = []
    for window in sorted(shared):
        points = [point for one in group for point in one.points if point.window == window]
        means.append((window, _of(points, field)))
    parts = [svg.polyline([(x(window), y(one.value)) for window, one in means], fill="none", stroke=colour, stroke_width=2)]
    for window, one in means:
        if one.error is not None:
            at = x(window) + shift
            ends = y(one.value - one.error), y(one.value + one.error)
            parts.append(svg.line(at, ends[0], at, ends[1], stroke=colour, stroke_width=1.5))
    return parts


def _of(points: Sequence[Point], field: str) -> Mean:
    return mean([getattr(point, field) for point in points])


def _colour(index: int, name: str) -> str:
    return "#777" if name == CONTROL else COLOURS[index % len(COLOURS)]
