"""The study's two plots as SVG text: no dependency, the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLOURS = ("#1b6ca8", "#c0392b", "#27864a", "#8e44ad", "#d68910", "#117a8b", "#7f8c8d", "#a04000", "#2c3e50")
_STYLE = "font-family:system-ui,sans-serif;font-size:12px"


def roc(alphas: Sequence[float], curves: Mapping[str, Sequence[float]]) -> str:
    """Power in one window against the false-reject rate, one line a deviation."""
    left, top, width, height = 56, 34, 470, 330
    low, high = math.log10(alphas[0]), math.log10(alphas[-1])

    def x(alpha: float) -> float:
        return left + width * (math.log10(alpha) - low) / (high - low)

    def y(power: float) -> float:
        return top + height * (1 - power)

    parts = [_text(left, 18, "Windows of 64 rollouts rejected, by the statistic's false-reject rate", bold=True)]
    for exponent in range(round(low), round(high) + 1):
        at = x(10.0**exponent)
        parts += [_line(at, top, at, top + height, "#e5e5e5"), _text(at, top + height + 16, f"1e{exponent}", anchor="middle")]
    for step in range(6):
        at = y(step / 5)
        parts += [_line(left, at, left + width, at, "#e5e5e5"), _text(left - 6, at + 4, f"{step / 5:.1f}", anchor="end")]
    chosen = x(1e-6)
    parts.append(_line(chosen, top, chosen, top + height, "#555", dash=True))
    for index, (name, powers) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        points = " ".join(f"{x(a):.1f},{y(p):.1f}" for a, p in zip(alphas, powers, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = top + height + 40 + 18 * index
        parts += [_line(left, at - 4, left + 22, at - 4, colour, thick=True), _text(left + 30, at, name)]
    return _svg(left + width + 40, top + height + 50 + 18 * len(curves), parts)


def signal_and_noise(found: Mapping[str, Any]) -> str:
    """RMS of a sketch coordinate, logarithmic: what other weights change beside what other kernels change."""
    bars: list[tuple[str, float, str]] = []
    for name, signal in found["alternatives"].items():
        bars.append((f"Δ to {name}", signal["float32"], "#1b6ca8"))
    bars.append(("kernel noise: bf16 against float32", found["bf16_against_float32"], "#c0392b"))
    bars += [(f"kernel noise: {name}", value, "#e59b92") for name, value in found["kernel_noise"].items()]
    left, top, width, step = 250, 44, 420, 22
    low, high = 1e-4, 2e-2

    def x(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return left + width * min(1.0, share)

    parts = [_text(8, 18, "√⟨Δ,Δ⟩ of a sketch coordinate against kernel noise (root mean squares)", bold=True)]
    bottom = top + step * len(bars)
    for tick in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
        parts += [
            _line(x(tick), top - 6, x(tick), bottom, "#e5e5e5"),
            _text(x(tick), bottom + 16, f"{tick:g}", anchor="middle"),
        ]
    for index, (name, value, colour) in enumerate(bars):
        row = top + step * index
        parts.append(f'<rect x="{left}" y="{row}" width="{x(value) - left:.1f}" height="{step - 7}" fill="{colour}"/>')
        parts += [_text(left - 6, row + 12, name, anchor="end"), _text(x(value) + 5, row + 12, f"{value:.2g}")]
    return _svg(left + width + 70, bottom + 30, parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" style="{_STYLE}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight} fill="#222">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: bool = False, thick: bool = False) -> str:
    extra = ' stroke-dasharray="4 3"' if dash else ""
    width = 3 if thick else 1
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{extra}/>'
