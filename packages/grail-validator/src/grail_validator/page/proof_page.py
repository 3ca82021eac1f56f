"""What the checks measured, over the memory: how values lie beside their thresholds, and which check rejected how often."""

from __future__ import annotations

from collections import Counter
from typing import Final

from grail_core import svg
from grail_core.pages.parts import Cell, card, number, table
from grail_core.protocol import MinerStatus
from grail_validator.page.board import Snapshot
from grail_validator.page.layout import Facts, Query, cell, document, explain_link, page_of, pager, words
from grail_validator.page.records import MARGINS, MAX_TESTS, Spread

_BIN, _HEIGHT = 26, 30
_NAMES: Final = (
    *(f"{low:g} to {high:g} times" for low, high in zip((0.0, *MARGINS[:-1]), MARGINS, strict=True)),
    f"beyond {MARGINS[-1]:g} times",
)


def proof_page(facts: Facts, snapshot: Snapshot, query: Query) -> str:
    tests: dict[tuple[str, str], Spread] = {}
    for record in snapshot.records:
        for name, spread in record.tests.items():
            if name in tests or len(tests) < 2 * MAX_TESTS:
                tests.setdefault(name, Spread()).join(spread)
    ordered = sorted(tests.items())
    shown = ordered[page_of(query, len(ordered))]
    heads = ["check", "statistic", "values#", "least#", "most#", "threshold", "beside its threshold", "rejects#", "reported#"]
    body = table(heads, (_row(name, spread) for name, spread in shown), caption="What each statistic measured")
    bounds = ", ".join(f"{bound:g}" for bound in MARGINS)
    return document(
        facts,
        snapshot,
        at="/proof",
        title="Proof statistics",
        lede=f"Every number that a check of the last {len(snapshot.records)} verdicts has beside its bound.",
        body_html=_rejects(snapshot)
        + card("", "", body)
        + pager(query, "/proof", len(ordered), "statistics")
        + '<p class="said">beside its threshold: how many values lie within '
        + f"{bounds} times the bound and beyond, as bars; counts, rewards and logarithms of ratios have none. reported: "
        "findings that no calibration table covers, which reject nobody.</p>",
    )


def _row(name: tuple[str, str], spread: Spread) -> list[Cell]:
    return [
        cell(words(name[0]), "nw"),
        cell(words(name[1]), "nw"),
        number(f"{spread.values:,}" if spread.values else ""),
        number("" if spread.least is None else f"{spread.least:.4g}"),
        number("" if spread.most is None else f"{spread.most:.4g}"),
        cell(words(", ".join(_short(one) for one in sorted(spread.thresholds)))),
        cell(_bars(spread)),
        number(f"{spread.rejects:,}"),
        number(f"{spread.reported:,}"),
    ]


def _short(text: str) -> str:
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def _bars(spread: Spread) -> str:
    if not any(spread.bins):
        return "–"
    most = max(spread.bins)
    parts = []
    for i, (count, name) in enumerate(zip(spread.bins, _NAMES, strict=True)):
        height = max(1.5 if count else 0.0, (_HEIGHT - 2) * count / most)
        colour = "bad" if i >= MARGINS.index(1.0) + 1 else "m1"
        parts.append(svg.rect(i * _BIN, _HEIGHT - height, _BIN - 4, height, title=f"{name}: {count}", fill=f"var(--{colour})"))
    parts.append(svg.line(0, _HEIGHT, len(spread.bins) * _BIN, _HEIGHT, css="grid"))
    told = "; ".join(f"{name}: {count}" for name, count in zip(_NAMES, spread.bins, strict=True))
    return svg.inline(len(spread.bins) * _BIN, _HEIGHT, parts, css="bullet", label=told, width=len(spread.bins) * _BIN)


def _rejects(snapshot: Snapshot) -> str:
    counts: Counter[str] = Counter()
    latest = {}
    for record in snapshot.records:
        for one in record.miners:
            if one.status is MinerStatus.FAILED:
                for check in one.rejected_by or ("no check (the file could not be had)",):
                    counts[check] += 1
                    latest[check] = record.window, one
    if not counts:
        return '<p class="empty">No file failed in the windows that are read.</p>'
    rows = []
    for check, count in counts.most_common(MAX_TESTS):
        window, miner = latest[check]
        link = explain_link(window, miner.hotkey, f"{window}, UID {miner.uid}")
        reason = miner.reason if miner.rejected_by[:1] in ((), (check,)) else "another check rejects it first"
        rows.append([cell(words(check), "nw"), number(str(count)), cell(link, "nw"), cell(words(reason), "long")])
    body = table(["rejected by", "files#", "the last one", "with"], rows, caption="Failures by check")
    return card("", "", body)
