"""Horizontal bars with their text at the end, and a value against its bound; sizes and colours as in `charts.py`."""

from __future__ import annotations

from collections.abc import Sequence

from grail_core import svg
from tooling.localnet.report.charts import MIDDLE, NARROW, Segment, at_every_width, bar_of, empty_chart

Row = tuple[str, Sequence[Segment], str]
"""Name, segments, text at the end."""

_LETTER = 7.2  # units of a letter, at most


def bars(
    rows: Sequence[Row],
    *,
    width: int = MIDDLE,
    marker: tuple[float, str] | None = None,
    label: str = "",
    name_width: int = 150,
) -> str:
    """Bars of stacked segments; `marker` is a vertical reference. Where there is little room, each has its words above it."""
    if not rows:
        return empty_chart("nothing was recorded")
    most = max([sum(s.value for s in segments) for _, segments, _ in rows] + ([marker[0]] if marker else [])) or 1.0

    def drawn(width: int) -> str:
        draw = _below_their_words if width <= NARROW else _beside_their_words
        height, out = draw(rows, width, name_width, most, marker)
        return svg.inline(width, height, out, css="chart", label=label, style=f"max-width:{round(width * 1.15)}px")

    return at_every_width(width, drawn)


def _beside_their_words(
    rows: Sequence[Row], width: int, name_width: int, most: float, marker: tuple[float, str] | None
) -> tuple[int, list[str]]:
    """Height and parts."""
    row, top = 26, 22 if marker else 4
    inner = width - name_width - 14 - _LETTER * max(len(text) for *_, text in rows)
    height = top + row * len(rows) + 6
    out = []
    for i, (name, segments, text) in enumerate(rows):
        y = top + i * row
        out.append(svg.text(name_width - 10, y + 17, name, css="name", text_anchor="end"))
        end = _segments(out, segments, name_width, y + 5, inner / most)
        out.append(svg.text(end + 6, y + 17, text, css="value ink"))
    if marker:
        out += _reference(name_width + marker[0] / most * inner, marker[1], width, height)
    return height, out


def _below_their_words(
    rows: Sequence[Row], width: int, name_width: int, most: float, marker: tuple[float, str] | None
) -> tuple[int, list[str]]:
    row, top = 42, 22 if marker else 2
    height = top + row * len(rows) + 4
    out = []
    for i, (name, segments, text) in enumerate(rows):
        y = top + i * row
        out.append(svg.text(0, y + 15, name, css="name"))
        out.append(svg.text(width, y + 15, text, css="value ink", text_anchor="end"))
        _segments(out, segments, 0, y + 21, width / most)
    if marker:
        out += _reference(marker[0] / most * width, marker[1], width, height)
    return height, out


def _segments(out: list[str], segments: Sequence[Segment], x: float, y: float, scale: float) -> float:
    """Where the last one ends."""
    for segment in segments:
        length = segment.value * scale
        if length <= 0:
            continue
        out.append(bar_of(segment, x, y, max(1.5, length - 1), 16))
        x += max(1.5, length)
    return x


def _reference(x: float, said: str, width: int, height: int) -> list[str]:
    anchor = "end" if x > width - 140 else "middle"
    line = svg.line(x, 16, x, height - 2, stroke="var(--muted)", stroke_dasharray="3 3")
    return [line, svg.text(x, 11, said, css="note", text_anchor=anchor)]


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
