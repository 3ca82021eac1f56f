"""Inline SVG for the report: lines and columns, no script, no external resource; horizontal bars are in `bars.py`.

Colours are CSS variables of the page, so that one drawing serves light and dark. Sizes are in SVG units at which text is 12 px;
a drawing scales with its card, so each is made for the widths that a page has (`at_every_width`), of which the style sheet
shows one: text stays readable on a telephone. Marks carry a `<title>` for hovering, and nothing is said there alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from grail_core import svg

Formatter = Callable[[float], str]
ToPixels = Callable[[float], float]

MIDDLE = 540
NARROW = 330
"""Widths of drawings for a page of one column, and for a telephone's."""


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


def at_every_width(width: int, draw: Callable[[int], str]) -> str:
    """The drawing as it is asked for, and again for narrower pages where it is too wide for them."""
    shown = [("not-narrow" if width <= MIDDLE else "only-wide", width)]
    shown += [("only-middle", MIDDLE)] if width > MIDDLE else []
    shown += [("only-narrow", NARROW)] if width > NARROW else []
    if len(shown) == 1:
        return draw(width)
    return "".join(f'<div class="{kind}">{draw(one)}</div>' for kind, one in shown)


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that cover low … high, about `wanted` steps of 1, 2, 2.5 or 5 times a power of ten; at least two of them.

    What differs by rounding alone is one value: between such numbers there are no round ones. It is shown against 0, so that a
    share of 100 % has no axis to 200.
    """
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = min(low, 0.0), max(high, 0.0)
        high = 1.0 if high == low else high
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
    x_name: str = "",
    y_name: str = "",
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    width: int = MIDDLE,
    height: int = 270,
    from_zero: bool = False,
    below_zero: bool = False,
    label: str = "",
) -> str:
    """Lines with standard-error whiskers over evenly spaced x labels; a legend is the caller's."""
    points = [p for line in lines for p in line.points]
    if not points:
        return empty_chart("no value was recorded")
    lows = [p.value - p.error for p in points] + [level.value for level in levels]
    highs = [p.value + p.error for p in points] + [level.value for level in levels]
    lowest = min(lows) - 0.1 * (max(highs) - min(lows))
    ticks = nice_ticks(0.0 if from_zero else lowest if below_zero else max(0.0, lowest), max(highs))

    def drawn(width: int) -> str:
        frame = _Frame(width, height, len(x_labels), ticks)
        out = [*_axes(frame, x_labels, y_format, x_name, y_name)]
        for level in levels:
            y = frame.y(level.value)
            colour = f"var(--{level.colour})"
            out.append(svg.line(_LEFT, y, width - _RIGHT, y, stroke=colour, stroke_dasharray="2 4", stroke_width=1.5))
            said = f"{level.name}, {y_format(level.value)}"
            out.append(svg.text(width - _RIGHT, y - 6, said, css="value note", text_anchor="end"))
        for mark in marks:
            x, colour = frame.x(mark.position), f"var(--{mark.colour})"
            out.append(svg.rect(x - 3, _TOP, 6, frame.bottom - _TOP, title=mark.title, fill=colour, opacity=".14"))
            out.append(svg.line(x, _TOP, x, frame.bottom, stroke=colour, stroke_dasharray="4 3", stroke_width=1.5))
        for line in lines:
            out += _drawn(line, frame.x, frame.y, y_format)
        for line in lines:
            out += _end_labels(line, frame, y_format)
        return svg.inline(width, height, out, css="chart", label=label, style=f"max-width:{round(width * 1.2)}px")

    return at_every_width(width, drawn)


_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 30, 46
"""Room around the values: tick labels, the names of the axes."""


@dataclass(frozen=True)
class _Frame:
    """Where values lie in a drawing of `width` by `height`."""

    width: int
    height: int
    places: int  # of the x axis
    ticks: Sequence[float]

    @property
    def bottom(self) -> int:
        return self.height - _BOTTOM

    def x(self, position: float) -> float:
        inner = self.width - _LEFT - _RIGHT
        return _LEFT + 0.04 * inner + 0.92 * inner * (position / (self.places - 1) if self.places > 1 else 0.5)

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.bottom - (value - low) / (high - low) * (self.bottom - _TOP)


def _axes(frame: _Frame, x_labels: Sequence[str], y_format: Formatter, x_name: str, y_name: str) -> Iterator[str]:
    yield from _grid(frame, y_format)
    longest = max(map(len, x_labels), default=1)
    stride = max(1, math.ceil(len(x_labels) * (14 + 7 * longest) / (frame.width - _LEFT - _RIGHT)))
    for i, text in enumerate(x_labels):
        last = i == len(x_labels) - 1
        if last or (i % stride == 0 and len(x_labels) - 1 - i >= stride):
            yield svg.text(frame.x(i), frame.bottom + 18, text, css="tick", text_anchor="middle")
    yield from _names(frame, x_name, y_name)


