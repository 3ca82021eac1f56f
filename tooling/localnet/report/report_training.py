"""The report's section on the update: curves of what the trainer told of each window, its alarms, and what each name means.

Names, units and meanings are the trainer's own (`grail_trainer.metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grail_core.protocol.constants import WINDOW_LENGTH
from grail_trainer.metrics import METRICS
from tooling.localnet.report.charts import (
    Formatter,
    Line,
    Mark,
    Point,
    Segment,
    empty_chart,
    line_chart,
    percent,
    stacked_columns,
)
from tooling.localnet.report.facts import RunFacts, TrainingFact
from tooling.localnet.report.page import Cell, badge, card, legend, mono, name, number, section, small_grid, table, text

_WIDTH, _HEIGHT = 360, 190
_COLOURS = ("accent", "m4", "m2")


@dataclass(frozen=True)
class _Chart:
    title: str
    lines: Mapping[str, str]  # metric → its name in the legend
    form: Formatter
    from_zero: bool = False


def _short(value: float) -> str:
    return f"{value:.3g}"


_CHARTS = (
    _Chart("Reward", {"learned_reward_mean": "learned from", "reward_mean": "all accepted"}, _short),
    _Chart("Success", {"learned_success_mean": "learned from", "success_mean": "all accepted"}, percent),
    _Chart("Well-formed answers", {"well_formed_share": "learned from"}, percent),
    _Chart("Entropy", {"entropy": "mean", "entropy_least": "least of a step"}, _short),
    _Chart("KL", {"kl_behaviour": "to behaviour", "kl_reference": "to reference"}, _short, from_zero=True),
    _Chart("Outside the clip, capped", {"clip_share": "clipped", "importance_capped_share": "capped"}, percent, from_zero=True),
    _Chart("Ratios", {"importance_mean": "proximal : behaviour", "ratio_mean": "trained : proximal"}, _short),
    _Chart("Gradient norm", {"gradient_norm": "mean", "gradient_norm_max": "greatest"}, _short, from_zero=True),
    _Chart("Completion length", {"length_mean": "tokens, mean"}, _short),
    _Chart("Weights that changed", {"changed_share": "as published"}, percent, from_zero=True),
    _Chart("Learning rate", {"learning_rate_factor": "alarms' factor"}, _short, from_zero=True),
)


def update(facts: RunFacts) -> str:
    """The whole section; a sentence where nothing was learned from."""
    lede = (
        "What the trainer told of each window (`window_trained`), by windows of training. A red line is an alarm; "
        "docs/trainer.md says what raises one and what it does."
    )
    if not facts.training:
        return section("The update", lede, empty_chart("no window was learned from"))
    places = [_place(facts, one.window) for one in facts.training]
    labels = [str(index) for index in range(max(places) + 1)]
    marks = [
        Mark(place, f"window {one.window}: {'; '.join(f'{a.name} ({a.action}): {a.reason}' for a in one.alarms)}")
        for place, one in zip(places, facts.training, strict=True)
        if one.alarms
    ]
    cards = [_curve(chart, facts.training, places, labels, marks) for chart in _CHARTS]
    cards.append(card("Groups", "by window", _groups(facts.training, places)))
    return section("The update", lede, small_grid(*filter(None, cards)) + _alarms(facts.training) + _meanings(facts.training))


def _place(facts: RunFacts, window: int) -> int:
    """1 for the first window that could be learned from; 0 is before any training."""
    return (window - (facts.first_window or 0)) // WINDOW_LENGTH + 1


def _curve(
    chart: _Chart, training: Sequence[TrainingFact], places: Sequence[int], labels: Sequence[str], marks: Sequence[Mark]
) -> str:
    """Empty where none of its metrics was told."""
    lines = []
    for (metric, said), colour in zip(chart.lines.items(), _COLOURS, strict=False):
        points = tuple(
            Point(place, one.metrics[metric], 0.0, f"window {one.window}, {metric}: {one.metrics[metric]:.4g}")
            for place, one in zip(places, training, strict=True)
            if metric in one.metrics
        )
        if points:
            lines.append(Line(said, points, colour, label_last=not lines))
    if not lines:
        return ""
    unit = next(METRICS[metric].unit for metric in chart.lines if metric in METRICS)
    drawn = line_chart(
        lines,
        labels,
        y_format=chart.form,
        marks=marks,
        width=_WIDTH,
        height=_HEIGHT,
        from_zero=chart.from_zero,
        label=f"{chart.title} over windows of training",
    )
    return card(chart.title, unit or "by window", drawn + legend([(line.name, line.colour) for line in lines]))


def _groups(training: Sequence[TrainingFact], places: Sequence[int]) -> str:
    parts = (
        ("groups", "learned from", "accent"),
        ("groups_without_variance", "all rewards the same", "m5"),
        ("groups_dropped", "dropped", "bad"),
    )
    columns = [
        (
            str(place),
            [
                Segment(said, one.metrics.get(metric, 0.0), colour, f"window {one.window}, {said}: {one.metrics[metric]:.0f}")
                for metric, said, colour in parts
                if one.metrics.get(metric)
            ],
        )
        for place, one in zip(places, training, strict=True)
    ]
    drawn = stacked_columns(columns, y_format=_short, width=_WIDTH, height=_HEIGHT, label="Groups by window")
    return drawn + legend([(said, colour) for _, said, colour in parts])


def _alarms(training: Sequence[TrainingFact]) -> str:
    rows = [
        (number(str(one.window)), name(alarm.name), Cell(badge(alarm.action, _KINDS.get(alarm.action, ""))), text(alarm.reason))
        for one in training
        for alarm in one.alarms
    ]
    if not rows:
        return card("Alarms", "", empty_chart("none was raised"), wide=True)
    return card("Alarms", "", table(("window#", "alarm", "action", "value against bound"), rows), wide=True)


_KINDS = {"slow": "inconclusive", "undo": "failed", "stop": "failed"}


def _meanings(training: Sequence[TrainingFact]) -> str:
    first, last = training[0].metrics, training[-1].metrics
    rows = [
        (mono(metric), _value(first.get(metric)), _value(last.get(metric)), text(about.unit), text(about.about))
        for metric, about in METRICS.items()
        if metric in last
    ]
    heads = ("metric", "first window#", "last window#", "unit", "meaning")
    body = f"<details><summary>{len(rows)} metrics, with unit and meaning</summary>{table(heads, rows)}</details>"
    return card("", "", body, wide=True)


def _value(value: float | None) -> Cell:
    if value is None:
        return number("–")
    return number(f"{value:,.0f}" if value == int(value) and abs(value) < 1e12 else f"{value:.4g}")
