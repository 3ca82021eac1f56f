"""`report.html`: the run as one page that needs no network, no script and no explanation.

`render` is a pure function of facts and summary. It says what happened in one sentence and in eight numbers; the sections
below it are in `report_sections.py`. Text from outside (reasons, versions, paths) is escaped where it enters the page, and the
whole page made fit to be read at its end: nothing in it hides, or turns what follows around.
"""

from __future__ import annotations

from html import escape

from grail_core.text import printable_lines
from tooling.localnet.plan import HONEST
from tooling.localnet.report.charts import percent, seconds
from tooling.localnet.report.facts import RunFacts
from tooling.localnet.report.page import alarm, note, tile
from tooling.localnet.report.report_sections import costs, learning, parameters, provenance, refused, weights_and_verdicts
from tooling.localnet.report.report_style import STYLE
from tooling.localnet.report.report_training import update
from tooling.localnet.report.summary import Summary, unenforced_sentence


def render(facts: RunFacts, summary: Summary) -> str:
    """The whole page."""
    sections = (
        _header(facts, summary),
        _tiles(summary),
        learning(facts, summary),
        update(facts),
        weights_and_verdicts(facts, summary),
        refused(facts),
        costs(facts),
        parameters(facts),
        provenance(facts),
    )
    title = f"localnet: {facts.env_id}, {summary.windows} windows"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )
    return printable_lines(page, most=len(page) * 10)


def headline(summary: Summary) -> str:
    """One sentence that says whether the model got better, and by how much."""
    if not summary.finished:
        return f"The run ended early, after {summary.windows} of {summary.windows_asked} windows"
    before, after, sigmas = summary.eval_before, summary.eval_after, summary.eval_gain_sigmas
    if before is None or after is None:
        return f"{summary.windows} windows ran; no held\u2011out evaluation was made"
    if before == 0 and after == 0:
        return f"The subnet ran {summary.windows} windows; this model solves none of the held\u2011out problems"
    change = f"{percent(before)} of held\u2011out problems solved before, {percent(after)} after"
    if sigmas is not None and sigmas > 3:
        return f"The model got better: {change}"
    if sigmas is not None and sigmas < -3:
        return f"The model got worse: {change}"
    return f"No gain beyond noise: {change}"


def cheat_sentence(summary: Summary) -> str:
    """What became of the miners that lied."""
    cheaters = [m for m in summary.miners if m.strategy != HONEST]
    if not cheaters:
        return "Every miner of this run was honest."
    if len(cheaters) > 1:
        paid = [m.strategy for m in cheaters if m.weight]
        ended = f"{', '.join(paid)} ended with weight" if paid else "all of them ended with no weight at all"
        return f"The cheating miners: {', '.join(m.strategy for m in cheaters)}; {ended}."
    miner = cheaters[0]
    outcome = f"ended with weight {percent(miner.weight, 2)}" if miner.weight else "ended with no weight at all"
    failed = f"failed {miner.windows_failed} of {miner.windows_judged} windows"
    why = f" ({miner.reason})" if miner.reason else ""
    return f"The cheating miner, {miner.strategy}, {failed}{why} and {outcome}."


def agreement_sentence(summary: Summary) -> str:
    count = summary.windows_judged_together
    if not count:
        return "No window was judged by two validators."
    if not summary.validators_agree:
        return "The validators did not agree on every window."
    where = f"each of the {count} windows" if count > 1 else "the one window"
    return f"The validators signed equal verdicts in {where} they both judged."


def _header(facts: RunFacts, summary: Summary) -> str:
    honest = sum(m.strategy == HONEST for m in facts.miners)
    cheats = len(facts.miners) - honest
    who = f"{honest} honest and {cheats} cheating miner{'s' if cheats != 1 else ''}" if cheats else f"{honest} miners"
    who = f"{who}, {len(facts.validators)} validators and one trainer on one machine."
    lede = f"{who} {cheat_sentence(summary)} {agreement_sentence(summary)}"
    notes = "" if summary.finished else note(summary.why_unfinished)
    if summary.unenforced:
        notes += alarm(unenforced_sentence(summary.unenforced))
    if summary.eval_before == 0 and summary.eval_after == 0:
        notes += note(
            "A model of this size scores about 0 on these problems. The run shows that the whole path works on them, not that "
            "anything was learned."
        )
    return (
        f'<header><div class="eyebrow">GRAIL localnet · {escape(facts.env_id)} · {escape(facts.started_at)}</div>'
        f'<h1>{escape(headline(summary))}</h1><p class="lede">{escape(lede)}</p>{notes}</header>'
    )


def _tiles(summary: Summary) -> str:
    before, after = summary.eval_before, summary.eval_after
    if before is not None and after is not None:
        gain = f" <small>× {summary.eval_gain:.2f}</small>" if summary.eval_gain else ""
        sigmas = f"{summary.eval_gain_sigmas:+.1f} standard errors " if summary.eval_gain_sigmas is not None else ""
        lead = tile(
            "Held-out success",
            f"{_pair(before, after)}{gain}",
            f"{sigmas}on {summary.eval_problems:,} fixed held-out problems",
            lead=True,
        )
    else:
        lead = tile("Held-out success", "–", "not evaluated", lead=True)
    return f'<div class="tiles">{lead}{"".join(_other_tiles(summary))}</div>'


def _other_tiles(summary: Summary) -> list[str]:
    honest = sum(m.weight for m in summary.miners if m.strategy == HONEST)
    cheating = sum(m.weight for m in summary.miners if m.strategy != HONEST)
    has_cheats = any(m.strategy != HONEST for m in summary.miners)
    earned = honest + cheating
    together = summary.windows_judged_together
    ratio = summary.verify_to_generate_ratio
    return [
        tile(
            "Weight to honest miners",
            percent(honest / earned, 0) if earned else "–",
            f"of what miners earn; cheater {percent(cheating / earned if earned else 0.0, 0)}"
            if has_cheats
            else "all are honest",
        ),
        tile("Validators agree", f"{together} / {together}", "windows with equal verdict bodies")
        if summary.validators_agree
        else tile("Validators agree", '<span class="bad">no</span>' if together else "–", f"{together} windows compared"),
        tile(
            "Well-formed answers",
            _pair(summary.format_before, summary.format_after),
            f"best constant answer solves {_share(summary.eval_constant)}",
        ),
        tile(
            "Delta against full",
            f"1 : {1 / summary.delta_ratio:.1f}" if summary.delta_ratio else "–",
            f"{percent(summary.delta_ratio)} of the bytes" if summary.delta_ratio else "no delta was published",
        ),
        tile("Verify one rollout", f"{ratio:.2f}×" if ratio is not None else "–", "the time of generating it"),
        tile(
            "A window, real time",
            seconds(summary.seconds_per_window) if summary.seconds_per_window else "–",
            f"{summary.rollouts_verified:,} rollouts counted in all",
        ),
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _pair(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return f"{_share(before)} → {_share(after)}"
    return f"{100 * before:.1f} → {percent(after)}"
