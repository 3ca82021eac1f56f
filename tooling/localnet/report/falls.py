"""What got less in a run, with the reason that is known for it: a report that shows only what rises is read as praise.

Each measure is compared from the first to the last time it was taken. Where its error is known, a fall of less than two
standard errors is called noise; where it is not, the reason says what else moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grail_core.pages.parts import Cell, badge, card, name, number, section, table, text
from tooling.localnet.report.charts import percent
from tooling.localnet.report.facts import RunFacts
from tooling.localnet.report.summary import Summary

_NOISE = 2.0  # standard errors of the difference

SUCCESS = (
    "The updates of this run did the model more harm than good. The alarms and the KL and clip curves below tell at which "
    "window; a lower learning rate is the first thing to try."
)
FORM = (
    "Chance moves an answer's form with every step, the more the higher the learning rate, and nothing pulls it back until "
    "ill-formed answers, which earn nothing, are among the rollouts learned from: those are two windows old. Some windows "
    "later it mostly comes back; docs/learning.md has measurements."
)
REWARD = (
    "Every window draws other problems, some of them harder, and its rollouts come from an earlier checkpoint, so these do not "
    "compare from window to window as the held-out problems do. If both fall, the model got worse."
)
ENTROPY = (
    "Meant to fall: a policy that learns what earns gets surer of its answers. What falls too far stops learning, and an alarm "
    "says so."
)
UNIQUE = (
    "A surer model answers the same more often, and equal answers to one problem count once. Miners that were rejected or not "
    "drawn count nothing."
)


@dataclass(frozen=True)
class Fall:
    what: str
    first: str
    last: str
    less: str  # by how much, in the same unit
    beyond_noise: bool | None  # None: its noise is not known
    why: str


def falls(facts: RunFacts, summary: Summary) -> tuple[Fall, ...]:
    """Everything that is less at the end than at the beginning."""
    return tuple(_held_out(facts, summary)) + tuple(_by_window(facts))


def falls_section(facts: RunFacts, summary: Summary) -> str:
    """Nothing where nothing fell."""
    found = falls(facts, summary)
    if not found:
        return ""
    kinds = {True: badge("fell", "failed"), False: badge("within noise", ""), None: badge("noise not known", "")}
    rows = [
        (name(f.what), number(f.first), number(f.last), number(f.less), Cell(kinds[f.beyond_noise], "nw"), text(f.why, "long"))
        for f in found
    ]
    heads = ("what", "first#", "last#", "by#", "is it more than noise?", "why")
    return section("What fell", "Whatever was less at the end than at the beginning.", card("", "", table(heads, rows)))


def _held_out(facts: RunFacts, summary: Summary) -> Iterator[Fall]:
    pairs = (
        ("held-out success", summary.eval_before, summary.eval_after, "success", SUCCESS),
        ("well-formed answers, held out", summary.format_before, summary.format_after, "well_formed", FORM),
    )
    ordered = sorted(facts.evaluations, key=lambda one: one.window_index)
    for what, before, after, field, why in pairs:
        if before is None or after is None:
            continue
        least = min(ordered[1:], key=lambda one: float(getattr(one, field)))
        fallen = before - after
        error = sum(float(getattr(one, f"{field}_error")) ** 2 for one in (ordered[0], ordered[-1])) ** 0.5
        on_the_way = ""
        if least is not ordered[-1] and before - getattr(least, field) > max(0.0, fallen):
            fallen = before - getattr(least, field)
            error = sum(float(getattr(one, f"{field}_error")) ** 2 for one in (ordered[0], least)) ** 0.5
            on_the_way = f" Least after {least.window_index} windows: {percent(getattr(least, field))}."
        if fallen > 0:
            less = f"{100 * fallen:.1f} ± {100 * error:.1f} points"
            yield Fall(what, percent(before), percent(after), less, fallen > _NOISE * error, why + on_the_way)


def _by_window(facts: RunFacts) -> Iterator[Fall]:
    measures: tuple[tuple[str, list[float | None], Callable[[float], str], str, str], ...] = (
        ("mean reward of verified rollouts", [t.reward_mean for t in facts.training], lambda v: f"{v:.2f}", "", REWARD),
        (
            "verified rollouts that solve their problem",
            [t.success_mean for t in facts.training],
            lambda v: f"{100 * v:.1f}",
            " %",
            REWARD,
        ),
        ("entropy of the policy", [t.metrics.get("entropy") for t in facts.training], lambda v: f"{v:.3f}", " nats", ENTROPY),
        ("rollouts counted in a window", [float(w.rows_verified) for w in facts.windows], lambda v: f"{v:,.0f}", "", UNIQUE),
    )
    for what, values, form, unit, why in measures:
        known = [v for v in values if v is not None]
        if len(known) > 1 and form(known[-1]) != form(known[0]) and known[-1] < known[0]:
            points = " points" if unit == " %" else unit
            yield Fall(what, form(known[0]) + unit, form(known[-1]) + unit, form(known[0] - known[-1]) + points, None, why)
