"""Vectors of stop texts, tests/vectors/inference/stops.json: where a completion ends, and what of its text is handed out.

Tokens are bytes in hex, and a text is what they make together as UTF-8, with U+FFFD for what is none. Of each completion every
length is judged that is not its own end, end token or limit: right is one alone, where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from grail_core.inference.stops import before_stop, contains_stop
from grail_core.protocol.reading import Json
from tooling.testing.vectors.source import Source

_CASES: tuple[tuple[str, tuple[bytes, ...], tuple[str, ...]], ...] = (
    ("a token that is a stop text", (b"one", b"\n", b"two"), ("\n",)),
    ("a stop text across tokens", (b"4.", b"\nQu", b"estion", b":", b" 5"), ("Question:",)),
    ("the token goes on behind it", (b"yes", b" no\n\nand", b" more"), ("\n\n",)),
    ("of two the earliest is cut before", (b"ab", b"cd", b"e"), ("cd", "bc")),
    ("one inside the other", (b"a", b"END", b"."), ("END", "N")),
    ("at the very beginning", (b"\nHello",), ("\n",)),
    ("a character in two tokens", (b"a\xc3", b"\xa9b", b"c"), ("\u00e9",)),
    ("an unfinished character behind it", (b"x.\xe2\x82", b"\xac"), (".",)),
    ("the first of several", (b"1", b", 2", b", 3", b", 4"), (", 3", ", 2")),
    ("none in the text", (b"1", b", 2"), (", 3",)),
    ("begun and not finished", (b"Quest", b"ions"), ("Question:",)),
)


def stops(_: Source) -> Json:
    return [
        {
            "about": about,
            "tokens": [token.hex() for token in tokens],
            "stop": list[Json](texts),
            "right_lengths": [length for length in range(1, len(tokens) + 1) if _ends_at(tokens, texts, length)],
            "handed_out": before_stop(_text(tokens), texts),
        }
        for about, tokens, texts in _CASES
    ]


def _ends_at(tokens: Sequence[bytes], texts: Sequence[str], length: int) -> bool:
    return contains_stop(_text(tokens[:length]), texts) and not contains_stop(_text(tokens[: length - 1]), texts)


def _text(tokens: Sequence[bytes]) -> str:
    return b"".join(tokens).decode("utf-8", "replace")
