"""The report's section on the update: curves of what the trainer told of each window, its alarms, and what each name means.

Names, units and meanings are the trainer's own (`grail_trainer.metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grail_core.pages.parts import Cell, badge, card, legend, mono, name, number, section, small_grid, table, text
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_trainer.metrics import METRICS
from tooling.localnet.report.charts import (
    Formatter,
    Line,
    Mark,
    Point,
    Segment,
    line_chart,
    percent,
    stacked_columns,
)
from tooling.localnet.report.facts import RunFacts, TrainingFact

_WIDTH, _HEIGHT = 360, 220
_COLOURS = ("accent", "m4", "m2")


@dataclass(frozen=True)
class _Chart:
    title: str
    lines: Mapping[str, str]  # metric → its name in the legend
    form: Formatter
    from_zero: bool = False


def _short(value: float) -> str:
    return f"{value:.3g}"


def _fine(value: float) -> str:
    return f"{value:.4f}"


_FORM = "Well-formed answers"
_FACTOR = "learning_rate_factor"  # has a curve only where an alarm changed it

_CHARTS = (
    _Chart("Reward", {"learned_reward_mean": "learned from", "reward_mean": "all accepted"}, _short),
    _Chart("Success", {"learned_success_mean": "learned from", "success_mean": "all accepted"}, percent),
    _Chart(_FORM, {"well_formed_share": "learned from"}, percent),
    _Chart("Entropy", {"entropy": "mean", "entropy_least": "least of a step"}, _short),
    _Chart("KL", {"kl_behaviour": "to behaviour", "kl_reference": "to reference"}, _short, from_zero=True),
    _Chart("Outside the clip, capped", {"clip_share": "clipped", "importance_capped_share": "capped"}, percent, from_zero=True),
    _Chart("Ratios", {"importance_mean": "proximal : behaviour", "ratio_mean": "trained : proximal"}, _fine),
    _Chart("Gradient norm", {"gradient_norm": "mean", "gradient_norm_max": "greatest"}, _short, from_zero=True),
    _Chart("Completion length", {"length_mean": "tokens, mean"}, _short),
    _Chart("Weights that changed", {"changed_share": "as published"}, percent, from_zero=True),
    _Chart("Learning rate", {_FACTOR: "alarms' factor"}, _short, from_zero=True),
)


def update(facts: RunFacts) -> str:
    """The whole section; nothing where no window was learned from."""
    lede = "What the trainer told of each window, by windows of training. " + (
        "A red line is an alarm; docs/trainer.md says what raises one and what it does."
        if any(one.alarms for one in facts.training)
        else "Of its alarms none was raised; docs/trainer.md says what raises one."
    )
    if not facts.training:
        return ""
    places = [_place(facts, one.window) for one in facts.training]
    labels = [str(index) for index in range(max(places) + 1)]  # 0 is before any training
    marks = [
        Mark(place, f"window {one.window}: {'; '.join(f'{a.name} ({a.action}): {a.reason}' for a in one.alarms)}")
        for place, one in zip(places, facts.training, strict=True)
        if one.alarms
    ]
    cards = [_curve(chart, facts, places, labels, marks) for chart in _CHARTS]
    cards.append(card("Groups", "", _groups(facts.training, places)))
    return section("The update", lede, small_grid(*filter(None, cards)) + _alarms(facts.training) + _meanings(facts.training))


def _place(facts: RunFacts, window: int) -> int:
    """1 for the first window that could be learned from; 0 is before any training."""
    return (window - (facts.first_window or 0)) // WINDOW_LENGTH + 1


def _curve(chart: _Chart, facts: RunFacts, places: Sequence[int], labels: Sequence[str], marks: Sequence[Mark]) -> str:
    """Empty where none of its metrics was told."""
    lines: list[Line] = []
    for (metric, said), colour in zip(chart.lines.items(), _COLOURS, strict=False):
        points = tuple(
            Point(place, one.metrics[metric], 0.0, f"window {one.window}, {metric}: {one.metrics[metric]:.4g}")
            for place, one in zip(places, facts.training, strict=True)
            if metric in one.metrics
        )
        if points and not (metric == _FACTOR and all(point.value == 1 for point in points)):
            lines.append(Line(said, points, colour, label_last=not lines))
    if lines and chart.title == _FORM and (held := _held_out_form(facts, len(labels))):
        lines.append(held)
    if not lines:
        return ""
    first = int(min(point.position for line in lines for point in line.points))
    lines = [replace(line, points=tuple(replace(p, position=p.position - first) for p in line.points)) for line in lines]
    unit = next(METRICS[metric].unit for metric in chart.lines if metric in METRICS)
    drawn = line_chart(
        lines,
        labels[first:],
        y_format=chart.form,
        x_name="windows of training",
        y_name=unit or chart.title.lower(),
        marks=[replace(mark, position=mark.position - first) for mark in marks],
        width=_WIDTH,
        height=_HEIGHT,
        from_zero=chart.from_zero,
        label=f"{chart.title} over windows of training",
    )
    return card(chart.title, "", drawn + legend([(line.name, line.colour) for line in lines]))


def _held_out_form(facts: RunFacts, places: int) -> Line | None:
    """Well-formed share of held-out problems, which every checkpoint is asked alike."""
    points = tuple(
        Point(one.window_index, one.well_formed, one.well_formed_error, f"held out: {percent(one.well_formed)}")
        for one in sorted(facts.evaluations, key=lambda one: one.window_index)
        if one.window_index < places
    )
    return Line("held out", points, "m4", label_last=False) if points else None


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
    drawn = stacked_columns(
        columns,
        y_format=_short,
        x_name="windows of training",
        y_name="groups of 16 rollouts",
        width=_WIDTH,
        height=_HEIGHT,
        label="Groups by window",
    )
    told = {segment.name for _, segments in columns for segment in segments}
    return drawn + legend([(said, colour) for _, said, colour in parts if said in told])


def _alarms(training: Sequence[TrainingFact]) -> str:
    rows = [
        (
            number(str(one.window)),
            name(alarm.name),
            Cell(badge(alarm.action, _KINDS.get(alarm.action, ""))),
            text(alarm.reason, "long"),
        )
        for one in training
        for alarm in one.alarms
    ]
    if not rows:
        return ""
    return card("Alarms", "", table(("window#", "alarm", "action", "value against bound"), rows), wide=True)


_KINDS = {"slow": "inconclusive", "undo": "failed", "stop": "failed"}


def _meanings(training: Sequence[TrainingFact]) -> str:
    first, last = training[0].metrics, training[-1].metrics
    rows = [
        (mono(metric), _value(first.get(metric)), _value(last.get(metric)), text(about.unit), text(about.about, "long"))
        for metric, about in METRICS.items()
        if metric in last
    ]
    if not rows:
        return ""
    heads = ("metric", "first window#", "last window#", "unit", "meaning")
    body = f"<details><summary>{len(rows)} metrics, with unit and meaning</summary>{table(heads, rows)}</details>"
    return card("", "", body, wide=True)


def _value(value: float | None) -> Cell:
    if value is None:
        return number("–")
    return number(f"{value:,.0f}" if value == int(value) and abs(value) < 1e12 else f"{value:.4g}")
