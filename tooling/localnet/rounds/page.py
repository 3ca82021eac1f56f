"""`report.html` of a run of gradient work: one page in the style of the report of rollouts, a pure function of facts."""

from __future__ import annotations

from html import escape

from grail_core.pages.parts import note, tile
from grail_core.pages.style import STYLE
from grail_core.text import printable_lines
from tooling.localnet.plan import HONEST
from tooling.localnet.report.charts import percent, seconds
from tooling.localnet.report.cheats import GRADIENT_CHEATS, cheats_sentence
from tooling.localnet.report.report import started
from tooling.localnet.report.report_sections import costs, parameters, provenance, refused
from tooling.localnet.rounds.facts import RoundsFacts
from tooling.localnet.rounds.sections import learning, merges, ranks, weights
from tooling.localnet.rounds.summary import RoundsSummary


def render(facts: RoundsFacts, summary: RoundsSummary) -> str:
    """The whole page."""
    sections = (
        _header(facts, summary),
        _tiles(summary),
        learning(facts),
        ranks(facts),
        merges(facts, summary),
        weights(facts, summary),
        refused(facts.run, per="round"),
        costs(facts.run, per="round"),
        parameters(facts.run),
        provenance(facts.run),
    )
    title = f"localnet: gradient work, {summary.windows} rounds"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )
    return printable_lines(page, most=len(page) * 10)


def headline(summary: RoundsSummary) -> str:
    """One sentence that says whether the model got better, and by how much."""
    if not summary.finished:
        return f"The run ended early, after {summary.windows} of {summary.windows_asked} rounds"
    before, after = summary.loss_before, summary.loss_after
    if before is None or after is None:
        return f"{summary.windows} rounds ran; there is no held\u2011out loss to compare"
    error = ((summary.loss_before_error or 0.0) ** 2 + (summary.loss_after_error or 0.0) ** 2) ** 0.5
    change = f"held\u2011out loss {before:.3f} before, {after:.3f} after {summary.rounds_merged} merges"
    if before - after > 3 * error:
        return f"The model got better: {change}"
    return f"The model got worse: {change}" if after - before > 3 * error else f"No gain beyond noise: {change}"


def cheat_sentence(summary: RoundsSummary) -> str:
    """What became of the miners that lied."""
    cheaters = [(m, m.rounds_failed, m.rounds_judged) for m in summary.miners if m.strategy != HONEST]
    return cheats_sentence(cheaters, GRADIENT_CHEATS, "round")


def agreement_sentence(summary: RoundsSummary) -> str:
    count = summary.windows_judged_together
    if not count:
        return "No round was judged by two validators."
    if not summary.validators_agree:
        return "The validators did not agree on every round."
    where = f"each of the {count} rounds" if count > 1 else "the one round"
    return f"The validators signed equal verdicts in {where} they both judged."


def _header(facts: RoundsFacts, summary: RoundsSummary) -> str:
    run = facts.run
    honest = sum(m.strategy == HONEST for m in run.miners)
    cheats = len(run.miners) - honest
    who = f"{honest} honest and {cheats} cheating miner{'s' if cheats != 1 else ''}" if cheats else f"{honest} miners"
    who = f"{who}, {len(run.validators)} validators and one trainer that merges, on one machine."
    lede = f"{who} {cheat_sentence(summary)} {agreement_sentence(summary)}"
    notes = "" if summary.finished else note(summary.why_unfinished)
    return (
        f'<header><div class="eyebrow">GRAIL localnet · gradient work · {escape(started(run.started_at))}</div>'
        f'<h1>{escape(headline(summary))}</h1><p class="lede">{escape(lede)}</p>{notes}</header>'
    )


def _tiles(summary: RoundsSummary) -> str:
    before, after = summary.loss_before, summary.loss_after
    if before is not None and after is not None:
        floor = "" if summary.loss_floor is None else f"; the corpus's entropy is {summary.loss_floor:.3f}"
        lead = tile(
            "Held-out loss",
            f"{before:.3f} → {after:.3f} <small>nats a token</small>",
            f"on {summary.loss_sequences:,} sequences that nobody is assigned{floor}",
            lead=True,
        )
    else:
        lead = tile("Held-out loss", "–", "not evaluated", lead=True)
    return f'<div class="tiles">{lead}{"".join(_other_tiles(summary))}</div>'


def _other_tiles(summary: RoundsSummary) -> list[str]:
    honest = sum(m.weight for m in summary.miners if m.strategy == HONEST)
    cheating = sum(m.weight for m in summary.miners if m.strategy != HONEST)
    has_cheats = any(m.strategy != HONEST for m in summary.miners)
    earned, together = honest + cheating, summary.windows_judged_together
    bits, opening = summary.update_bits_per_parameter, summary.opening_bytes
    return [
        tile(
            "Weight to honest miners",
            percent(honest / earned, 0) if earned else "–",
            f"of what miners earn; cheaters {percent(cheating / earned if earned else 0.0, 0)}"
            if has_cheats
            else "all are honest",
        ),
        tile("Validators agree", f"{together} / {together}", "rounds with equal verdicts")
        if summary.validators_agree
        else tile("Validators agree", '<span class="bad">no</span>' if together else "–", f"{together} rounds compared"),
        tile(
            "An update",
            f"{summary.update_bytes:,.0f} <small>bytes</small>" if summary.update_bytes else "–",
            f"{bits:.3f} bits a parameter, header and sketches too" if bits else "none was sealed",
        ),
        tile("An opening", f"{opening:,.0f} <small>bytes</small>" if opening else "–", "what the challenge asks to be shown"),
        tile("Merged", f"{summary.rounds_merged} / {summary.windows_asked}", "rounds"),
        tile(
            "A round, real time",
            seconds(summary.seconds_per_window) if summary.seconds_per_window else "–",
            f"{summary.clock} clock",
        ),
    ]
