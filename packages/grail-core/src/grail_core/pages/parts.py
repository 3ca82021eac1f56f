"""The parts a page is made of: cards, tables, legends, badges. Arguments named `*_html` are taken as they are.

Localnet's report and a validator's page are made of these. Whatever else is handed in is escaped here; that a stranger's text
is fit to be read at all (`grail_core.text`) is the caller's matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_NUMBERS: Final = ' class="n"'


@dataclass(frozen=True)
class Cell:
    """One table cell. `kind` is a style class: n (a number), nw (one line), long (sentences), mono, or none."""

    html: str
    kind: str = ""


def text(value: str, kind: str = "") -> Cell:
    return Cell(escape(value), kind)


def number(value: str) -> Cell:
    return Cell(escape(value), "n")


def name(value: str) -> Cell:
    return Cell(escape(value), "nw")


def mono(value: str) -> Cell:
    return Cell(escape(value), "mono")


def card(title: str, sub: str, body_html: str, *, wide: bool = False) -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    below = f'<p class="sub">{escape(sub)}</p>' if sub else ""
    return f'<div class="card{" wide" if wide else ""}">{heading}{below}{body_html}</div>'


def grid(*cards_html: str) -> str:
    return f'<div class="grid2">{"".join(cards_html)}</div>'


def small_grid(*cards_html: str) -> str:
    """Three cards a row."""
    return f'<div class="grid3">{"".join(cards_html)}</div>'


def section(title: str, lede: str, body_html: str = "") -> str:
    return f"<h2>{escape(title)}</h2><p>{escape(lede)}</p>{body_html}"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str = "", links: Mapping[str, str] | None = None
) -> str:
    """A table; a head that ends in "#" is of a column of numbers. With heads, a narrow page shows each row as a block.

    Args:
        caption: what the table is, for who hears it read out, too; its heads say then that they are of columns.
        links: HTML in place of a head's name, by that name.
    """
    names = [head.removesuffix("#") for head in heads]
    scope = ' scope="col"' if caption else ""
    head = "".join(
        f"<th{_NUMBERS if head.endswith('#') else ''}{scope}>{(links or {}).get(name) or escape(name)}</th>"
        for head, name in zip(heads, names, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(_cell(cell, names[i] if i < len(names) else '') for i, cell in enumerate(row))}</tr>" for row in rows
    )
    kind, first = ("rows", f"<tr>{head}</tr>") if heads else ("pairs", "")
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table class="{kind}">{said}{first}{body}</table></div>'


def _cell(cell: Cell, head: str) -> str:
    kind = f' class="{cell.kind}"' if cell.kind else ""
    label = f' data-label="{escape(head, quote=True)}"' if head else ""
    return f"<td{kind}{label}>{cell.html}</td>"


def filled(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, blank: str = "–") -> str:
    """A table without the columns in which every cell is `blank`."""
    kept = [i for i in range(len(heads)) if any(row[i].html != blank for row in rows)]
    return table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows])


def badge(value: str, kind: str) -> str:
    return f'<span class="badge {kind}">{escape(value)}</span>'


def legend(items: Sequence[tuple[str, str]]) -> str:
    """(name, colour variable) pairs; nothing for none."""
    entries = "".join(f'<li><i style="background:var(--{colour})"></i>{escape(name)}</li>' for name, colour in items)
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def note(value: str) -> str:
    return f'<p class="note-box">{escape(value)}</p>'


def alarm(value: str) -> str:
    """A note in red: something that a reader would otherwise take for granted does not hold."""
    return f'<p class="note-box alarm">{escape(value)}</p>'


def tile(key: str, value_html: str, detail: str, *, lead: bool = False) -> str:
    return (
        f'<div class="tile{" lead" if lead else ""}"><div class="k">{escape(key)}</div>'
        f'<div class="v">{value_html}</div><div class="d">{escape(detail)}</div></div>'
    )
