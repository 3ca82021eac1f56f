"""The sections of that page that rollouts have no counterpart of: loss, ranks, merges, ratings and weights."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from grail_core.pages.parts import card, grid, legend, name, number, section, table, text
from tooling.localnet.plan import HONEST
from tooling.localnet.report.bars import bars
from tooling.localnet.report.charts import Level, Line, Point, Segment, empty_chart, line_chart, percent, size, stacked_columns
from tooling.localnet.report.report_verdicts import CELL_TEXT, matrix, miner_colours, outcome_cell, reasons, weight_columns
from tooling.localnet.rounds.facts import MinerRoundFact, RoundsFacts
from tooling.localnet.rounds.summary import RoundsSummary
from tooling.localnet.rounds.table import rating


def learning(facts: RoundsFacts) -> str:
    """Nothing where no checkpoint was evaluated."""
    if not facts.losses:
        return ""
    points = tuple(
        Point(
            loss.rounds,
            loss.loss,
            loss.error,
            f"checkpoint {loss.sequence}: {loss.loss:.4f} ± {loss.error:.4f} nats a token, {loss.sequences} sequences",
        )
        for loss in facts.losses
    )
    levels = [] if facts.floor is None else [Level("entropy of the corpus", facts.floor)]
    chart = line_chart(
        (Line("held-out loss", points, "accent"),),
        [str(i) for i in range(facts.losses[-1].rounds + 1)],
        y_format=lambda v: f"{v:.2f}",
        x_name="merges that the checkpoint has seen",
        y_name="nats a token",
        levels=levels,
        from_zero=True,
        width=1100,
        height=280,
        label="Held-out loss by merges",
    )
    return section(
        "Learning",
        "Sequences of the corpus that no miner is ever assigned, scored with every checkpoint in one process, in float32. "
        "Whiskers are one standard error over sequences, the same ones at each point.",
        card("Held-out loss", "nats a token, by merges that the checkpoint has seen", chart, wide=True),
    )


def ranks(facts: RoundsFacts) -> str:
    rounds = [window.window for window in facts.run.windows]
    colours = miner_colours(facts.run.miners)
    lines = []
    for miner in facts.run.miners:
        rows = [r for r in facts.miner_rounds if r.miner == miner.name and r.score is not None]
        points = tuple(Point(rounds.index(r.round), r.score or 0.0, r.error or 0.0, _scored(r)) for r in rows)
        if points:
            lines.append(Line(miner.name, points, colours[miner.name], label_last=False))
    chart = line_chart(
        lines,
        [str(round_) for round_ in rounds],
        y_format=lambda v: f"{v:.3f}",
        x_name="round",
        y_name="nats a token taken off the loss",
        below_zero=True,
        width=1100,
        label="Scores by round",
    )
    return section(
        "Ranks",
        "Each accepted update is applied alone, at half its step, on data that nobody could have known, and losses compared by "
        "sequence. Miners within two standard errors of the best of a rank share it.",
        grid(
            card(
                "Scores",
                "nats a token that an update takes off the loss; whiskers are one standard error, which miners share in part: "
                "ranks go by paired differences",
                chart + legend([(line.name, line.colour) for line in lines]),
                wide=True,
            ),
            card(
                "Rank in every round",
                "or what came instead; the reasons are below",
                _matrix(facts, _rank) + _reasons(facts),
                wide=True,
            ),
        ),
    )


def merges(facts: RoundsFacts, summary: RoundsSummary) -> str:
    dropped = [
        f"round {one.round}: {miner} was left out, {score:+.4f} nats a token on the guard's sequences"
        for one in facts.merges
        for miner, score in one.dropped.items()
    ]
    notes = f'<p class="sub">{"<br>".join(map(escape, dropped))}</p>' if dropped else ""
    colours = miner_colours(facts.run.miners)
    columns = [
        (
            str(round_.window),
            [
                Segment(r.miner, float(r.update_bytes), colours[r.miner], f"{r.miner}: {r.update_bytes:,} bytes")
                for r in facts.miner_rounds
                if r.round == round_.window and r.update_bytes
            ],
        )
        for round_ in facts.run.windows
    ]
    honest = [(m.name, colours[m.name]) for m in facts.run.miners if m.strategy == HONEST]
    cheats = [("cheating miners", "cheat")] if len(honest) < len(facts.run.miners) else []
    return section(
        "Merges",
        "The trainer merges what passes the checks that need no model, less what does harm, before any verdict of the round: a "
        "lie that only a verdict finds can enter once, and its author's later files do not.",
        grid(
            card(
                "Who was merged",
                "bytes of the update; ● merged, ○ revealed and not merged",
                _matrix(facts, _merged) + notes,
                wide=True,
            ),
            card(
                "Bytes of a round",
                "updates as stored, by miner",
                stacked_columns(
                    columns, y_format=size, x_name="round", y_name="bytes of updates", width=1100, label="Bytes by round"
                )
                + legend([*honest, *cheats]),
                wide=True,
            ),
        ),
    )


def weights(facts: RoundsFacts, summary: RoundsSummary) -> str:
    run, colours = facts.run, miner_colours(facts.run.miners)
    validator = run.validators[0] if run.validators else ""
    names = [(m.name, colours[m.name]) for m in run.miners if m.strategy == HONEST]
    names += [("cheating miners", "cheat")] if len(names) < len(run.miners) else []
    burn = f" The burn UID holds {percent(summary.burn_weight, 0)}." if summary.burn_weight else ""
    final = bars(
        [(m.name, [Segment(m.name, m.weight, colours[m.name])], percent(m.weight, 2)) for m in summary.miners],
        label="Weight at the end",
        name_width=90,
    )
    rows = [
        (
            name(m.name),
            text(m.strategy),
            number(rating(m)),
            number(f"{m.sequences:,}"),
            number(str(m.rounds_failed or "–")),
            text(m.reason, "long"),
        )
        for m in summary.miners
    ]
    heads = ("miner", "strategy", "rating#", "sequences accepted#", "rounds failed#", "reason")
    return section(
        "Weights and ratings",
        "Pay is accepted volume times a rating that comes from ranks; a failed round takes it away for 14 rounds or longer.",
        grid(
            card(
                "Weights over time",
                f"shares of what miners earn, by block at which {validator} set them",
                weight_columns(run, colours, validator) + legend(names),
            ),
            card("At the end, on the chain", f"share of all weight.{burn}", final),
            card("Miners", "rating as mean ± spread after the last round", table(heads, rows), wide=True),
        ),
    )


def _matrix(facts: RoundsFacts, cell: Callable[[MinerRoundFact | None], str]) -> str:
    rounds = [window.window for window in facts.run.windows]
    if not rounds:
        return empty_chart("no round was judged")
    rows = {(r.miner, r.round): r for r in facts.miner_rounds}
    body = [
        (f"{miner.name} ({miner.strategy})", [cell(rows.get((miner.name, round_))) for round_ in rounds], "")
        for miner in facts.run.miners
    ]
    verdicts = {True: "equal", False: "differ", None: "–"}
    body.append(("verdict bodies", [verdicts[window.bodies_equal] for window in facts.run.windows], ""))
    return matrix("round", rounds, body)


def _reasons(facts: RoundsFacts) -> str:
    outcomes = {(r.miner, r.round): (r.outcome, r.reason) for r in facts.miner_rounds}
    return reasons(outcomes, [miner.name for miner in facts.run.miners], "round")


def _rank(row: MinerRoundFact | None) -> str:
    outcome = row.outcome if row else "absent"
    shown = str(row.rank) if row and row.rank is not None else CELL_TEXT.get(outcome, outcome)
    said = _scored(row) if row and row.score is not None else row.reason if row and row.reason else outcome.replace("_", " ")
    return outcome_cell(outcome, shown, said)


def _merged(row: MinerRoundFact | None) -> str:
    if row is None or row.update_bytes is None:
        return outcome_cell("absent", "–", "nothing was revealed")
    mark, kind, said = ("●", "accepted", "merged") if row.merged else ("○", "absent", "not merged")
    return outcome_cell(kind, f"{mark} {row.update_bytes:,}", said)


def _scored(row: MinerRoundFact) -> str:
    if row.score is None or row.error is None:
        return ""
    return f"{row.miner}, round {row.round}: rank {row.rank}, {row.score:+.4f} ± {row.error:.4f} nats a token"
