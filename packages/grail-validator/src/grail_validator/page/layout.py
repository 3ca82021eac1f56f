"""One page: head, navigation, main part and foot, and the small parts that several pages have: links, pagers, faults.

HTML alone, no script and nothing from elsewhere; whatever a stranger wrote comes through `words` or a part that escapes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final
from urllib.parse import urlencode

from grail_core.clock import utc_text
from grail_core.keys import ss58
from grail_core.pages.parts import Cell, badge
from grail_core.protocol import MinerStatus, WindowStatus
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Hotkey, Window
from grail_core.text import printable
from grail_validator.page.board import Snapshot
from grail_validator.page.style import PAGE_STYLE

PER_PAGE: Final = 64
MAX_PAGE: Final = 100_000
_SECTIONS: Final = (("/", "Scoreboard"), ("/windows", "Windows"), ("/proof", "Proof"), ("/checkpoints", "Checkpoints"))
_SHORT: Final = 10
_NAMED: Final = 8

STYLE_DIGEST: Final = base64.b64encode(hashlib.sha256(PAGE_STYLE.encode()).digest()).decode()
"""Of the style sheet in every page: the one that the Content-Security-Policy lets a browser apply."""


@dataclass(frozen=True)
class Facts:
    """What a page knows beside its verdicts. `rule` is the network's, None where the settings name none that could be read."""

    source: str
    network: str
    rule: NetworkParameters | None


@dataclass(frozen=True)
class Query:
    """What a visitor asked for, within bounds: page from 0 on, what to sort by ("" the page's own order), what to look for."""

    page: int = 0
    sort: str = ""
    find: str = ""

    @classmethod
    def read(cls, given: Mapping[str, str]) -> Query:
        """Anything else that a query string says is passed over."""
        page = given.get("page", "")
        number = int(page) if page.isascii() and page.isdigit() and len(page) < 7 else 0
        return cls(min(number, MAX_PAGE), given.get("sort", "")[:16], printable(given.get("q", ""), 64).strip())

    def link(self, path: str, *, page: int = 0, sort: str | None = None) -> str:
        """The same question with another page or order."""
        asked = {"q": self.find, "sort": self.sort if sort is None else sort, "page": str(page) if page else ""}
        text = urlencode({name: value for name, value in asked.items() if value})
        return f"{path}?{text}" if text else path


def words(value: object, most: int = 600) -> str:
    """Anybody's text as HTML: one line, nothing in it but what can be read."""
    return escape(printable(value, most))


