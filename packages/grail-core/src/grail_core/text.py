"""Text that strangers wrote, made fit to be read: nothing in it moves a cursor, hides, or turns what follows around.

Hotkeys' names, ETags, a store's error messages, versions in headers, reasons of verdicts: all of it may be anybody's. It goes
through here wherever it becomes something that a person reads: findings, errors, terminal lines, pages. What is not harmless is
replaced by its escape (`\\x1b`, `\\u202e`), so that it is seen and can be looked up.

Harmless is a list: ASCII, Latin, Greek, Cyrillic, kana, Han, Hangul, punctuation, symbols, and MAX_COMBINING accents on one
letter. It holds no control, format or private character, no blank but the one, and no script that is written from the right,
whose letters move their neighbours. It is a list of code points and not a question to Python's tables, because findings are
signed: validators with different versions of Unicode must write the same bytes.
"""

from __future__ import annotations

import re

MAX_LINE = 2_000
"""Characters of one line, unless the caller says less."""

MAX_LINES = 20_000
"""Characters of a text of several lines: a traceback."""

MAX_COMBINING = 2
"""Accents on one letter: Vietnamese needs two where they are not composed."""

_HARMLESS = (
    (0x20, 0x7E),
    (0xA1, 0xAC),  # Latin, without the soft hyphen
    (0xAE, 0x2FF),
    (0x300, 0x34E),  # accents, without the invisible joiner between them
    (0x350, 0x36F),
    (0x370, 0x482),  # Greek, Cyrillic
    (0x48A, 0x52F),
    (0x1E00, 0x1FFF),
    (0x2010, 0x2027),  # punctuation, without what breaks lines or directions
    (0x2030, 0x205E),
    (0x2070, 0x20CF),  # superscripts, currencies
    (0x2100, 0x27FF),  # letters of mathematics, arrows, operators, boxes, symbols
    (0x2900, 0x2BFF),
    (0x3001, 0x303E),
    (0x3041, 0x312F),
    (0x3400, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xFF01, 0xFF9F),
)
_CLASS = "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in _HARMLESS)
_UNFIT = re.compile(f"[^{_CLASS}]")
_UNFIT_IN_LINES = re.compile(f"[^{_CLASS}\n]")
_FLOOD = re.compile(rf"(?<=[\u0300-\u036f]{{{MAX_COMBINING}}})[\u0300-\u036f]+")


def printable(text: object, most: int = MAX_LINE) -> str:
    """`str(text)` as one line of at most `most` characters, "…" at its end where it was cut. Idempotent."""
    return _made_fit(str(text), most, _UNFIT)


def printable_lines(text: object, most: int = MAX_LINES) -> str:
    """As `printable`, but line feeds stay: what is shown as several lines is our own text with strangers' in it."""
    return _made_fit(str(text), most, _UNFIT_IN_LINES)


class PrintableStream:
    """`printable_lines` for a text that comes in pieces: what `add` returns is together what the whole is shown as, but for the
    "…", which stands behind the last character and not in its place."""

    def __init__(self, most: int = MAX_LINES) -> None:
        self._left = most
        self._cut = False
        self._before = ""  # what accents may be piled on

    def add(self, piece: str) -> str:
        if self._cut or not piece:
            return ""
        whole = self._before + piece
        most = 16 * len(whole)  # no escape is as long
        shown = printable_lines(whole, most)[len(printable_lines(self._before, most)) :]
        self._before = whole[-MAX_COMBINING:]
        self._cut = len(shown) > self._left
        shown = shown[: self._left] + "…" if self._cut else shown
        self._left -= len(shown)
        return shown


def _made_fit(text: str, most: int, unfit: re.Pattern[str]) -> str:
    text = text[: most + 1]  # escapes make nothing shorter: what lies beyond is cut in any case
    if not (text.isascii() and text.isprintable()):
        text = _FLOOD.sub(_escaped, unfit.sub(_escaped, text))
    return text if len(text) <= most else (text[: max(0, most - 1)] + "…")[:most]


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
