"""Text that strangers wrote, made fit to be read: nothing in it moves a cursor, hides, or turns what follows around.

Hotkeys' names, ETags, a store's error messages, versions in headers, reasons of verdicts: all of it may be anybody's. It is
kept as data as it came, and goes through here wherever it becomes something that a person reads: findings, errors, terminal
lines, pages. What is not harmless is replaced by its escape (`\\x1b`, `\\u202e`), so that it is seen and can be looked up.

Harmless is what Python calls printable (no control or format characters, lone surrogates, private or unassigned code points, no
white space but the blank), less what is printable and yet invisible, and no more than MAX_COMBINING marks on one letter.
"""

from __future__ import annotations

import unicodedata

MAX_LINE = 2_000
"""Characters of one line, unless the caller says less."""

MAX_LINES = 20_000
"""Characters of a text of several lines: a traceback."""

MAX_COMBINING = 2
"""Marks on one letter: Vietnamese needs two where they are not composed."""

_UNSEEN = frozenset(
    [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0]
    + [code for low, high in ((0x180B, 0x1810), (0xFE00, 0xFE10), (0xE0100, 0xE01F0)) for code in range(low, high)]
)
"""Printable to Python, and nothing to the eye: joiners, fillers, variation selectors."""


def printable(text: object, most: int = MAX_LINE) -> str:
    """`str(text)` as one line of at most `most` characters, "…" at its end where it was cut. Idempotent."""
    return _made_fit(str(text), most, keep="")


def printable_lines(text: object, most: int = MAX_LINES) -> str:
    """As `printable`, but line feeds stay: what is shown as several lines is our own text with strangers' in it."""
    return _made_fit(str(text), most, keep="\n")


def _made_fit(text: str, most: int, keep: str) -> str:
    # Enough of a huge text that the escapes of the rest cannot matter: each character gives at least one.
    if len(text) <= most and text.isascii() and text.isprintable():
        return text
    parts: list[str] = []
    size = marks = 0
    for character in text[: most + 1]:
        shown = character
        if character in keep:
            marks = 0
        elif not character.isprintable() or ord(character) in _UNSEEN:
            shown = _escape(character)
        elif not character.isascii() and unicodedata.category(character) in ("Mn", "Me"):
            marks += 1
            if marks > MAX_COMBINING:
                shown = _escape(character)
        else:
            marks = 0
        parts.append(shown)
        size += len(shown)
        if size > most:
            break
    made = "".join(parts)
    return made if len(made) <= most else made[: max(0, most - 1)] + "…"[:most]


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
