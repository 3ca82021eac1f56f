"""The report's sections on learning, on what was refused, on what it cost, on parameters and on how to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from grail_core.pages.parts import Cell, badge, card, filled, grid, legend, mono, name, number, section, table, text
from tooling.localnet.report.bars import bars, bullet
from tooling.localnet.report.charts import Level, Line, Point, Segment, line_chart, percent, seconds, size
from tooling.localnet.report.facts import EvaluationFact, RejectFact, RunFacts, TrainingFact
from tooling.localnet.report.summary import Summary, seconds_per_window

ROLE_COLOURS = {"miner": "m2", "validator": "m3", "trainer": "m4"}


# --- learning ----------------------------------------------------------------------------------------------------------


def learning(facts: RunFacts, summary: Summary) -> str:
    """Nothing where no checkpoint was evaluated and no window learned from."""
    cards = []
    if facts.evaluations:
        cards.append(card("Held-out success", "share solved, by windows of training", _held_out(facts.evaluations, summary)))
    if any(t.reward_mean is not None for t in facts.training):
        cards.append(card("Verified rollouts", "mean of the groups trained on, by window", _rewards(facts)))
    if not cards:
        return ""
    lede = (
        "Held-out problems and their sampling seeds are fixed for the whole run, so the points compare. Whiskers are one "
        "standard error. Verified rollouts are of other problems in every window, so those points compare only roughly."
    )
    return section("Learning", lede, grid(*cards))


def _held_out(evaluations: Sequence[EvaluationFact], summary: Summary) -> str:
    ordered = sorted(evaluations, key=lambda e: e.window_index)
    points = tuple(
        Point(
            e.window_index,
            e.success,
            e.success_error,
            f"after {e.window_index} windows: {percent(e.success)} ± {percent(e.success_error)} of {e.problems:,} problems",
        )
        for e in ordered
    )
    levels = []
    if summary.eval_constant:
        levels.append(Level("best constant answer", summary.eval_constant))
    if summary.eval_control is not None:
        levels.append(Level("control, learning rate 0", summary.eval_control, "warn"))
    digits = 0 if max(p.value for p in points) > 0.1 else 1
    return line_chart(
        (Line("held-out success", points, "accent"),),
        [str(i) for i in range(ordered[-1].window_index + 1)],
        y_format=lambda v: percent(v, digits),
        x_name="windows of training",
        y_name="share of held-out problems solved",
        levels=levels,
        label="Held-out success over windows of training",
    )


def _rewards(facts: RunFacts) -> str:
    trained = [t for t in facts.training if t.reward_mean is not None]
    lines = [Line("mean reward", _series(trained, "reward_mean"), "m2")]
    if trained and all(t.success_mean is not None for t in trained):
        lines.append(Line("share solved", _series(trained, "success_mean"), "m3"))
    chart = line_chart(
        lines,
        [str(_index(facts, t.window)) for t in trained],
        y_format=lambda v: f"{v:.2f}",
        x_name="window of training",
        y_name="mean over rollouts, 0 to 1",
        label="Reward of the rollouts that the trainer verified",
    )
    return chart + legend([(line.name, line.colour) for line in lines])


def _series(trained: Sequence[TrainingFact], field: str) -> tuple[Point, ...]:
    values = [float(getattr(t, field)) for t in trained]
    return tuple(Point(i, v, 0.0, f"window {t.window}: {v:.3f}") for i, (t, v) in enumerate(zip(trained, values, strict=True)))


def _index(facts: RunFacts, window: int) -> int:
    return (window - facts.first_window) // 30 + 1 if facts.first_window is not None else window


# --- refusals ----------------------------------------------------------------------------------------------------------


def refused(facts: RunFacts, per: str = "window") -> str:
    """`per`: what work comes in, a window or a round. Nothing where no check rejected anything."""
    if not facts.rejects:
        return ""
    groups: dict[tuple[str, str], list[RejectFact]] = {}
    by_check: dict[str, set[tuple[int, str]]] = {}
    for reject in facts.rejects:
        groups.setdefault((reject.miner, reject.check), []).append(reject)
        by_check.setdefault(reject.check, set()).add((reject.window, reject.miner))
    chart = bars(
        [
            (check, [Segment(check, float(len(found)), "bad")], f"{len(found)} miner-{per}{'s' if len(found) != 1 else ''}")
            for check, found in sorted(by_check.items(), key=lambda item: -len(item[1]))
        ],
        name_width=170,
        label="Rejects by check",
    )
    rows = [_refusal(miner, check, members) for (miner, check), members in groups.items()]
    heads = ("miner", "check", "value#", "bound#", "value against bound", f"{per}s#", "findings#", "detail")
    return section(
        "What was refused",
        "A reject names the check, the value and the bound. The bar is the value, the tick the bound; the numbers are those of "
        "the first finding of the kind.",
        card("", "", chart + table(heads, rows)),
    )


def _refusal(miner: str, check: str, members: Sequence[RejectFact]) -> tuple[Cell, ...]:
    first = next((r for r in members if _number(r.value) is not None), members[0])
    value, bound = _number(first.value), _number(first.threshold)
    return (
        name(miner),
        Cell(badge(check, "failed")),
        number(_short(first.value)),
        number(_short(first.threshold)),
        Cell(bullet(value, bound) if value is not None and bound is not None else ""),
        number(str(len({r.window for r in members}))),
        number(str(len(members))),
        text(first.detail, "long"),
    )


def _number(value: str) -> float | None:
    try:
        parsed = float(value)
    except ValueError:
        return None
    return parsed if abs(parsed) < 1e300 else None


def _short(value: str) -> str:
    parsed = _number(value)
    if parsed is None:
        return value if len(value) <= 24 else value[:21] + "…"
    return f"{parsed:.4g}" if parsed != int(parsed) else f"{int(parsed):,}"


# --- costs -------------------------------------------------------------------------------------------------------------


def costs(facts: RunFacts, per: str = "window") -> str:
    """`per`: what work comes in, a window or a round."""
    window_s = seconds_per_window(facts)
    window = (window_s, f"a {per}, {window_s:.0f} s") if window_s else None
    cards = []
    if sizes := _sizes(facts):
        cards.append(
            card(
                "Checkpoints",
                f"bytes as published, by first valid {per}",
                bars(sizes, name_width=110, label="Checkpoint sizes"),
            )
        )
    if timings := _timings(facts):
        chart = bars(timings, name_width=150, label="Time by phase", marker=window)
        cards.append(card("Time by phase", f"real seconds of one {per}, mean of one process", chart))
    sections = (grid(*cards) if cards else "") + _processes(facts)
    if not sections:
        return ""
    return section(
        "What it cost",
        f"Sizes as stored. Times are means of one process in one {per}; all processes of the run share this machine "
        f"({facts.machine.get('processors', '?')} processors).",
        sections,
    )


def _processes(facts: RunFacts) -> str:
    """Those that did not just run and end well."""
    rows = [
        (
            name(p.name),
            text(p.role),
            number(str(p.restarts or "–")),
            number(str(p.killed_on_purpose or "–")),
            mono(", ".join(map(str, p.exit_codes)) or "–"),
        )
        for p in facts.processes
        if p.restarts or p.killed_on_purpose or any(p.exit_codes)
    ]
    if not rows:
        return ""
    heads = ("name", "role", "restarted#", "killed on purpose#", "exit codes")
    sub = f"{len(rows)} of {len(facts.processes)}; the others ran from the beginning to the end"
    return card("Processes that ended on the way", sub, filled(heads, rows), wide=True)


def _sizes(facts: RunFacts) -> list[tuple[str, list[Segment], str]]:
    rows = []
    for c in facts.checkpoints:
        if c.full_bytes:
            rows.append((f"{c.valid_from} full", [Segment("full", float(c.full_bytes), "m5")], size(c.full_bytes)))
        if c.delta_bytes:
            changed = f" · {percent(c.changed_share)} changed" if c.changed_share is not None else ""
            rows.append(
                (f"{c.valid_from} delta", [Segment("delta", float(c.delta_bytes), "accent")], size(c.delta_bytes) + changed)
            )
    return rows


def _timings(facts: RunFacts) -> list[tuple[str, list[Segment], str]]:
    phases: dict[tuple[str, str], list[float]] = {}
    for p in facts.phases:
        if not p.phase.endswith("one rollout"):
            phases.setdefault((p.role, p.phase), []).append(p.seconds)
    order = list(ROLE_COLOURS)
    rows = []
    for (role, phase), values in sorted(phases.items(), key=lambda item: order.index(item[0][0])):
        title = f"mean of {len(values)}, longest {seconds(max(values))}"
        rows.append((f"{role}: {phase}", [Segment(phase, fmean(values), ROLE_COLOURS[role], title)], seconds(fmean(values))))
    return rows


# --- provenance --------------------------------------------------------------------------------------------------------


def parameters(facts: RunFacts) -> str:
    """Nothing where the network is subnet 81's."""
    if not facts.parameters:
        return ""
    rows = [(Cell(f"<code>{escape(p.name)}</code>", "nw"), mono(p.here), mono(p.subnet_81)) for p in facts.parameters]
    return section(
        "Where this network differs from subnet 81",
        "Every parameter that is not the same; all others are. The digest of all of them is part of the network id, so nothing "
        "made here is valid there.",
        card("", "", table(("parameter", "here", "subnet 81"), rows)),
    )


