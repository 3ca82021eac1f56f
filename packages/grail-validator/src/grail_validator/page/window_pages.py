"""The list of windows, newest first, and one window: what it was derived from, and how everybody in it was judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from html import escape
from typing import Final

from grail_core.clock import utc_text
from grail_core.commands.explained import OF_WINDOW
from grail_core.commands.explained_round import OF_ROUND, merge_lines
from grail_core.errors import GrailError
from grail_core.pages.parts import Cell, card, number, table
from grail_core.protocol import MinerStatus
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.types import Window
from grail_validator.page.board import Board, Record, Snapshot
from grail_validator.page.layout import (
    Facts,
    Query,
    cell,
    digest_html,
    document,
    explain_link,
    hotkey_link,
    link,
    page_of,
    pager,
    sort_links,
    status_badge,
    window_link,
    words,
)
from grail_validator.page.records import MinerRecord, Unread, WindowRecord

_NO_DATE_MS: Final = 253_402_300_800_000
"""The year 10,000."""
LIST_SECONDS: Final = 3.0
"""That one page of the list reads verdicts for, of windows that are older than the memory; the others can be opened."""


def windows_page(facts: Facts, board: Board, query: Query) -> str:
    snapshot = board.snapshot
    newest_first = snapshot.windows[::-1]
    part = page_of(query, len(newest_first))
    until = time.monotonic() + LIST_SECONDS
    later = newest_first[max(0, part.start - 1) : part.start]  # what is missing between two pages is told on the later one
    rows = list(_rows(later, newest_first[part], lambda window: board.record(window, until)))
    heads = ["window", "status", "sealed#", "drawn#", "accepted#", "failed#", "inconclusive#", "reason"]
    body = table(heads, rows, caption=f"{len(newest_first):,} verdicts, newest first")
    return document(
        facts,
        snapshot,
        at="/windows",
        title="Windows",
        lede="Every window, and every round of gradient work, that has a verdict here. Each is named by its first block.",
        body_html=card("", "", body) + pager(query, "/windows", len(newest_first), "windows"),
    )


def _rows(
    later: tuple[Window, ...], shown: tuple[Window, ...], read: Callable[[Window], Record | None]
) -> Iterator[list[Cell]]:
    """`later`: the window above these, if they are not the newest."""
    previous: tuple[Window, bool] | None = None
    for window in (*later, *shown):
        record = read(window)
        is_round = isinstance(record, WindowRecord) and record.is_round
        if previous is not None and not (previous[1] or is_round) and previous[0] - window > WINDOW_LENGTH:
            first, last = window + WINDOW_LENGTH, previous[0] - WINDOW_LENGTH
            run = str(first) if first == last else f"{first} … {last}"
            yield [cell(run, "nw"), cell("no verdict"), *[number("")] * 5, cell("nothing lies here of it", "long")]
        previous = window, is_round
        if window not in later:
            yield _row(window, record)


def _row(window: Window, record: Record | None) -> list[Cell]:
    if not isinstance(record, WindowRecord):
        problem = "not listed any more" if record is None else record.problem
        return [cell(window_link(window), "nw"), cell("not shown"), *[number("")] * 5, cell(words(problem), "long")]
    count = Counter(one.status for one in record.miners)
    sealed = len(record.miners) - count[MinerStatus.ABSENT]
    drawn = sealed - count[MinerStatus.NOT_SELECTED]
    numbers = (
        sealed,
        drawn,
        *(count[one] for one in (MinerStatus.ACCEPTED, MinerStatus.FAILED, MinerStatus.INCONCLUSIVE)),
    )
    kind = " (round)" if record.is_round else ""
    return [
        cell(f"{window_link(window)}{kind}", "nw"),
        cell(status_badge(record.status)),
        *(number(str(value)) for value in numbers),
        cell(words(record.reason), "long"),
    ]


def window_page(facts: Facts, board: Board, window: Window, query: Query) -> str | None:
    """One window; None where nothing is listed of it."""
    snapshot = board.snapshot
    record = board.record(window, time.monotonic() + LIST_SECONDS)
    if record is None:
        return None
    what = "Round" if isinstance(record, WindowRecord) and record.is_round else "Window"
    body = _unread(record) if isinstance(record, Unread) else _window(board, record, query)
    return document(
        facts,
        snapshot,
        at="/windows",
        title=f"{what} {window}",
        crumbs=(("/windows", "Windows"),),
        lede=_lede(record),
        body_html=_neighbours(snapshot, window) + body,
    )


def _lede(record: Record) -> str:
    if isinstance(record, Unread):
        return "What lies here is not shown as a verdict."
    said = (OF_ROUND if record.is_round else OF_WINDOW).get(record.status, "")
    return f"{record.status.value}" + (f": {record.reason}" if record.reason else "") + (f". {said}." if said else ".")


def _unread(record: Unread) -> str:
    return card("", "", f'<p class="said">{words(record.problem)}</p>{_downloads(record.window, None)}')


def _neighbours(snapshot: Snapshot, window: Window) -> str:
    pairs = (("earlier", snapshot.before(window)), ("later", snapshot.following(window)))
    links = [link(f"/windows/{other}", f"{name}: {other}") for name, other in pairs if other is not None]
    return f'<nav class="pager" aria-label="neighbouring windows">{"".join(links)}</nav>' if links else ""


def _window(board: Board, record: WindowRecord, query: Query) -> str:
    return _miners(record, query) + card("", "", _inputs(record)) + _merge(board, record)


_FIRST: Final = (
    MinerStatus.FAILED,
    MinerStatus.INCONCLUSIVE,
    MinerStatus.ACCEPTED,
    MinerStatus.NOT_SELECTED,
    MinerStatus.ABSENT,
)
_ORDERS: Final[dict[str, Callable[[MinerRecord], tuple[object, ...]]]] = {
    "": lambda one: (_FIRST.index(one.status), one.uid),
    "uid": lambda one: (one.uid,),
    "declared": lambda one: (-one.declared, one.uid),
    "valid": lambda one: (-one.valid, one.uid),
    "weight": lambda one: (-one.weight, one.uid),
}


def _miners(record: WindowRecord, query: Query) -> str:
    if not record.miners:
        return '<p class="empty">This verdict names no miner.</p>'
    ordered = sorted(record.miners, key=_ORDERS.get(query.sort, _ORDERS[""]))
    shown = ordered[page_of(query, len(ordered))]
    path = f"/windows/{record.window}"
    links = sort_links(query, path, {name: name.lower() for name in ("UID", "declared", "valid", "weight")})
    heads = ["UID", "hotkey", "verdict", "chance#", "declared#", "valid#", "weight#", "why"]
    body = table(heads, (_miner(record, one) for one in shown), caption=f"{len(ordered)} miners by verdict", links=links)
    return card("", "", body) + pager(query, path, len(ordered), "miners")


def _miner(record: WindowRecord, one: MinerRecord) -> list[Cell]:
    chance = None if one.counted is None else one.counted.probability
    reason = f": {escape(one.reason)}" if one.reason else ""
    return [
        cell(str(one.uid), "nw"),
        cell(hotkey_link(one.hotkey), "nw"),
        cell(status_badge(one.status)),
        number("" if chance is None else f"{float(chance):.3f}"),
        number(f"{one.declared:,}"),
        number(f"{one.valid:,}"),
        number(f"{one.weight:,}"),
        cell(f"{explain_link(record.window, one.hotkey, 'explain')}{reason}", "long"),
    ]


def _inputs(record: WindowRecord) -> str:
    inputs, versions = record.inputs, record.versions
    checkpoint = digest_html(inputs.checkpoint_digest)
    if inputs.checkpoint_digest is not None:
        checkpoint += f" {link('/checkpoints', 'in the chain')}"
    stored = record.stored_at_ms
    rows = [
        ("block hash of its first block", digest_html(inputs.block_hash)),
        ("block hash that ends first sight", digest_html(inputs.select_block_hash)),
        ("beacon round of the seeds", "no beacon" if inputs.seed_round is None else str(inputs.seed_round)),
        ("beacon round of the challenge", "no beacon" if inputs.challenge_round is None else str(inputs.challenge_round)),
        ("checkpoint", checkpoint),
        ("environment digest", digest_html(inputs.env_digest)),
        ("judged by", words(f"{versions.code}, calibration {versions.calibration}, environment {versions.environment}")),
        ("last seal stored", _time(stored)),
        ("digest of the body", digest_html(record.body)),
        ("memory taken over from another validator", words(record.adopted or "none")),
        ("published files", _downloads(record.window, record)),
    ]
    return table((), ([cell(escape(name), "nw"), cell(html)] for name, html in rows), caption="What it was derived from")


def _time(ms: int | None) -> str:
    """By a stranger's clock, which may say any number."""
    if ms is None:
        return "–"
    return utc_text(ms) if ms < _NO_DATE_MS else f"{ms} ms"


def _downloads(window: Window, record: WindowRecord | None) -> str:
    said = "" if record is None else f", {record.size:,} bytes, SHA-256 {digest_html(record.sha256)}"
    verdict = f"{link(f'/windows/{window}/verdict.json', 'verdict.json')}{said}"
    if record is None or record.evidence_digest is None:
        return f"{verdict}; no evidence is named" if record is not None else verdict
    named = digest_html(record.evidence_digest)
    return f"{verdict}; {link(f'/windows/{window}/evidence.parquet', 'evidence.parquet')}, SHA-256 {named}"


def _merge(board: Board, record: WindowRecord) -> str:
    if not record.is_round:
        return ""
    try:
        verdict = board.verdict(record.window)
    except GrailError as error:
        return f'<p class="said">What was merged cannot be read now: {words(error.what)}</p>'
    if not isinstance(verdict, SignedGradientVerdict):
        return ""
    return card("Merged", "", "".join(f'<p class="said">{words(line, 4000)}</p>' for line in merge_lines(verdict.body)))
