"""Honest drift as one SVG text: no dependency, the same bytes for the same calibration.

A row is one condition of one pair of classes, a line in it one checkpoint: its rollouts' log ratios of sketch energies from the
median (dot) over the 99th percentile (tick) to the largest (ring). The dashed line is the threshold of a sample of 64 rollouts;
it bounds a sample's mean, so single rollouts may lie beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from grail_core import svg
from grail_core.calibration.measure import Calibration, Observation
from grail_core.proof.calibration import BOUNDS, share_of_pooled

ROLLOUTS: Final = 64
"""Size of the sample that the threshold is drawn for."""

_FITTED, _RECORDED, _BOUND = "#1b6ca8", "#8a8a8a", "#c0392b"
_EDGE, _LEFT, _WIDTH, _STEP = 8.0, 150.0, 560.0, 2.2  # px; _STEP between the checkpoints of a row
_STATISTIC = "sketch_ratio"


def plot(calibration: Calibration) -> str:
    """The whole figure, about 720 px wide."""
    alpha = share_of_pooled()
    bounds = {key: pair.threshold(_STATISTIC, ROLLOUTS, alpha) for key, pair in calibration.table.pairs.items()}
    low, high = BOUNDS[_STATISTIC]
    high = max(high, *bounds.values())

    def x(value: float) -> float:
        return _LEFT + _WIDTH * (value - low) / (high - low)

    parts = [
        svg.label(
            _EDGE,
            20.0,
            "Honest drift: log ratio of a rollout's sketch energy to the validator's own, by pair of classes and condition",
            bold=True,
        ),
        svg.label(
            _EDGE, 38.0, "one line a checkpoint: median (dot), 99 % (tick), largest (ring); grey: for the record, not fitted"
        ),
    ]
    top = y = 58.0
    rows: list[str] = []
    for key, pair in calibration.table.pairs.items():
        rows.append(svg.label(_EDGE, y + 12, f"miner {pair.miner}, validator {pair.validator}", bold=True))
        y = start = y + 20
        for name, members in calibration.conditions_of(pair).items():
            height = max(15.0, _STEP * len(members) + 7)
            rows.append(svg.label(_LEFT - 8, y + height / 2 + 4, name, anchor="end"))
            rows += _row(members, y + (height - _STEP * (len(members) - 1)) / 2, x)
            y += height
            rows.append(svg.grid_line(_LEFT, y, _LEFT + _WIDTH, y))
        bound = x(bounds[key])
        rows.append(svg.line(bound, start, bound, y, stroke=_BOUND, stroke_width=1.5, stroke_dasharray="4 3"))
        rows.append(svg.label(bound + 8, start - 8, f"{bounds[key]:.3g} at {ROLLOUTS} rollouts", anchor="end", colour=_BOUND))
        y += 12
    ticks = [tick for tick in (-1.0, -0.5, 0.0, 0.5, 1.0) if low <= tick <= high]
    for tick in ticks:
        parts += [svg.grid_line(x(tick), top, x(tick), y), svg.label(x(tick), y + 16, f"{tick:g}", anchor="middle")]
    table = calibration.table
    caption = [f"table {table.version}: {len({o.checkpoint for o in calibration.observations})} checkpoints", table.place]
    parts += rows + [svg.label(_EDGE, y + 40 + 16 * i, line, colour="#555", small=True) for i, line in enumerate(caption)]
    return svg.document(_LEFT + _WIDTH + 30, y + 66, parts)


def _row(members: list[Observation], first: float, x: Callable[[float], float]) -> list[str]:
    """One condition: a path for all lines and ticks, one for the dots, two for the rings."""
    lines, dots, rings = "", "", ""
    for number, one in enumerate(members):
        y = first + _STEP * number
        values = one.values[_STATISTIC]
        median, high, largest = (x(float(value)) for value in (*np.quantile(values, (0.5, 0.99)), values.max()))
        lines += f"M{median:.1f} {y:.1f}H{largest:.1f}M{high:.1f} {y - 1.8:.1f}v3.6"
        dots += f"M{median:.1f} {y:.1f}h0"
        rings += f"M{largest:.1f} {y:.1f}h0"
    colour = _FITTED if members[0].fitted else _RECORDED
    return [_path(lines, colour, 1), _path(dots, colour, 3.4), _path(rings, colour, 3.6), _path(rings, "white", 2)]


def _path(steps: str, colour: str, width: float) -> str:
    return svg.path(steps, fill="none", stroke=colour, stroke_width=width, stroke_linecap="round")