def link(href: str, text: str, *, css: str = "", label: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    said = f' aria-label="{escape(label)}"' if label else ""
    return f'<a{kind}{said} href="{escape(href)}">{escape(text)}</a>'


def hotkey_link(hotkey: Hotkey) -> str:
    address = ss58(hotkey)
    return link(f"/miners/{address}", f"{address[:_SHORT]}…", css="mono", label=f"miner {address}")


def window_link(window: Window) -> str:
    return link(f"/windows/{window}", str(window))


def explain_link(window: Window, hotkey: Hotkey, text: str) -> str:
    address = ss58(hotkey)
    return link(f"/windows/{window}/{address}", text, label=f"{text}: why, in window {window}, miner {address[:_SHORT]}…")


def cell(html: str, kind: str = "") -> Cell:
    return Cell(html, kind)


def status_badge(status: MinerStatus | WindowStatus) -> str:
    kind = {"scored": "accepted", "void": "inconclusive", "missed": "inconclusive"}.get(status.value, status.value)
    return badge(status.value.replace("_", " "), kind)


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def digest_html(value: bytes | None) -> str:
    return "–" if value is None else f'<span class="mono">{value.hex()}</span>'


def pager(query: Query, path: str, count: int, what: str, per_page: int = PER_PAGE) -> str:
    """Where one is in a long list; nothing where one page holds it all."""
    last = max(0, (count - 1) // per_page)
    if not last:
        return ""
    here = min(query.page, last)
    parts = [f"<span>{what} {here * per_page + 1:,} to {min(count, (here + 1) * per_page):,} of {count:,}</span>"]
    for name, page in (("first", 0), ("previous", here - 1), ("next", here + 1), ("last", last)):
        if 0 <= page <= last and page != here:
            parts.append(link(query.link(path, page=page), name))
    return f'<nav class="pager" aria-label="pages">{"".join(parts)}</nav>'


def page_of(query: Query, count: int, per_page: int = PER_PAGE) -> slice:
    here = min(query.page, max(0, (count - 1) // per_page))
    return slice(here * per_page, (here + 1) * per_page)


def sort_links(query: Query, path: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Heads of columns as links: by a head's name the key that it sorts by."""
    found = {}
    for name, key in columns.items():
        current = ' aria-current="true"' if query.sort == key else ""
        href = escape(query.link(path, sort=key))
        found[name] = f'<a{current} href="{href}" aria-label="sort by {escape(name)}">{escape(name)}</a>'
    return found


def faults(snapshot: Snapshot) -> str:
    """What is missing, above everything else: a reader would otherwise take a part for the whole."""
    lines = []
    if snapshot.problem:
        since = f"; what is shown was read {utc_text(snapshot.read_at_ms)}" if snapshot.read_at_ms else ""
        lines.append(f"The source cannot be read: {words(snapshot.problem)}{since}.")
    if snapshot.unread:
        more = len(snapshot.unread) - _NAMED
        told = "; ".join(f"{one.window}: {words(one.problem, 160)}" for one in snapshot.unread[-_NAMED:])
        lines.append(f"{_windows(len(snapshot.unread))} not shown: {told}{f'; and {more} more' if more > 0 else ''}.")
    if snapshot.gaps:
        told = ", ".join(str(a) if a == b else f"{a} … {b}" for a, b in snapshot.gaps[-_NAMED:])
        more = len(snapshot.gaps) - _NAMED
        alone = len(snapshot.gaps) == 1 and snapshot.gaps[0][0] == snapshot.gaps[0][1]
        lines.append(f"No verdict of window{'' if alone else 's'} {told}{f', and {more} more runs' if more > 0 else ''}.")
    if not lines:
        return ""
    return f'<div class="note-box" role="status">{"".join(f"<p>{line}</p>" for line in lines)}</div>'


def _windows(count: int) -> str:
    return "1 window is" if count == 1 else f"{count} windows are"


def document(
    facts: Facts,
    snapshot: Snapshot,
    *,
    at: str,
    title: str,
    heading_html: str = "",
    lede: str = "",
    crumbs: Sequence[tuple[str, str]] = (),
    body_html: str,
) -> str:
    """The whole page.

    Args:
        at: the section it belongs to, as its path. title: for the tab, and the heading where no other is given.
        crumbs: (path, text) of the pages above it.
    """
    current = {path: ' aria-current="page"' if path == at else "" for path, _ in _SECTIONS}
    items = "".join(f'<li><a href="{path}"{current[path]}>{name}</a></li>' for path, name in _SECTIONS)
    above = " / ".join(link(path, text) for path, text in crumbs)
    trail = f'<p class="crumbs">{above}</p>' if above else ""
    below = f'<p class="lede">{escape(lede)}</p>' if lede else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<title>{escape(title)} · GRAIL</title><link rel="icon" href="data:,"><style>{PAGE_STYLE}</style></head>'
        '<body><a class="skip" href="#main">Skip to the content</a>'
        f'<div class="bar"><nav aria-label="sections"><strong>GRAIL</strong><ul>{items}</ul></nav></div>'
        f'<main id="main" tabindex="-1"><header>{trail}<h1>{heading_html or escape(title)}</h1>{below}'
        f"{faults(snapshot)}</header>{body_html}</main>{_foot(facts, snapshot)}</body></html>"
    )


def _foot(facts: Facts, snapshot: Snapshot) -> str:
    who = "nobody's" if snapshot.validator is None else ss58(snapshot.validator)
    network = "an unknown network" if snapshot.network_id is None else f"network id {snapshot.network_id.hex()[:16]}…"
    named = f"the settings here name {words(facts.network)}" if facts.rule is not None else "the settings here name none"
    return (
        f'<footer class="foot"><p>Verdicts of validator <span class="mono">{words(who)}</span> on '
        f"{network} ({named}), from {words(facts.source)}. Every signature was verified. Read only; "
        f"{link('/metrics', 'metrics')}, {link('/healthz', 'health')}.</p></footer>"
    )
