"""Pay as pictures: every strategy with its interval, junk in files of every size, bursts. Honest full-time work is 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import log10

from grail_core import svg
from grail_validator.simulation.measure import Pay
from grail_validator.simulation.results import Results
from grail_validator.simulation.sizes import AT_RANDOM, CHANCES, LARGE_FILES, RHYTHMS
from grail_validator.simulation.table import Cell

_COLOURS = {0.10: "#b0b0b0", 0.14: "#1f6feb", 0.29: "#d97706", 1.0: "#2f9e44"}
"""By a full miner's check chance."""
_SERIES = ("#1f6feb", "#d97706", "#2f9e44", "#9333ea", "#e11d48")
_LIMIT = "#c0392b"
"""Of the line that nothing may lie above."""
_ROW = 19
_NAMES = 520
_RIGHT = 24
_TOP = 64


def strategies_plot(results: Results) -> str:
    """One line a strategy, one mark a check chance: pay per cost with its 95 % interval, ring where it is pay per slot."""
    wide, most = 420, 1.25
    names = list(dict.fromkeys(cell.row for cell in results.cells))
    found = {(cell.row, cell.probability): cell for cell in results.cells}
    chances = sorted({cell.probability for cell in results.cells if cell.probability in _COLOURS})
    height = _TOP + _ROW * len(names) + 34

    def x(value: float) -> float:
        return _NAMES + wide * min(value, most) / most

    bottom = _TOP + _ROW * len(names)
    parts = [
        svg.label(12, 22, "Pay per cost, honest full-time work being 1", bold=True),
        svg.label(12, 40, "bars: 95 % interval; rings: pay per slot; p: check chance of a full miner", small=True),
        *_legend(_NAMES, 40, [(f"p = {p:.2f}", _COLOURS[p]) for p in chances]),
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25):
        parts += [svg.grid_line(x(tick), _TOP - 8, x(tick), bottom)]
        parts += [svg.label(x(tick), bottom + 16, f"{tick:g}", anchor="middle", small=True)]
    parts.append(svg.line(x(1), _TOP - 8, x(1), bottom, stroke=_LIMIT, stroke_width=1.5))
    for row, name in enumerate(names):
        middle = _TOP + _ROW * (row + 0.5)
        parts.append(svg.label(_NAMES - 10, middle + 3.5, _short(name), anchor="end", small=True))
        for place, p in enumerate(chances):
            if (cell := found.get((name, p))) is not None:
                parts += _mark(cell, x, middle + 3.4 * (place - (len(chances) - 1) / 2), _COLOURS[p])
    return svg.document(_NAMES + wide + _RIGHT, height, parts)


def _mark(cell: Cell, x: Callable[[float], float], y: float, colour: str) -> list[str]:
    pay = cell.pay
    figures = f"{pay.per_cost:.3f} ± {pay.per_cost_pm:.3f} per cost, {pay.per_slot:.3f} per slot"
    title = f"{cell.row}, p = {cell.probability:g}: {figures}"
    low, high = x(max(0.0, pay.per_cost - pay.per_cost_pm)), x(pay.per_cost + pay.per_cost_pm)
    return [
        svg.line(low, y, high, y, stroke=colour, stroke_width=2, stroke_opacity="0.55"),
        svg.circle(x(pay.per_slot), y, 1.8, fill="white", stroke=colour, stroke_width=0.8),
        svg.circle(x(pay.per_cost), y, 2.2, title=title, fill=colour),
    ]


def junk_plot(results: Results) -> str:
    """For files of G groups: pay per cost against the share of groups that are junk, idle when caught and with new hotkeys."""
    panels = []
    for p in CHANCES:
        for renewed in (False, True):
            curves = []
            for groups in LARGE_FILES:
                points = [
                    (one.junk / groups, one.pay)
                    for one in results.junk_in_files
                    if one.groups == groups and one.probability == p and one.renewed == renewed and one.junk < groups
                ]
                curves.append((f"G = {groups}", points))
            panels.append((f"p = {p:.2f}, {'new hotkey when caught' if renewed else 'idle when caught'}", curves))
    words = "Junk in j of G groups: pay per cost, honest files of that size being 1"
    note = "across: j / G; files of 1, 2, 4, 5 and 8 groups are looked at whole: 0 for every j"
    return _panels(words, note, panels, logarithmic=True)


