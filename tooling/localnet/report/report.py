"""`report.html`: the run as one page that needs no network, no script and no explanation.

`render` is a pure function of facts and summary. It says what happened in a few sentences and in seven numbers, in words that
need no knowledge of the protocol; what fell comes next (`falls.py`), names of checks, values and bounds in the sections below
it. A section with nothing to show is left out. Text from outside (reasons, versions, paths) is escaped where it enters the
page, and the whole page made fit to be read at its end: nothing in it hides, or turns what follows around.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from grail_core.pages.parts import note, tile
from grail_core.pages.style import STYLE
from grail_core.text import printable_lines
from tooling.localnet.plan import HONEST
from tooling.localnet.report.charts import percent, seconds
from tooling.localnet.report.cheats import ROLLOUT_CHEATS, cheats_sentence
from tooling.localnet.report.facts import RunFacts
from tooling.localnet.report.falls import falls_section
from tooling.localnet.report.report_sections import costs, learning, parameters, provenance, refused
from tooling.localnet.report.report_training import update
from tooling.localnet.report.report_verdicts import weights_and_verdicts
from tooling.localnet.report.summary import Summary


def render(facts: RunFacts, summary: Summary) -> str:
    """The whole page."""
    sections = (
        _header(facts, summary),
        _tiles(facts, summary),
        falls_section(facts, summary),
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
    cheaters = [(m, m.windows_failed, m.windows_judged) for m in summary.miners if m.strategy != HONEST]
    return cheats_sentence(cheaters, ROLLOUT_CHEATS, "window")


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
    validators = f"{len(facts.validators)} validator{'s' if len(facts.validators) != 1 else ''}"
    who = f"{who}, {validators} and one trainer on one machine."
    lede = f"{who} {cheat_sentence(summary)} {agreement_sentence(summary)}"
    notes = "" if summary.finished else note(summary.why_unfinished)
    if summary.unenforced:
        notes += note(
            "The finer statistical tests were only reported in this run and rejected nobody, because nobody has measured what "
            "is usual for this model; gross cheating is rejected all the same. Which tests: below, under Weights and verdicts."
        )
    if summary.eval_before == 0 and summary.eval_after == 0:
        notes += note(
            "A model of this size scores about 0 on these problems. The run shows that the whole path works on them, not that "
            "anything was learned."
        )
    return (
        f'<header><div class="eyebrow">GRAIL localnet · {escape(facts.env_id)} · {escape(started(facts.started_at))}</div>'
        f'<h1>{escape(headline(summary))}</h1><p class="lede">{escape(lede)}</p>{notes}</header>'
    )


def started(at: str) -> str:
    """An ISO 8601 time, to the minute, as a person writes it; anything else as it is."""
    try:
        return f"{datetime.fromisoformat(at).astimezone(UTC):%-d %B %Y, %H:%M} UTC"
    except ValueError:
        return at


def _tiles(facts: RunFacts, summary: Summary) -> str:
    before, after = summary.eval_before, summary.eval_after
    if before is not None and after is not None:
        gain = f" <small>× {summary.eval_gain:.2f}</small>" if summary.eval_gain else ""
        sigmas = f"{summary.eval_gain_sigmas:+.1f} standard errors " if summary.eval_gain_sigmas is not None else ""
        lead = tile(
            "Held-out success",
            f"{_pair(before, after)}{gain}",
            f"{sigmas}on {summary.eval_problems:,} fixed held-out problems; the best constant answer solves "
            f"{_share(summary.eval_constant)}",
            lead=True,
        )
    else:
        lead = tile("Held-out success", "–", "not evaluated", lead=True)
    return f'<div class="tiles">{lead}{"".join(_other_tiles(facts, summary))}</div>'


def _other_tiles(facts: RunFacts, summary: Summary) -> list[str]:
    honest = sum(m.weight for m in summary.miners if m.strategy == HONEST)
    cheating = sum(m.weight for m in summary.miners if m.strategy != HONEST)
    has_cheats = any(m.strategy != HONEST for m in summary.miners)
    earned = honest + cheating
    together = summary.windows_judged_together
    return [
        tile(
            "Weight to honest miners",
            percent(honest / earned, 0) if earned else "–",
            f"of what miners earn; cheater {percent(cheating / earned if earned else 0.0, 0)}"
            if has_cheats
            else "all are honest",
        ),
        tile("Validators agree", f"{together} / {together}", "windows with equal verdicts")
        if summary.validators_agree
        else tile("Validators agree", '<span class="bad">no</span>' if together else "–", f"{together} windows compared"),
        _form_tile(summary),
        _delta_tile(facts, summary),
        _verify_tile(summary),
        tile(
            "A window, real time",
            seconds(summary.seconds_per_window) if summary.seconds_per_window else "–",
            f"{summary.rollouts_verified:,} rollouts counted in all",
        ),
    ]


def _form_tile(summary: Summary) -> str:
    before, after = summary.format_before, summary.format_after
    if before is None or after is None:
        return tile("Well-formed answers", _pair(before, after), "not evaluated")
    error = ((summary.format_before_error or 0.0) ** 2 + (summary.format_after_error or 0.0) ** 2) ** 0.5
    change = after - before
    value = _pair(before, after)
    size = f"{100 * abs(change):.1f} ± {100 * error:.1f} points"
    if change < 0 and -change > 2 * error:
        return tile("Well-formed answers", f'<span class="bad">{value}</span>', f"fell by {size}; why is below")
    said = "rose" if change > 0 else "fell"
    noise = "" if abs(change) > 2 * error else ", within noise"
    return tile("Well-formed answers", value, f"{said} by {size}{noise}" if change else "the same")


def _delta_tile(facts: RunFacts, summary: Summary) -> str:
    title, ratio = "An update, against the whole model", summary.delta_ratio
    if ratio is None:
        return tile(title, "–", "no update was published by itself")
    changed = [c.changed_share for c in facts.checkpoints if c.delta_bytes and c.changed_share is not None]
    of_weights = f"{percent(sum(changed) / len(changed), 0)} of the weights changed each time" if changed else "of its bytes"
    little = "; where fewer change, as in larger models, it saves more" if ratio > 0.2 else ""
    return tile(title, f"{percent(ratio, 0)} <small>of the bytes</small>", of_weights + little)


def _verify_tile(summary: Summary) -> str:
    title, ratio = "Generating a rollout : verifying it", summary.generate_to_verify_ratio
    if ratio is None:
        return tile(title, "–", "not measured")
    if ratio >= 1:
        return tile(title, f"{ratio:.1f} : 1", "of time: verifying was the quicker one")
    return tile(
        title,
        f'<span class="warn">1 : {1 / ratio:.1f}</span>',
        "of time: verifying was the slower one, as with any tiny model: its rollouts cost next to nothing, checks do not",
    )


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _pair(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return f"{_share(before)} → {_share(after)}"
    return f"{100 * before:.1f} → {percent(after)}"
