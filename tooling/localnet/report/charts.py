"""Inline SVG for the report: a few plain chart forms, no script, no external resource.

Colours are CSS variables of the page, so that one drawing serves light and dark. Every mark carries a `<title>`, which
browsers show on hovering. Sizes are in SVG units at which text is 12 px; the drawing scales with its card.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from grail_core import svg

Formatter = Callable[[float], str]
ToPixels = Callable[[float], float]


@dataclass(frozen=True)
class Point:
    """One value at the `position`-th place of the x axis. `error` is one standard error, 0 for none."""

    position: float
    value: float
    error: float = 0.0
    title: str = ""


@dataclass(frozen=True)
class Line:
    name: str
    points: tuple[Point, ...]
    colour: str  # a CSS variable's name without the dashes
    dashed: bool = False
    label_last: bool = True


@dataclass(frozen=True)
class Level:
    """A horizontal reference, e.g. what the best constant answer scores."""

    name: str
    value: float
    colour: str = "muted"


@dataclass(frozen=True)
class Mark:
    """A vertical line at a place of the x axis where something happened."""

    position: float
    title: str
    colour: str = "bad"


@dataclass(frozen=True)
class Segment:
    name: str
    value: float
    colour: str
    title: str = ""


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def seconds(value: float) -> str:
    if value < 0.01:
        return f"{1000 * value:.1f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def size(count: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that cover low … high, about `wanted` steps of 1, 2, 2.5 or 5 times a power of ten; at least two of them.

    What differs by rounding alone is one value: between such numbers there are no round ones.
    """
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        high = low + (abs(low) or 1.0)
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def line_chart(
    lines: Sequence[Line],
    x_labels: Sequence[str],
    *,
    y_format: Formatter,
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    width: int = 540,
    height: int = 250,
    from_zero: bool = False,
    below_zero: bool = False,
    label: str = "",
) -> str:
    """Lines with standard-error whiskers over evenly spaced x labels; a legend is the caller's, names stand at line ends."""
    points = [p for line in lines for p in line.points]
    if not points:
        return empty_chart("no value was recorded")
    lows = [p.value - p.error for p in points] + [level.value for level in levels]
    highs = [p.value + p.error for p in points] + [level.value for level in levels]
    lowest = min(lows) - 0.1 * (max(highs) - min(lows))
    ticks = nice_ticks(0.0 if from_zero else lowest if below_zero else max(0.0, lowest), max(highs))
    left, right, top, bottom = 52, 16, 16, 30
    bottom_y, top_y = height - bottom, top
    low, high = ticks[0], ticks[-1]
    steps = max(1, len(x_labels) - 1)

    def x_of(position: float) -> float:
        inner = width - left - right
        return left + 0.04 * inner + 0.92 * inner * (position / steps if len(x_labels) > 1 else 0.5)

    def y_of(value: float) -> float:
        return bottom_y - (value - low) / (high - low) * (bottom_y - top_y)

    out = []
    for tick in ticks:
        y = y_of(tick)
        out.append(svg.line(left, y, width - right, y, css="grid"))
        out.append(svg.text(left - 8, y + 4, y_format(tick), css="tick", text_anchor="end"))
    stride = max(1, math.ceil(len(x_labels) * 45 / width))
    for i, text in enumerate(x_labels):
        if i % stride == 0 or i == len(x_labels) - 1:
            out.append(svg.text(x_of(i), height - 10, text, css="tick", text_anchor="middle"))
    for level in levels:
        y = y_of(level.value)
        colour = f"var(--{level.colour})"
        out.append(svg.line(left, y, width - right, y, stroke=colour, stroke_dasharray="2 4", stroke_width=1.5))
        text = f"{level.name} {y_format(level.value)}"
        out.append(svg.text(width - right, y - 5, text, css="note", text_anchor="end"))
    for mark in marks:
        x, colour = x_of(mark.position), f"var(--{mark.colour})"
        out.append(svg.rect(x - 3, top_y, 6, bottom_y - top_y, title=mark.title, fill=colour, opacity=".14"))
        out.append(svg.line(x, top_y, x, bottom_y, stroke=colour, stroke_dasharray="4 3", stroke_width=1.5))
    for line in lines:
        out += _drawn(line, x_of, y_of, y_format)
    return svg.inline(width, height, out, css="chart", label=label)


def _drawn(line: Line, x_of: ToPixels, y_of: ToPixels, y_format: Formatter) -> list[str]:
    colour = f"var(--{line.colour})"
    path = " ".join(f"{'M' if i == 0 else 'L'}{x_of(p.position):.1f} {y_of(p.value):.1f}" for i, p in enumerate(line.points))
    dash = {"stroke_dasharray": "5 4"} if line.dashed else {}
    out = [svg.path(path, fill="none", stroke=colour, stroke_width=2.25, stroke_linejoin="round", **dash)]
    for p in line.points:
        x, y = x_of(p.position), y_of(p.value)
        title = p.title or f"{line.name}: {y_format(p.value)}"
        if p.error:
            y1, y2 = y_of(p.value - p.error), y_of(p.value + p.error)
            whisker = f"M{x:.1f} {y1:.1f}V{y2:.1f}M{x - 4:.1f} {y1:.1f}h8M{x - 4:.1f} {y2:.1f}h8"
            out.append(svg.path(whisker, stroke=colour, stroke_width=1.5, fill="none", opacity=".7"))
        out.append(svg.circle(x, y, 4, title=title, fill=colour, stroke="var(--card)", stroke_width=2))
    ends = ([line.points[0]] if len(line.points) > 1 else []) + [line.points[-1]] if line.label_last else []
    for p in ends:
        x, y = x_of(p.position), y_of(p.value + p.error) - 8
        anchor = "start" if p is line.points[0] and len(line.points) > 1 else "end"
        shift = -8 if anchor == "start" else 8
        out.append(svg.text(x + shift, y, y_format(p.value), css="value", text_anchor=anchor, style=f"fill:{colour}"))
    return out


