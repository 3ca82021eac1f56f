"""The study's two plots as SVG text: no dependency, the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from grail_core import svg

_COLOURS = ("#1b6ca8", "#c0392b", "#27864a", "#8e44ad", "#d68910", "#117a8b", "#7f8c8d", "#a04000", "#2c3e50")


def roc(alphas: Sequence[float], curves: Mapping[str, Sequence[float]]) -> str:
    """Power in one window against the false-reject rate, one line a deviation."""
    left, top, width, height = 56.0, 34.0, 470.0, 330.0
    low, high = math.log10(alphas[0]), math.log10(alphas[-1])

    def x(alpha: float) -> float:
        return left + width * (math.log10(alpha) - low) / (high - low)

    def y(power: float) -> float:
        return top + height * (1 - power)

    parts = [svg.label(left, 18.0, "Windows of 64 rollouts rejected, by the statistic's false-reject rate", bold=True)]
    for exponent in range(round(low), round(high) + 1):
        at = x(10.0**exponent)
        parts += [svg.grid_line(at, top, at, top + height), svg.label(at, top + height + 16, f"1e{exponent}", anchor="middle")]
    for step in range(6):
        at = y(step / 5)
        parts += [svg.grid_line(left, at, left + width, at), svg.label(left - 6, at + 4, f"{step / 5:.1f}", anchor="end")]
    chosen = x(1e-6)
    parts.append(svg.line(chosen, top, chosen, top + height, stroke="#555", stroke_width=1, stroke_dasharray="4 3"))
    for index, (name, powers) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        points = [(x(a), y(p)) for a, p in zip(alphas, powers, strict=True)]
        parts.append(svg.polyline(points, fill="none", stroke=colour, stroke_width=2))
        at = top + height + 40 + 18 * index
        parts += [svg.line(left, at - 4, left + 22, at - 4, stroke=colour, stroke_width=3), svg.label(left + 30, at, name)]
    return svg.document(left + width + 40, top + height + 50 + 18 * len(curves), parts)


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

    parts = [svg.label(8.0, 18.0, "√⟨Δ,Δ⟩ of a sketch coordinate against kernel noise (root mean squares)", bold=True)]
    bottom = top + step * len(bars)
    for tick in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
        parts += [
            svg.grid_line(x(tick), top - 6.0, x(tick), float(bottom)),
            svg.label(x(tick), bottom + 16.0, f"{tick:g}", anchor="middle"),
        ]
    for index, (name, value, colour) in enumerate(bars):
        row = top + step * index
        parts.append(svg.rect(left, row, x(value) - left, step - 7, fill=colour))
        parts += [svg.label(left - 6.0, row + 12.0, name, anchor="end"), svg.label(x(value) + 5, row + 12.0, f"{value:.2g}")]
    return svg.document(left + width + 70, bottom + 30, parts)
