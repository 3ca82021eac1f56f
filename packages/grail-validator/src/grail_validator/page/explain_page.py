"""Why one miner was judged so in one window: the sentences of `explain`, and every finding with its numbers and bound."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from grail_core.commands.explained import OF_WINDOW, coin_line, rejecting, standing_line
from grail_core.commands.explained_round import OF_ROUND, numbers_of_round, standing_line_of_round
from grail_core.files.verdicts import AnyVerdict
from grail_core.keys import ss58
from grail_core.pages.parts import Cell, badge, card, number, table
from grail_core.protocol import Finding, Outcome, WindowStatus
from grail_core.protocol.gradient.miner_verdicts import GradientMinerVerdict
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.types import Hotkey, Window
from grail_core.protocol.verdicts import MinerVerdict
from grail_core.verification.causes import Cause, causes_of, read
from grail_core.verification.gradient.causes import read_finding, round_causes
from grail_validator.page.board import Board
from grail_validator.page.layout import Facts, Query, cell, document, link, page_of, pager, status_badge, words
from grail_validator.page.sources import LedgerSource

PER_PAGE: Final = 128
AnyMiner = MinerVerdict | GradientMinerVerdict


def explain_page(facts: Facts, board: Board, verdict: AnyVerdict, hotkey: Hotkey, query: Query) -> str | None:
    """None where the verdict has nothing of this hotkey. One that was not scored has the same to say to everybody."""
    body = verdict.body
    miner: AnyMiner | None = body.miner(hotkey)
    if miner is None:
        unscored = body.status is not WindowStatus.SCORED and not body.miners
        return _unscored(facts, board, verdict, hotkey) if unscored else None
    window, address = body.window, ss58(hotkey)
    if isinstance(verdict, SignedGradientVerdict) and isinstance(miner, GradientMinerVerdict):
        sentence, numbers = standing_line_of_round(miner, verdict.body), numbers_of_round(miner)
        causes = round_causes(miner.findings)
    else:
        assert isinstance(miner, MinerVerdict)
        sentence, coin = standing_line(miner, window), coin_line(miner)
        numbers, causes = [coin] if coin else [], causes_of(miner.findings)
    is_round = isinstance(verdict, SignedGradientVerdict)
    name = "round" if is_round else "window"
    elsewhere = "" if isinstance(board.source, LedgerSource) else " --from VERDICTS"
    command = f"grail-validator explain {window} --hotkey {address}{elsewhere}"
    return document(
        facts,
        board.snapshot,
        at="/windows",
        title=f"UID {miner.uid} in {name} {window}",
        heading_html=f"UID {miner.uid} in {name} {window} {status_badge(miner.status)}",
        crumbs=_crumbs(name, window, address),
        body_html=(
            card("", "", f'<p class="said">{words(sentence, 4000)}</p>{_lines(numbers)}{_facts(miner)}')
            + _causes(causes)
            + _findings(miner.findings, is_round, query, f"/windows/{window}/{address}")
            + f'<p class="said">The same in a terminal: <code>{escape(command)}</code></p>'
        ),
    )


def _unscored(facts: Facts, board: Board, verdict: AnyVerdict, hotkey: Hotkey) -> str:
    body, is_round = verdict.body, isinstance(verdict, SignedGradientVerdict)
    name, address = "round" if is_round else "window", ss58(hotkey)
    said = body.status.value + (f": {body.reason}" if body.reason else "")
    told = (OF_ROUND if is_round else OF_WINDOW).get(body.status, "")
    return document(
        facts,
        board.snapshot,
        at="/windows",
        title=f"Miner {address[:10]}… in {name} {body.window}",
        heading_html=f'<span class="mono">{address}</span> in {name} {body.window} {status_badge(body.status)}',
        crumbs=_crumbs(name, body.window, address),
        body_html=card("", "", _lines([said, told])),
    )


def _crumbs(name: str, window: Window, address: str) -> tuple[tuple[str, str], ...]:
    return (
        ("/windows", "Windows"),
        (f"/windows/{window}", f"{name} {window}"),
        (f"/miners/{address}", f"miner {address[:10]}…"),
    )


def _lines(lines: Sequence[str]) -> str:
    return "".join(f'<p class="said">{words(line)}</p>' for line in lines)


def _facts(miner: AnyMiner) -> str:
    rejected = ", ".join(rejecting(miner.findings)) or "none"
    content = "–" if miner.content_digest is None else miner.content_digest.hex()
    rows = [
        ("hotkey", link(f"/miners/{ss58(miner.hotkey)}", ss58(miner.hotkey), css="mono")),
        ("declared, and found valid", f"{miner.declared:,}, {_valid(miner):,}"),
        ("rejected by", words(rejected)),
        ("digest of the file, as sealed", f'<span class="mono">{content}</span>'),
    ]
    if isinstance(miner, MinerVerdict):
        rows.append(("rollouts sampled", str(len(miner.sampled))))
    return table((), ([cell(escape(name), "nw"), cell(html)] for name, html in rows), caption="What was sealed and found")


def _valid(miner: AnyMiner) -> int:
    return miner.unique_valid if isinstance(miner, MinerVerdict) else miner.valid


def _causes(causes: Sequence[Cause]) -> str:
    if not causes:
        return ""
    told = []
    for cause in causes:
        typical = f"<p>Typical of {words(' or '.join(cause.typical_of))}.</p>" if cause.typical_of else ""
        advice = f"<p><strong>Try:</strong> {words(cause.advice)}</p>" if cause.advice else ""
        what = f'<p class="what">{words(cause.what)} ({escape(cause.certainty.value)})</p>'
        told.append(f'<div class="cause">{what}{typical}{advice}</div>')
    return card("Likely cause, and what to do", "", "".join(told))


def _findings(findings: Sequence[Finding], is_round: bool, query: Query, path: str) -> str:
    if not findings:
        return '<p class="empty">No check has said anything of it.</p>'
    ordered = sorted(findings, key=lambda one: one.outcome is not Outcome.REJECT)  # what rejects comes first, the rest as it is
    shown = ordered[page_of(query, len(ordered), PER_PAGE)]
    heads = ["check", "statistic", "says", "value#", "threshold#", "times#", "where", "detail"]
    body = table(heads, (_finding(one, is_round) for one in shown), caption=f"Every finding, {len(ordered)} in all")
    return card("", "", body) + pager(query, path, len(ordered), "findings", PER_PAGE)


def _finding(finding: Finding, is_round: bool) -> list[Cell]:
    if is_round:
        told = read_finding(finding)
        statistic, times, enforced, detail = told.statistic, None, told.enforced, finding.detail
    else:
        one = read(finding)
        statistic, times, enforced, detail = one.statistic, one.times, one.enforced, one.detail
    where = (
        ""
        if finding.group is None
        else f"group {finding.group}" + ("" if finding.rollout is None else f" rollout {finding.rollout}")
    )
    kind = {Outcome.REJECT: "failed", Outcome.ACCEPT: "accepted"}.get(finding.outcome, "inconclusive")
    says = badge(finding.outcome.value, kind) + ("" if enforced else " " + badge("reported", ""))
    return [
        cell(words(finding.check), "nw"),
        cell(words(statistic, 48), "nw"),
        cell(says),
        _value(finding.value),
        _value(finding.threshold),
        number("" if times is None else f"{times:.2g}"),
        cell(words(where), "nw"),
        cell(words(detail), "long"),
    ]


def _value(value: str | int | None) -> Cell:
    """A number as it is read; a name or digest as it stands."""
    if value is None or isinstance(value, int):
        return number("" if value is None else str(value))
    try:
        return number(f"{float(value):.4g}")
    except ValueError:
        return cell(words(value, 64))