def bursts_plot(results: Results) -> str:
    """Pay per cost against the share of windows with full files; one group in the others."""
    panels = []
    for p in CHANCES:
        curves = []
        for cycle in RHYTHMS:
            points = [(one.share, one.pay) for one in results.bursts if one.cycle == cycle and one.probability == p]
            curves.append(("at random" if cycle == AT_RANDOM else f"cycle of {cycle}", points))
        panels.append((f"p = {p:.2f}", curves))
    words = "Full files in bursts, one group else: pay per cost, full-time work being 1"
    return _panels(words, "across: share of windows with full files", panels, logarithmic=False)


_Curve = tuple[str, list[tuple[float, Pay]]]


def _panels(words: str, note: str, panels: Sequence[tuple[str, Sequence[_Curve]]], *, logarithmic: bool) -> str:
    """Two a line, each with its curves: a point with its interval for every figure."""
    wide, high, left, gap, most = 330, 190, 46, 62, 1.1
    lines = -(-len(panels) // 2)
    names = [(name, _SERIES[i]) for i, (name, _) in enumerate(panels[0][1])]
    parts = [svg.label(12, 22, words, bold=True), svg.label(12, 40, note, small=True), *_legend(12, 58, names)]
    for number, (title, curves) in enumerate(panels):
        x0, y0 = left + (number % 2) * (wide + gap), 96 + (number // 2) * (high + gap)

        def x(share: float, x0: float = x0) -> float:
            return x0 + wide * ((log10(share) + 3) / 3 if logarithmic else share)

        def y(value: float, y0: float = y0) -> float:
            return y0 + high * (1 - min(value, most) / most)

        parts.append(svg.label(x0, y0 - 8, title, bold=True))
        for value in (0.0, 0.25, 0.5, 0.75, 1.0):
            parts += [
                svg.grid_line(x0, y(value), x0 + wide, y(value)),
                svg.label(x0 - 6, y(value) + 3.5, f"{value:g}", anchor="end", small=True),
            ]
        for share in (0.001, 0.01, 0.1, 1.0) if logarithmic else (0.0, 0.25, 0.5, 0.75, 1.0):
            parts.append(svg.label(x(share), y0 + high + 15, f"{share:g}", anchor="middle", small=True))
        parts.append(svg.line(x0, y(1), x0 + wide, y(1), stroke=_LIMIT, stroke_width=1.5))
        for (_, points), colour in zip(curves, _SERIES, strict=False):
            parts += _curve(
                [
                    (x(share), y(pay.per_cost), y(pay.per_cost + pay.per_cost_pm), y(max(0.0, pay.per_cost - pay.per_cost_pm)))
                    for share, pay in points
                ],
                colour,
            )
    return svg.document(left + 2 * wide + gap + _RIGHT, 96 + lines * (high + gap), parts)


def _curve(points: Sequence[tuple[float, float, float, float]], colour: str) -> list[str]:
    """x, y, and the ends of the interval."""
    parts = [svg.polyline([(x, y) for x, y, _, _ in points], fill="none", stroke=colour, stroke_width=1.4)]
    for x, y, top, bottom in points:
        parts += [
            svg.line(x, top, x, bottom, stroke=colour, stroke_width=1, stroke_opacity="0.6"),
            svg.circle(x, y, 2.4, fill=colour),
        ]
    return parts


def _legend(x: float, y: float, names: Iterable[tuple[str, str]]) -> list[str]:
    parts = []
    for place, (name, colour) in enumerate(names):
        at = x + 92 * place
        parts += [svg.circle(at + 4, y - 4, 4, fill=colour), svg.label(at + 12, y, name, small=True)]
    return parts


def _short(name: str, most: int = 92) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