def stacked_columns(
    columns: Sequence[tuple[str, Sequence[Segment]]],
    *,
    y_format: Formatter,
    width: int = 540,
    height: int = 250,
    label: str = "",
    ceiling: float | None = None,
) -> str:
    """One column per label, segments from the bottom up with a hairline of the card's colour between them."""
    if not columns:
        return empty_chart("no weight was set")
    high = ceiling or max((sum(s.value for s in segments) for _, segments in columns), default=0.0) or 1.0
    ticks = nice_ticks(0.0, high)
    left, right, top, bottom = 52, 12, 16, 30
    bottom_y = height - bottom
    inner = width - left - right
    step = inner / len(columns)
    bar = min(46.0, step * 0.62)

    def y_of(value: float) -> float:
        return bottom_y - value / ticks[-1] * (bottom_y - top)

    out = []
    for tick in ticks:
        y = y_of(tick)
        out.append(svg.line(left, y, width - right, y, css="grid"))
        out.append(svg.text(left - 8, y + 4, y_format(tick), css="tick", text_anchor="end"))
    stride = max(1, math.ceil(len(columns) / 14))
    for i, (name, segments) in enumerate(columns):
        x, base = left + (i + 0.5) * step - bar / 2, 0.0
        for segment in segments:
            if segment.value <= 0:
                continue
            y1, y2 = y_of(base), y_of(base + segment.value)
            out.append(_bar(segment, x, y2, bar, max(0.5, y1 - y2 - 1)))
            base += segment.value
        if i % stride == 0 or i == len(columns) - 1:
            middle = left + (i + 0.5) * step
            out.append(svg.text(middle, height - 10, name, css="tick", text_anchor="middle"))
    return svg.inline(width, height, out, css="chart", label=label)


def bars(
    rows: Sequence[tuple[str, Sequence[Segment], str]],
    *,
    width: int = 540,
    marker: tuple[float, str] | None = None,
    label: str = "",
    name_width: int = 150,
) -> str:
    """Horizontal bars of stacked segments, each with its text at the end; `marker` is a vertical reference."""
    if not rows:
        return empty_chart("nothing was recorded")
    most = max([sum(s.value for s in segments) for _, segments, _ in rows] + ([marker[0]] if marker else [])) or 1.0
    row, top = 26, 22 if marker else 4
    text_width = 14 + 7.2 * max(len(text) for *_, text in rows)
    height = top + row * len(rows) + 6
    inner = width - name_width - text_width
    out = []
    for i, (name, segments, text) in enumerate(rows):
        y, x = top + i * row, float(name_width)
        out.append(svg.text(name_width - 10, y + 17, name, css="name", text_anchor="end"))
        for segment in segments:
            length = segment.value / most * inner
            if length <= 0:
                continue
            out.append(_bar(segment, x, y + 5, max(1.5, length - 1), 16))
            x += max(1.5, length)
        out.append(svg.text(x + 6, y + 17, text, css="value ink"))
    if marker:
        x = name_width + marker[0] / most * inner
        out.append(svg.line(x, 16, x, height - 2, stroke="var(--muted)", stroke_dasharray="3 3"))
        anchor = "end" if x > width - 140 else "middle"
        out.append(svg.text(x, 11, marker[1], css="note", text_anchor=anchor))
    return svg.inline(width, height, out, css="chart", label=label)


def _bar(segment: Segment, x: float, y: float, width: float, height: float) -> str:
    title = segment.title or segment.name
    return svg.rect(x, y, width, height, title=title, rx=2, fill=f"var(--{segment.colour})")


def bullet(value: float, threshold: float, *, bad: bool = True, width: int = 150) -> str:
    """A value against the bound that decided, on one line: the bar is the value, the tick the bound."""
    most = max(abs(value), abs(threshold)) * 1.08 or 1.0
    bar, tick = abs(value) / most * width, abs(threshold) / most * width
    colour = "bad" if bad else "good"
    parts = [
        svg.rect(0, 4, width, 6, rx=3, fill="var(--track)"),
        svg.rect(0, 4, max(2.0, bar), 6, rx=3, fill=f"var(--{colour})"),
        svg.line(tick, 0, tick, 14, stroke="var(--ink)", stroke_width=2),
    ]
    spoken = f"{value:g} against {threshold:g}"
    return svg.inline(width, 14, parts, css="bullet", label=spoken, width=width, height=14)


def empty_chart(text: str) -> str:
    return f'<p class="empty">{escape(text)}</p>'
