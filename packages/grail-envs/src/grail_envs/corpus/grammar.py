"""The text of `bytes-1`: short sentences with names, places, sums and dates, each choice made by one byte of a stream.

A sentence is a walk through states. In a state one of its texts is written and names the state after it; no text begins another
of the same state, so whoever has read the text so far knows in which state it is, and the chance of every next token. That is
what makes the entropy of the text computable (`entropy_by_position`): no model's loss can fall below it but by chance.
A sum is the one text that follows from what was written before.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

END: Final = 256
"""The end token, beside the bytes 0 … 255."""

Option = tuple[str, str, int | None]
"""Text, the state after it, and the number it says where a sum is made of it."""

_BYTES: Final = 256
_END_TEXT: Final = chr(END)  # a text is code points, of which the last is no byte
_SUM: Final = "sum"
_SUM_LENGTH: Final = 3  # two digits and a full stop

_PEOPLE = (
    "Ada, Alan, Anna, Bela, Carl, Clara, Dora, Edith, Emil, Eva, Felix, Greta, Hans, Ida, Igor, Ivan, "
    "Jan, Jonas, Karin, Lena, Lotte, Marie, Max, Mila, Nina, Otto, Paul, Petra, Rosa, Theo, Ulla, Vera"
)
_PLACES = "Athens, Basel, Berlin, Bergen, Cairo, Delhi, Dublin, Graz, Lima, Lyon, Madrid, Oslo, Paris, Prague, Rome, Vienna"
_THINGS = "apples, bells, books, boats, chairs, clocks, coats, coins, eggs, lamps, lemons, maps, pears, pens, stones, tools"
_MONTHS = "January, February, March, April, May, June, July, August, September, October, November, December"
_LEAST, _MOST = 10, 41  # of a summand: any two of them have a sum of two digits


def _texts(pattern: str, words: str | range, then: str) -> list[Option]:
    """One option for each of the words, which stand in a list with commas."""
    return [(pattern.format(word), then, None) for word in (words.split(", ") if isinstance(words, str) else words)]


def _numbers(pattern: str, then: str) -> list[Option]:
    return [(pattern.format(number), then, number) for number in range(_LEAST, _MOST + 1)]


_GRAMMAR: Final[dict[str, list[tuple[int, list[Option]]]]] = {
    # (share of 256, options of equal chance); a share that is no multiple of its options favours some of them by one
    "sentence": [
        (160, _texts("{} ", _PEOPLE, "verb")),
        (48, [("On ", "day", None)]),
        (48, [("The sum of ", "first", None)]),
    ],
    "verb": [
        (64, _texts("{} in ", "lives, works", "place")),
        (64, _texts("{} ", "sells, likes, needs, wants", "thing")),
        (64, [("has ", "count", None)]),
        (64, [("was born on ", "birthday", None)]),
    ],
    "place": [(_BYTES, _texts("{}.", _PLACES, "after"))],
    "thing": [(_BYTES, _texts("{}.", _THINGS, "after"))],
    "count": [(_BYTES, _numbers("{} ", "counted"))],
    "counted": [(_BYTES, _texts("{} and gets ", _THINGS, "more"))],
    "more": [(_BYTES, _numbers("{} more, so now ", _SUM))],
    "first": [(_BYTES, _numbers("{} and ", "second"))],
    "second": [(_BYTES, _numbers("{} is ", _SUM))],
    "day": [(_BYTES, _texts("{} ", range(1, 29), "month"))],
    "month": [(_BYTES, _texts("{} ", _MONTHS, "year"))],
    "year": [(_BYTES, _texts("19{:02d}, ", range(100), "who"))],
    "who": [(_BYTES, _texts("{} ", _PEOPLE, "past"))],
    "past": [(128, _texts("left {}.", _PLACES, "after")), (128, _texts("sold {}.", _THINGS, "after"))],
    "birthday": [(_BYTES, _texts("{} ", range(1, 29), "birth month"))],
    "birth month": [(_BYTES, _texts("{} ", _MONTHS, "birth year"))],
    "birth year": [(_BYTES, _texts("19{:02d}.", range(100), "after"))],
    "after": [(192, [(" ", "sentence", None)]), (64, [(_END_TEXT, "sentence", None)])],
}


def _by_byte(groups: Sequence[tuple[int, Sequence[Option]]]) -> tuple[Option, ...]:
    """Which option each byte chooses: of a group of share s the option ⌊x·n/s⌋, x the byte's place within the share."""
    chosen = [options[at * len(options) // share] for share, options in groups for at in range(share)]
    if len(chosen) != _BYTES:
        raise ValueError(f"the shares of a state come to {len(chosen)}, not {_BYTES}")
    return tuple(chosen)


_CHOICES: Final[Mapping[str, tuple[Option, ...]]] = {state: _by_byte(groups) for state, groups in _GRAMMAR.items()}


def sentences(stream: bytes, length: int) -> str:
    """The first `length` tokens of the text that a stream chooses, as code points 0 … END. Begins with a sentence.

    Raises:
        ValueError: the stream ends first (`length` bytes always do: every byte writes a token or more).
    """
    parts, written = [], 0
    state, before, last = "sentence", 0, 0
    for byte in stream:
        text, state, number = _CHOICES[state][byte]
        if number is not None:
            before, last = last, number
        if state == _SUM:
            text, state = f"{text}{before + last}.", "after"
        parts.append(text)
        written += len(text)
        if written >= length:
            return "".join(parts)[:length]
    raise ValueError(f"{len(stream)} bytes choose {written} of {length} tokens")


def entropy_by_position(length: int) -> list[float]:
    """H(token t | all tokens before it) in nats for t = 0 … length − 1, exactly, from the chances of the grammar."""
    entropies = [0.0] * length
    reaches: list[dict[str, float]] = [defaultdict(float) for _ in range(length + 1)]
    reaches[0]["sentence"] = 1.0
    tables = {state: (_entropies(options), _lengths(options)) for state, options in _CHOICES.items()}
    for at in range(length):
        for state, chance in reaches[at].items():
            within, ends = tables[state]
            for offset, entropy in enumerate(within[: length - at]):
                entropies[at + offset] += chance * entropy
            for (size, then), share in ends.items():
                if at + size < length:
                    reaches[at + size][then] += chance * share
    return entropies


def _entropies(options: Sequence[Option]) -> list[float]:
    """By offset: the chance that a text is so long, times the mean entropy of the token there given those before it."""
    longest = max(len(text) for text, _, _ in options)
    found = []
    for offset in range(longest):
        after: dict[str, Counter[str]] = defaultdict(Counter)
        for text, _, _ in options:
            if offset < len(text):
                after[text[:offset]][text[offset]] += 1
        found.append(sum(_entropy(counts) for counts in after.values()) / len(options))
    return found


def _entropy(counts: Counter[str]) -> float:
    """Σ c ln(C/c): the entropy times C = Σ c."""
    total = counts.total()
    return sum(count * math.log(total / count) for count in counts.values())


def _lengths(options: Sequence[Option]) -> dict[tuple[int, str], float]:
    """(tokens written, state after them) → chance. A sum's digits follow from what was read, so they only take room."""
    chances: Counter[tuple[int, str]] = Counter()
    for text, then, _ in options:
        chances[(len(text) + _SUM_LENGTH, "after") if then == _SUM else (len(text), then)] += 1
    return {end: count / len(options) for end, count in chances.items()}
