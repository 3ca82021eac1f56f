"""The report's section on weights and verdicts: what each miner earned, what became of it in every window, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from grail_core.pages.parts import Cell, alarm, badge, card, grid, legend, name, number, section, table, text
from tooling.localnet.plan import HONEST
from tooling.localnet.report.bars import bars
from tooling.localnet.report.charts import Segment, empty_chart, percent, stacked_columns
from tooling.localnet.report.facts import MinerIdentity, RunFacts
from tooling.localnet.report.summary import Summary, unenforced_sentence

HONEST_COLOURS = ("m1", "m2", "m3", "m4", "m5", "m6")
CELL_TEXT = {"failed": "failed", "absent": "–", "not_selected": "not drawn", "inconclusive": "open"}
MEANINGS = {
    "not_selected": "not drawn: validators check files at random, seldom those of a miner that failed lately; it earns nothing",
    "absent": "no file was there in time",
    "inconclusive": "open: the checks came to no answer; it neither earns nor counts as failed",
}
MANY = 12
"""Windows beyond which a table of one column for each is too wide for a page."""


def miner_colours(miners: Sequence[MinerIdentity]) -> dict[str, str]:
    honest = [m.name for m in miners if m.strategy == HONEST]
    colours = {miner: HONEST_COLOURS[i % len(HONEST_COLOURS)] for i, miner in enumerate(honest)}
    return colours | {m.name: "cheat" for m in miners if m.strategy != HONEST}


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
                "rollouts counted, or what came instead, as signed by the validators; the reasons are below",
                _matrix(facts, summary),
                wide=True,
            ),
        ),
    ) + (alarm(unenforced_sentence(summary.unenforced)) if summary.unenforced else "")


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
    return stacked_columns(
        columns,
        y_format=lambda v: percent(v, 0),
        x_name="block",
        y_name="share of what miners earn",
        ceiling=1.0,
        label="Weight by miner over blocks",
    )


def _matrix(facts: RunFacts, summary: Summary) -> str:
    if not facts.windows:
        return empty_chart("no window was judged")
    rows = {(r.miner, r.window): r for r in facts.miner_windows}
    windows = [window.window for window in facts.windows]
    body = []
    for miner in summary.miners:
        cells = []
        for window in windows:
            row = rows.get((miner.name, window))
            outcome = row.outcome if row else "absent"
            shown = str(row.unique_valid) if row and outcome == "accepted" else CELL_TEXT.get(outcome, outcome)
            cells.append(outcome_cell(outcome, shown, row.reason if row and row.reason else outcome.replace("_", " ")))
        body.append((miner.name, cells, f"{miner.unique_valid:,}"))
    verdicts = {True: badge("equal", "yes"), False: badge("differ", "no"), None: "–"}
    agree = [f"{verdicts[w.bodies_equal]}{'' if w.scores_compared else ' *'}" for w in facts.windows]
    body.append(("verdict bodies", agree, ""))
    outcomes = {(r.miner, r.window): (r.outcome, r.reason) for r in facts.miner_windows}
    told = reasons(outcomes, [m.name for m in summary.miners], "window")
    return matrix("window", windows, body, "counted") + _missed(facts) + told


def _missed(facts: RunFacts) -> str:
    missed = [
        escape(f"{validator}, window {window.window}: {why}")
        for window in facts.windows
        for validator, why in sorted(window.missed_by.items())
    ]
    if any(not w.scores_compared and w.bodies_equal is not None for w in facts.windows):
        missed.append("* compared without scores and weights, which sum up the windows that a validator saw itself")
    return f'<p class="sub">{"<br>".join(missed)}</p>' if missed else ""


def outcome_cell(outcome: str, shown: str, said: str) -> str:
    return f'<span class="cell {escape(outcome)}" title="{escape(said, quote=True)}">{escape(shown)}</span>'


def matrix(per: str, columns: Sequence[int], rows: Sequence[tuple[str, Sequence[str], str]], sums: str = "") -> str:
    """One row for each (name, cells as HTML, sum); where there are many columns, or little room, the cells of a row flow."""
    head = "".join(f"<th>{column}</th>" for column in columns) + (f'<th class="sum">{escape(sums)}</th>' if sums else "")
    body = []
    for said, cells, total in rows:
        of_columns = "".join(f'<td data-label="{column}">{cell}</td>' for column, cell in zip(columns, cells, strict=True))
        label = f' data-label="{escape(sums, quote=True)}"' if total else ""
        body.append(
            f"<tr><td>{escape(said)}</td>{of_columns}"
            + (f'<td class="sum"{label}>{escape(total)}</td></tr>' if sums else "</tr>")
        )
    many = " many" if len(columns) > MANY else ""
    heads = f"<tr><th>{escape(per)}</th>{head}</tr>"
    return f'<div class="scroll"><table class="matrix{many}">{heads}{"".join(body)}</table></div>'


def reasons(outcomes: Mapping[tuple[str, int], tuple[str, str]], miners: Sequence[str], per: str) -> str:
    """Why what was not accepted was not, equal reasons of a miner together; nothing where everything was accepted.

    Args:
        outcomes: (miner, window) → outcome and the validators' reason, "" for none.
    """
    found: dict[tuple[str, str, str], list[int]] = {}
    for miner in miners:
        for (whose, window), (outcome, reason) in sorted(outcomes.items(), key=lambda item: item[0][1]):
            said = reason or MEANINGS.get(outcome, "")
            if whose == miner and outcome != "accepted" and said:
                found.setdefault((miner, outcome, said), []).append(window)
    rows = [
        (
            name(miner),
            text(", ".join(map(str, windows))),
            Cell(badge("absent" if outcome == "absent" else CELL_TEXT.get(outcome, outcome), outcome)),
            text(said, "long"),
        )
        for (miner, outcome, said), windows in found.items()
    ]
    return table(("miner", f"{per}s", "outcome", "why"), rows) if rows else ""
