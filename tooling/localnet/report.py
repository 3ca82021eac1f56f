"""`report.html`: the run as one page that needs no network, no script and no explanation.

`render` is a pure function of facts and summary. It says what happened in one sentence, then shows learning, money, what
was refused and why, what it cost, and every parameter in which this network differs from subnet 81. Text from outside
(reasons, versions, paths) is escaped at the place where it enters the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from tooling.localnet.charts import (
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
from tooling.localnet.facts import MinerIdentity, RunFacts
from tooling.localnet.report_style import STYLE
from tooling.localnet.summary import MinerSummary, Summary

HONEST_COLOURS = ("m1", "m2", "m3", "m4", "m5", "m6")


def render(facts: RunFacts, summary: Summary) -> str:
    """The whole page."""
    colours = miner_colours(facts.miners)
    parts = [
        _header(facts, summary),
        _tiles(facts, summary),
        _learning(facts, summary),
        _money(facts, summary, colours),
        _refused(facts),
        _costs(facts),
        _parameters(facts),
        _provenance(facts),
    ]
    title = f"localnet: {facts.env_id}, {summary.windows} windows"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def miner_colours(miners: Sequence[MinerIdentity]) -> dict[str, str]:
    honest = [m.name for m in miners if m.strategy == "honest"]
    colours = {name: HONEST_COLOURS[i % len(HONEST_COLOURS)] for i, name in enumerate(honest)}
    return colours | {m.name: "cheat" for m in miners if m.strategy != "honest"}


# --- top ---------------------------------------------------------------------------------------------------------------


def headline(summary: Summary) -> str:
    """One sentence that says whether the model got better, and by how much."""
    if not summary.finished:
        return f"The run ended early, after {summary.windows} of {summary.windows_asked} windows"
    before, after, sigmas = summary.eval_before, summary.eval_after, summary.eval_gain_sigmas
    if before is None or after is None:
        return f"{summary.windows} windows ran; no held-out evaluation was made"
    if before == 0 and after == 0:
        return f"The subnet ran {summary.windows} windows; this model solves none of the held‑out problems"
    if sigmas is not None and sigmas > 3:
        return f"The model got better: {percent(before)} of held‑out problems solved before, {percent(after)} after"
    if sigmas is not None and sigmas < -3:
        return f"The model got worse: {percent(before)} of held‑out problems solved before, {percent(after)} after"
    return f"No gain beyond noise: {percent(before)} of held‑out problems solved before, {percent(after)} after"


def cheat_sentence(summary: Summary) -> str:
    cheaters = [m for m in summary.miners if m.strategy != "honest"]
    if not cheaters:
        return "Every miner of this run was honest."
    said = []
    for miner in cheaters:
        outcome = f"ended with weight {percent(miner.weight, 0)}" if miner.weight else "ended with no weight at all"
        why = f": {miner.reason}" if miner.reason else ""
        said.append(
            f"The cheating miner ({miner.strategy}) failed {miner.windows_failed} of {miner.windows_judged} windows and {outcome}{why}."
        )
    return " ".join(said)


def _header(facts: RunFacts, summary: Summary) -> str:
    honest = sum(m.strategy == "honest" for m in facts.miners)
    cheats = len(facts.miners) - honest
    who = f"{honest} honest and {cheats} cheating miner{'s' if cheats != 1 else ''}" if cheats else f"{honest} miners"
    lede = (
        f"{who}, {len(facts.validators)} validators and one trainer on one machine. {cheat_sentence(summary)} "
        + _agreement_sentence(summary)
    )
    notes = "" if summary.finished else f'<p class="note-box">{escape(summary.why_unfinished)}</p>'
    if summary.eval_before == 0 and summary.eval_after == 0:
        notes += (
            '<p class="note-box">A model of this size scores about 0 on these problems. The run shows that the whole path '
            "works on them, not that anything was learned.</p>"
        )
    return (
        f'<header><div class="eyebrow">GRAIL localnet · {escape(facts.env_id)} · {escape(facts.started_at)}</div>'
        f'<h1>{escape(headline(summary))}</h1><p class="lede">{escape(lede)}</p>{notes}</header>'
    )


def _agreement_sentence(summary: Summary) -> str:
    count = summary.windows_judged_together
    if not count:
        return "No window was judged by two validators."
    if summary.validators_agree:
        return (
            f"The validators signed equal verdicts in {'each of the' if count > 1 else 'the'} {count} windows they both judged."
        )
    return "The validators did not agree on every window."


def _tiles(facts: RunFacts, summary: Summary) -> str:
    before, after = summary.eval_before, summary.eval_after
    if before is not None and after is not None:
        gain = f" <small>× {summary.eval_gain:.2f}</small>" if summary.eval_gain else ""
        sigmas = f"{summary.eval_gain_sigmas:+.1f} standard errors" if summary.eval_gain_sigmas is not None else ""
        lead = (f"{_pair(before, after)}{gain}", f"{sigmas} on {summary.eval_problems:,} fixed held-out problems")
    else:
        lead = ("–", "not evaluated")
    honest = [m.weight for m in summary.miners if m.strategy == "honest"]
    cheats = [m.weight for m in summary.miners if m.strategy != "honest"]
    earned = sum(honest) + sum(cheats)
    share = percent(sum(honest) / earned, 0) if earned else "–"
    agree = (
        (f"{summary.windows_judged_together} / {summary.windows_judged_together}", "windows with equal verdict bodies")
        if summary.validators_agree
        else ('<span class="bad">no</span>', "verdict bodies differ")
    )
    tiles = [
        ("Held-out success", *lead, " lead"),
        ("Weight to honest miners", share, f"of what miners earn; cheater {percent(sum(cheats), 0)}" if cheats else "", ""),
        ("Validators agree", *agree, ""),
        (
            "Well-formed answers",
            _pair(summary.format_before, summary.format_after),
            f"best constant answer solves {_share(summary.eval_constant)}",
            "",
        ),
        (
            "Delta against full",
            f"1 : {1 / summary.delta_ratio:.1f}" if summary.delta_ratio else "–",
            f"{percent(summary.delta_ratio)} of the bytes" if summary.delta_ratio else "no delta was published",
            "",
        ),
        (
            "Verify one rollout",
            f"{summary.verify_to_generate_ratio:.2f}×" if summary.verify_to_generate_ratio is not None else "–",
            "the time of generating it",
            "",
        ),
        (
            "A window",
            seconds(summary.seconds_per_window) if summary.seconds_per_window else "–",
            f"{summary.rollouts_verified:,} rollouts counted in all",
            "",
        ),
    ]
    body = "".join(
        f'<div class="tile{extra}"><div class="k">{escape(key)}</div><div class="v">{value}</div><div class="d">{escape(detail)}</div></div>'
        for key, value, detail, extra in tiles
    )
    return f'<div class="tiles">{body}</div>'


def _pair(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return f"{_share(before)} → {_share(after)}"
    return f"{100 * before:.1f} → {percent(after)}"


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


# --- learning ----------------------------------------------------------------------------------------------------------


def _learning(facts: RunFacts, summary: Summary) -> str:
    held_out = sorted(facts.evaluations, key=lambda e: e.window_index)
    labels = [str(i) for i in range(max((e.window_index for e in held_out), default=0) + 1)]
    points = tuple(
        Point(
            e.window_index,
            e.success,
            e.success_error,
            f"after {e.window_index} windows: {percent(e.success)} ± {percent(e.success_error)} of {e.problems:,} problems",
        )
        for e in held_out
    )
    levels = []
    if summary.eval_constant is not None and summary.eval_constant > 0:
        levels.append(Level("best constant answer", summary.eval_constant))
    if summary.eval_control is not None:
        levels.append(Level("control, learning rate 0", summary.eval_control, "warn"))
    success = (
        line_chart(
            (Line("held-out success", points, "accent"),),
            labels,
            y_format=lambda v: percent(v, 0 if max((p.value for p in points), default=1) > 0.1 else 1),
            levels=levels,
            label="Held-out success over windows of training",
        )
        if points
        else empty_chart("no checkpoint was evaluated")
    )
    trained = [t for t in facts.training if t.reward_mean is not None]
    reward = line_chart(
        (
            Line(
                "mean reward",
                tuple(
                    Point(i, t.reward_mean or 0.0, 0.0, f"window {t.window}: {t.reward_mean:.3f}")
                    for i, t in enumerate(trained)
                ),
                "m2",
            ),
            *(
                (
                    Line(
                        "solved",
                        tuple(Point(i, t.success_mean or 0.0, 0.0, "") for i, t in enumerate(trained)),
                        "m3",
                    ),
                )
                if trained and all(t.success_mean is not None for t in trained)
                else ()
            ),
        ),
        [str(_index(facts, t.window)) for t in trained],
        y_format=lambda v: f"{v:.2f}",
        label="Mean reward of the rollouts the trainer verified",
    )
    return (
        "<h2>Learning</h2><p>Held-out problems and their sampling seeds are fixed for the whole run, so the points compare. "
        "Whiskers are one standard error.</p>"
        f'<div class="grid2"><div class="card"><h3>Held-out success</h3><p class="sub">share solved, by windows of training</p>{success}</div>'
        f'<div class="card"><h3>Verified rollouts</h3><p class="sub">mean reward{_solved_note(trained)} of the groups trained on, by window</p>{reward}</div></div>'
    )


def _legend(items: Sequence[tuple[str, str]]) -> str:
    entries = "".join(f'<li><i style="background:var(--{colour})"></i>{escape(name)}</li>' for name, colour in items)
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def _solved_note(trained: Sequence[object]) -> str:
    return " and share solved" if trained and all(getattr(t, "success_mean", None) is not None for t in trained) else ""


def _index(facts: RunFacts, window: int) -> int:
    return (window - facts.first_window) // 30 + 1 if facts.first_window is not None else window


# --- weights and verdicts ----------------------------------------------------------------------------------------------


def _money(facts: RunFacts, summary: Summary, colours: dict[str, str]) -> str:
    by_uid = {m.uid: m for m in facts.miners}
    legend = _legend(
        [(m.name if m.strategy == "honest" else f"{m.name} ({m.strategy})", colours[m.name]) for m in facts.miners]
    )
    columns = []
    first_validator = facts.validators[0] if facts.validators else ""
    own = [w for w in facts.weights if w.validator == first_validator]
    for fact in sorted(own, key=lambda w: w.block):
        earned = {uid: share for uid, share in fact.shares.items() if uid in by_uid}
        total = sum(earned.values())
        segments = [
            Segment(
                by_uid[uid].name,
                share / total,
                colours[by_uid[uid].name],
                f"{by_uid[uid].name}: {percent(share / total)} of what miners earn, {percent(share, 2)} of all weight",
            )
            for uid, share in sorted(earned.items())
            if total
        ]
        columns.append((str(fact.block), segments))
    chart = stacked_columns(columns, y_format=lambda v: percent(v, 0), ceiling=1.0, label="Weight by miner over blocks")
    burn = f" The burn UID holds {percent(summary.burn_weight, 0)} of all weight." if summary.burn_weight else ""
    final = bars(
        [
            (
                m.name,
                [Segment(m.name, m.weight, colours[m.name])],
                percent(m.weight, 2),
            )
            for m in summary.miners
        ],
        label="Weight at the end",
        name_width=90,
    )
    return (
        "<h2>Weights and verdicts</h2><p>A weight is earned by verified work alone: it grows with the fourth power of it, and a "
        "failed window takes it away for fourteen.</p>"
        f'<div class="grid2"><div class="card"><h3>Weights over time</h3><p class="sub">shares of what miners earn, by block at which '
        f"{escape(first_validator)} set them</p>{chart}{legend}</div>"
        f'<div class="card"><h3>At the end, on the chain</h3><p class="sub">share of all weight.{escape(burn)}</p>{final}'
        f"{_last_words(summary.miners)}</div>"
        f'<div class="card wide"><h3>Every miner in every window</h3><p class="sub">rollouts counted, or what came instead; as signed by '
        f"the validators</p>{_matrix(facts, summary)}</div></div>"
    )


def _last_words(miners: Sequence[MinerSummary]) -> str:
    rows = "".join(
        f'<tr><td class="nw">{escape(m.name)}</td><td>{escape(m.strategy)}</td><td class="n">{m.unique_valid:,}</td>'
        f'<td class="n">{m.windows_failed or "–"}</td></tr>'
        for m in miners
    )
    return (
        '<table><tr><th>miner</th><th>strategy</th><th class="n">unique valid rollouts</th><th class="n">windows failed</th></tr>'
        f"{rows}</table>"
    )


def _matrix(facts: RunFacts, summary: Summary) -> str:
    if not facts.windows:
        return empty_chart("no window was judged")
    rows = {(r.miner, r.window): r for r in facts.miner_windows}
    head = "".join(f"<th>{w.window}</th>" for w in facts.windows)
    body = []
    for miner in summary.miners:
        cells = []
        for window in facts.windows:
            row = rows.get((miner.name, window.window))
            outcome = row.outcome if row else "absent"
            text = (
                str(row.unique_valid)
                if row and outcome == "accepted"
                else {
                    "failed": "failed",
                    "absent": "–",
                    "not_selected": "not drawn",
                    "inconclusive": "open",
                }.get(outcome, outcome)
            )
            title = escape(row.reason, quote=True) if row and row.reason else outcome
            cells.append(f'<td><span class="cell {outcome}" title="{title}">{text}</span></td>')
        total = f"{miner.unique_valid:,}"
        body.append(f"<tr><td>{escape(miner.name)}</td>{''.join(cells)}<td>{total}</td></tr>")
    agree = "".join(
        "<td>"
        + {True: '<span class="badge yes">equal</span>', False: '<span class="badge no">differ</span>', None: "–"}[
            w.bodies_equal
        ]
        + "</td>"
        for w in facts.windows
    )
    missed = [
        f"{escape(v)} missed window {w.window}: {escape(why)}" for w in facts.windows for v, why in sorted(w.missed_by.items())
    ]
    notes = f'<p class="sub">{"<br>".join(missed)}</p>' if missed else ""
    return (
        f'<div class="scroll"><table class="matrix"><tr><th>window</th>{head}<th>counted</th></tr>{"".join(body)}'
        f"<tr><td>verdict bodies</td>{agree}<td></td></tr></table></div>{notes}"
    )


# --- refusals ----------------------------------------------------------------------------------------------------------


def _refused(facts: RunFacts) -> str:
    if not facts.rejects:
        return "<h2>What was refused</h2><p>No check rejected anything in this run.</p>"
    groups: dict[tuple[str, str], list[int]] = {}
    for i, reject in enumerate(facts.rejects):
        groups.setdefault((reject.miner, reject.check), []).append(i)
    rows = []
    for (miner, check), members in groups.items():
        worst = facts.rejects[members[0]]
        windows = sorted({facts.rejects[i].window for i in members})
        value, bound = _number(worst.value), _number(worst.threshold)
        drawing = bullet(value, bound) if value is not None and bound is not None else ""
        rows.append(
            f'<tr><td class="nw">{escape(miner)}</td><td><span class="badge failed">{escape(check)}</span></td>'
            f'<td class="n">{escape(_short(worst.value))}</td><td class="n">{escape(_short(worst.threshold))}</td><td>{drawing}</td>'
            f'<td class="n">{len(windows)}</td><td class="n">{len(members)}</td><td>{escape(worst.detail)}</td></tr>'
        )
    by_check: dict[str, set[tuple[int, str]]] = {}
    for reject in facts.rejects:
        by_check.setdefault(reject.check, set()).add((reject.window, reject.miner))
    chart = bars(
        [
            (check, [Segment(check, float(len(found)), "bad")], f"{len(found)} miner-window{'s' if len(found) != 1 else ''}")
            for check, found in sorted(by_check.items(), key=lambda item: -len(item[1]))
        ],
        width=1100,
        name_width=170,
        label="Rejects by check",
    )
    return (
        "<h2>What was refused</h2><p>A reject names the check, the value and the bound. The bar is the value, the tick the bound; "
        "the numbers are those of the first finding of the kind.</p>"
        f'<div class="card">{chart}<div class="scroll"><table><tr><th>miner</th><th>check</th><th class="n">value</th>'
        f'<th class="n">bound</th><th></th><th class="n">windows</th><th class="n">findings</th><th>detail</th></tr>'
        f"{''.join(rows)}</table></div></div>"
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e300 and value == value else None


def _short(text: str) -> str:
    value = _number(text)
    if value is None:
        return text if len(text) <= 24 else text[:21] + "…"
    return f"{value:.4g}" if value != int(value) else f"{int(value):,}"


# --- costs -------------------------------------------------------------------------------------------------------------


def _costs(facts: RunFacts) -> str:
    sizes = []
    for c in facts.checkpoints:
        if c.full_bytes:
            sizes.append((f"{c.valid_from} full", [Segment("full", float(c.full_bytes), "m5")], size(c.full_bytes)))
        if c.delta_bytes:
            changed = f" · {percent(c.changed_share)} changed" if c.changed_share is not None else ""
            sizes.append(
                (f"{c.valid_from} delta", [Segment("delta", float(c.delta_bytes), "accent")], size(c.delta_bytes) + changed)
            )
    window_s = 30 * facts.block_time_ms / 1000
    phases: dict[tuple[str, str], list[float]] = {}
    for p in facts.phases:
        if not p.phase.endswith("one rollout"):
            phases.setdefault((p.role, p.phase), []).append(p.seconds)
    colour = {"miner": "m2", "validator": "m3", "trainer": "m4"}
    order = {"miner": 0, "validator": 1, "trainer": 2}
    timing = [
        (
            f"{role}: {phase}",
            [Segment(phase, fmean(values), colour.get(role, "m5"), f"mean of {len(values)}, longest {seconds(max(values))}")],
            seconds(fmean(values)),
        )
        for (role, phase), values in sorted(phases.items(), key=lambda item: order.get(item[0][0], 9))
    ]
    processes = "".join(
        f'<tr><td class="nw">{escape(p.name)}</td><td>{escape(p.role)}</td><td class="n">{p.restarts or "–"}</td>'
        f'<td class="n">{p.killed_on_purpose or "–"}</td><td class="mono">{escape(", ".join(map(str, p.exit_codes)) or "–")}</td></tr>'
        for p in facts.processes
    )
    return (
        "<h2>What it cost</h2><p>Sizes as stored. Times are means of one process in one window; all processes of the run share "
        f"this machine ({escape(facts.machine.get('processors', '?'))} processors).</p>"
        f'<div class="grid2"><div class="card"><h3>Checkpoints</h3><p class="sub">weights as published, by first valid window</p>'
        f"{bars(sizes, name_width=110, label='Checkpoint sizes')}</div>"
        f'<div class="card"><h3>Time by phase</h3><p class="sub">seconds of one window</p>'
        f"{bars(timing, name_width=150, label='Time by phase', marker=(window_s, f'a window, {window_s:.0f} s'))}</div>"
        f'<div class="card wide"><h3>Processes</h3><div class="scroll"><table><tr><th>name</th><th>role</th>'
        f'<th class="n">restarted</th><th class="n">killed on purpose</th><th>exit codes</th></tr>{processes}</table></div></div></div>'
    )


# --- provenance --------------------------------------------------------------------------------------------------------


def _parameters(facts: RunFacts) -> str:
    rows = "".join(
        f'<tr><td class="nw"><code>{escape(p.name)}</code></td><td class="mono">{escape(p.here)}</td><td class="mono">{escape(p.subnet_81)}</td></tr>'
        for p in facts.parameters
    )
    return (
        "<h2>Where this network differs from subnet 81</h2><p>Every parameter that is not the same; all others are. The digest of "
        "all of them is part of the network id, so nothing made here is valid there.</p>"
        f'<div class="card scroll"><table><tr><th>parameter</th><th>here</th><th>subnet 81</th></tr>{rows}</table></div>'
    )


def _provenance(facts: RunFacts) -> str:
    pairs = [
        ("environment", facts.env_id),
        ("model", facts.model + (f", {facts.parameters_total:,} parameters" if facts.parameters_total else "")),
        ("seed", str(facts.seed)),
        ("started", facts.started_at),
        ("lasted", seconds(facts.seconds_total)),
        *sorted(facts.machine.items()),
        *sorted(facts.versions.items()),
    ]
    rows = "".join(f'<tr><td class="nw">{escape(k)}</td><td class="mono">{escape(v)}</td></tr>' for k, v in pairs)
    hotkeys = "".join(
        f'<tr><td class="nw">{escape(m.name)}</td><td class="n">{m.uid}</td><td class="mono">{escape(m.hotkey)}</td></tr>'
        for m in facts.miners
    )
    return (
        "<h2>Reproduce it</h2><p>Keys, chain, problems and sampling seeds follow from the seed.</p>"
        f"<pre>{escape(facts.command)}</pre>"
        f'<div class="grid2" style="margin-top:14px"><div class="card scroll"><h3>Versions and machine</h3><table>{rows}</table></div>'
        f'<div class="card scroll"><h3>Hotkeys</h3><table><tr><th>miner</th><th class="n">UID</th><th>hotkey</th></tr>{hotkeys}</table></div></div>'
        "<footer>The numbers are in <code>summary.json</code> beside this page; signed verdicts lie in the validators' buckets under "
        "<code>store/</code>, the processes' logs under <code>logs/</code>.</footer>"
    )