def _grid(frame: _Frame, y_format: Formatter) -> Iterator[str]:
    for tick in frame.ticks:
        y = frame.y(tick)
        yield svg.line(_LEFT, y, frame.width - _RIGHT, y, css="grid")
        yield svg.text(_LEFT - 8, y + 4, y_format(tick), css="tick", text_anchor="end")


def _names(frame: _Frame, x_name: str, y_name: str) -> Iterator[str]:
    yield svg.text(2, 12, y_name, css="axis")
    yield svg.text((_LEFT + frame.width - _RIGHT) / 2, frame.height - 6, x_name, css="axis", text_anchor="middle")


def _drawn(line: Line, x_of: ToPixels, y_of: ToPixels, y_format: Formatter) -> list[str]:
    colour = f"var(--{line.colour})"
    path = " ".join(f"{'M' if i == 0 else 'L'}{x_of(p.position):.1f} {y_of(p.value):.1f}" for i, p in enumerate(line.points))
    dash = {"stroke_dasharray": "5 4"} if line.dashed else {}
    out = [svg.path(path, fill="none", stroke=colour, stroke_width=2.25, stroke_linejoin="round", **dash)]
    for p in line.points:
        x, y = x_of(p.position), y_of(p.value)
        title = p.title or f"{line.name}: {y_format(p.value)}"
        out.append(svg.circle(x, y, 4, title=title, fill=colour, stroke="var(--card)", stroke_width=2))
        if p.error:  # over the mark, which is larger than a small error
            y1, y2 = y_of(p.value - p.error), y_of(p.value + p.error)
            whisker = f"M{x:.1f} {y1:.1f}V{y2:.1f}M{x - 6:.1f} {y1:.1f}h12M{x - 6:.1f} {y2:.1f}h12"
            out.append(svg.path(whisker, stroke=colour, stroke_width=1.75, fill="none"))
    return out


def _end_labels(line: Line, frame: _Frame, y_format: Formatter) -> list[str]:
    """The first and the last value in figures, above their whiskers, over all lines."""
    out = []
    ends = ([line.points[0]] if len(line.points) > 1 else []) + [line.points[-1]] if line.label_last else []
    for p in ends:
        x, y = frame.x(p.position), frame.y(p.value + p.error) - 8
        anchor = "start" if p is line.points[0] and len(line.points) > 1 else "end"
        shift = -8 if anchor == "start" else 8
        style = f"fill:var(--{line.colour})"
        out.append(svg.text(x + shift, y, y_format(p.value), css="value", text_anchor=anchor, style=style))
    return out


def stacked_columns(
    columns: Sequence[tuple[str, Sequence[Segment]]],
    *,
    y_format: Formatter,
    x_name: str = "",
    y_name: str = "",
    width: int = MIDDLE,
    height: int = 270,
    label: str = "",
    ceiling: float | None = None,
) -> str:
    """One column per label, segments from the bottom up with a hairline of the card's colour between them."""
    if not columns:
        return empty_chart("no weight was set")
    high = ceiling or max((sum(s.value for s in segments) for _, segments in columns), default=0.0) or 1.0
    ticks = nice_ticks(0.0, high)

    def drawn(width: int) -> str:
        frame = _Frame(width, height, len(columns), ticks)
        step = (width - _LEFT - _RIGHT) / len(columns)
        bar = min(46.0, step * 0.62)
        stride = max(1, math.ceil((14 + 7 * max(len(name) for name, _ in columns)) / step))
        out = [*_grid(frame, y_format), *_names(frame, x_name, y_name)]
        for i, (name, segments) in enumerate(columns):
            middle, base = _LEFT + (i + 0.5) * step, 0.0
            for segment in segments:
                if segment.value <= 0:
                    continue
                y1, y2 = frame.y(base), frame.y(base + segment.value)
                out.append(bar_of(segment, middle - bar / 2, y2, bar, max(0.5, y1 - y2 - 1)))
                base += segment.value
            if i == len(columns) - 1 or (i % stride == 0 and len(columns) - 1 - i >= stride):
                out.append(svg.text(middle, frame.bottom + 18, name, css="tick", text_anchor="middle"))
        return svg.inline(width, height, out, css="chart", label=label, style=f"max-width:{round(width * 1.2)}px")

    return at_every_width(width, drawn)


def bar_of(segment: Segment, x: float, y: float, width: float, height: float) -> str:
    title = segment.title or segment.name
    return svg.rect(x, y, width, height, title=title, rx=2, fill=f"var(--{segment.colour})")


def empty_chart(text: str) -> str:
    return f'<p class="empty">{escape(text)}</p>'