def provenance(facts: RunFacts) -> str:
    pairs = [
        ("environment", facts.env_id),
        ("model", facts.model + (f", {facts.parameters_total:,} parameters" if facts.parameters_total else "")),
        ("seed", str(facts.seed)),
        ("started", facts.started_at),
        ("lasted", seconds(facts.seconds_total)),
        ("clock", "the wall clock" if facts.real_time else "virtual: blocks followed the work"),
        *(("gone on without", str(fact)) for fact in facts.not_waited),
        *sorted(facts.machine.items()),
        *sorted(facts.versions.items()),
    ]
    hotkeys = [(name(m.name), number(str(m.uid)), mono(m.hotkey)) for m in facts.miners]
    return section(
        "Reproduce it",
        "Keys, chain, problems and sampling seeds follow from the seed.",
        f'<pre>{escape(facts.command)}</pre><div style="height:14px"></div>'
        + grid(
            card("Versions and machine", "", table((), [(name(k), mono(v)) for k, v in pairs])),
            card("Hotkeys", "", table(("miner", "UID#", "hotkey"), hotkeys)),
        ),
    ) + (
        "<footer>The numbers are in <code>summary.json</code> beside this page; signed verdicts lie in the validators' buckets "
        "under <code>store/</code>, the processes' logs under <code>logs/</code>.</footer>"
    )
