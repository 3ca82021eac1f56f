"""The report's sections: learning, weights and verdicts, what was refused, what it cost, parameters, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from tooling.localnet.plan import HONEST
from tooling.localnet.report.charts import (
    Level,
    Line,
    Point,
    Segment,
    bars,
    bullet,
    empty_chart,
    line_chart,
    percent,
    seconds,
    size,
    stacked_columns,
)
from tooling.localnet.report.facts import EvaluationFact, MinerIdentity, RejectFact, RunFacts, TrainingFact
from tooling.localnet.report.page import Cell, badge, card, grid, legend, mono, name, number, section, table, text
from tooling.localnet.report.summary import Summary, seconds_per_window

HONEST_COLOURS = ("m1", "m2", "m3", "m4", "m5", "m6")
ROLE_COLOURS = {"miner": "m2", "validator": "m3", "trainer": "m4"}
CELL_TEXT = {"failed": "failed", "absent": "–", "not_selected": "not drawn", "inconclusive": "open"}


def miner_colours(miners: Sequence[MinerIdentity]) -> dict[str, str]:
    honest = [m.name for m in miners if m.strategy == HONEST]
    colours = {miner: HONEST_COLOURS[i % len(HONEST_COLOURS)] for i, miner in enumerate(honest)}
    return colours | {m.name: "cheat" for m in miners if m.strategy != HONEST}


# --- learning ----------------------------------------------------------------------------------------------------------


def learning(facts: RunFacts, summary: Summary) -> str:
    return section(
        "Learning",
        "Held-out problems and their sampling seeds are fixed for the whole run, so the points compare. Whiskers are one "
        "standard error.",
        grid(
            card("Held-out success", "share solved, by windows of training", _held_out(facts.evaluations, summary)),
            card("Verified rollouts", "mean of the groups trained on, by window", _rewards(facts)),
        ),
    )


def _held_out(evaluations: Sequence[EvaluationFact], summary: Summary) -> str:
    if not evaluations:
        return empty_chart("no checkpoint was evaluated")
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
        label="Reward of the rollouts that the trainer verified",
    )
    return chart + legend([(line.name, line.colour) for line in lines] if trained else ())


def _series(trained: Sequence[TrainingFact], field: str) -> tuple[Point, ...]:
    values = [float(getattr(t, field)) for t in trained]
    return tuple(Point(i, v, 0.0, f"window {t.window}: {v:.3f}") for i, (t, v) in enumerate(zip(trained, values, strict=True)))


def _index(facts: RunFacts, window: int) -> int:
    return (window - facts.first_window) // 30 + 1 if facts.first_window is not None else window


# --- weights and verdicts ----------------------------------------------------------------------------------------------


def weights_and_verdicts(facts: RunFacts, summary: Summary) -> str:
    colours = miner_colours(facts.miners)
    validator = facts.validators[0] if facts.validators else ""
    cheats = [m for m in facts.miners if m.strategy != HONEST]
    names = [(m.name, colours[m.name]) for m in facts.miners if m.strategy == HONEST]
    if cheats:
        names.append((f"{cheats[0].name} ({cheats[0].strategy})" if len(cheats) == 1 else "cheating miners", "cheat"))
    burn = f" The burn UID holds {percent(summary.burn_weight, 0)}." if summary.burn_weight else ""
    final = bars(
        [(m.name, [Segment(m.name, m.weight, colours[m.name])], percent(m.weight, 2)) for m in summary.miners],
        label="Weight at the end",
        name_width=90,
    )
    work = table(
        ("miner", "strategy", "unique valid rollouts#", "windows failed#"),
        [
            (name(m.name), text(m.strategy), number(f"{m.unique_valid:,}"), number(str(m.windows_failed or "–")))
            for m in summary.miners
        ],
    )
    return section(
        "Weights and verdicts",
        "A weight is earned by verified work alone: it grows with the fourth power of it, and a failed window takes it away "
        "for 14 to 36, the longer the less is checked.",
        grid(
            card(
                "Weights over time",
                f"shares of what miners earn, by block at which {validator} set them",
                weight_columns(facts, colours, validator) + legend(names),
            ),
            card("At the end, on the chain", f"share of all weight.{burn}", final + work),
            card(
                "Every miner in every window",
                "rollouts counted, or what came instead, as signed by the validators; the reason shows on hovering",
                _matrix(facts, summary),
                wide=True,
            ),
        ),
    )


def weight_columns(facts: RunFacts, colours: dict[str, str], validator: str) -> str:
    by_uid = {m.uid: m for m in facts.miners}
    columns = []
    for fact in sorted((w for w in facts.weights if w.validator == validator), key=lambda w: w.block):
        earned = {uid: share for uid, share in sorted(fact.shares.items()) if uid in by_uid}
        total = sum(earned.values())
        segments = [
            Segment(
                by_uid[uid].name,
                share / total,
                colours[by_uid[uid].name],
                f"{by_uid[uid].name}: {percent(share / total)} of what miners earn, {percent(share, 2)} of all weight",
            )
            for uid, share in earned.items()
            if total
        ]
        columns.append((str(fact.block), segments))
    return stacked_columns(columns, y_format=lambda v: percent(v, 0), ceiling=1.0, label="Weight by miner over blocks")


def _matrix(facts: RunFacts, summary: Summary) -> str:
    if not facts.windows:
        return empty_chart("no window was judged")
    rows = {(r.miner, r.window): r for r in facts.miner_windows}
    body = []
    for miner in summary.miners:
        cells = []
        for window in facts.windows:
            row = rows.get((miner.name, window.window))
            outcome = row.outcome if row else "absent"
            shown = str(row.unique_valid) if row and outcome == "accepted" else CELL_TEXT.get(outcome, outcome)
            title = escape(row.reason if row and row.reason else outcome.replace("_", " "), quote=True)
            cells.append(f'<td><span class="cell {escape(outcome)}" title="{title}">{escape(shown)}</span></td>')
        body.append(f"<tr><td>{escape(miner.name)}</td>{''.join(cells)}<td>{miner.unique_valid:,}</td></tr>")
    verdicts = {True: badge("equal", "yes"), False: badge("differ", "no"), None: "–"}
    agree = "".join(f"<td>{verdicts[w.bodies_equal]}{'' if w.scores_compared else ' *'}</td>" for w in facts.windows)
    missed = [
        escape(f"{validator}, window {window.window}: {why}")
        for window in facts.windows
        for validator, why in sorted(window.missed_by.items())
    ]
    if any(not w.scores_compared and w.bodies_equal is not None for w in facts.windows):
        missed.append("* compared without scores and weights, which sum up the windows that a validator saw itself")
    head = "".join(f"<th>{w.window}</th>" for w in facts.windows)
    notes = f'<p class="sub">{"<br>".join(missed)}</p>' if missed else ""
    return (
        f'<div class="scroll"><table class="matrix"><tr><th>window</th>{head}<th>counted</th></tr>{"".join(body)}'
        f"<tr><td>verdict bodies</td>{agree}<td></td></tr></table></div>{notes}"
    )


# --- refusals ----------------------------------------------------------------------------------------------------------


def refused(facts: RunFacts, per: str = "window") -> str:
    """`per`: what work comes in, a window or a round."""
    if not facts.rejects:
        return section("What was refused", "No check rejected anything in this run.")
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
        width=1100,
        name_width=170,
        label="Rejects by check",
    )
    rows = [_refusal(miner, check, members) for (miner, check), members in groups.items()]
    heads = ("miner", "check", "value#", "bound#", "", f"{per}s#", "findings#", "detail")
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
        text(first.detail),
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
    processes = table(
        ("name", "role", "restarted#", "killed on purpose#", "exit codes"),
        [
            (
                name(p.name),
                text(p.role),
                number(str(p.restarts or "–")),
                number(str(p.killed_on_purpose or "–")),
                mono(", ".join(map(str, p.exit_codes)) or "–"),
            )
            for p in facts.processes
        ],
    )
    return section(
        "What it cost",
        f"Sizes as stored. Times are means of one process in one {per}; all processes of the run share this machine "
        f"({facts.machine.get('processors', '?')} processors).",
        grid(
            card(
                "Checkpoints",
                f"weights as published, by first valid {per}",
                bars(_sizes(facts), name_width=110, label="Checkpoint sizes"),
            ),
            card(
                "Time by phase",
                f"real seconds of one {per}",
                bars(_timings(facts), name_width=150, label="Time by phase", marker=window),
            ),
            card("Processes", "", processes, wide=True),
        ),
    )


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
