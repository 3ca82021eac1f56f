"""Finding the token with which a completion's text contains a stop text (the rule: `grail_core.inference.stops`).

Decoding everything anew for every token costs the square of the length. `StopWatch` decodes a window of the last tokens, whose
text was seen to be the end of the longer one's when it began there, and believes a match only when the whole text has it. What
a decoder does with a token depends on few tokens around it, or on whole runs of byte tokens, which a window never enters within
a character. Should a decoder do otherwise, `finish` looks at the whole text once more: no completion is handed on whose text
contains a stop text before its last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grail_core.inference.stops import UNFINISHED, Decode, contains_stop

_STRIDE: Final = 64  # tokens after which a window is tried to be made shorter
_CHARACTER: Final = 4  # byte tokens of one, at most: text that is unfinished for so many is no character
_REACH: Final = 16  # tokens, and characters, before a window's new text: what a decoder may still change or strip


class StopWatch:
    """One completion, token by token. The token that ends it, if it is of the end set, is no text and not told.

    Args:
        decode: the model's, of tokens from the first one on. stops: none: nothing ends it.
    """

    def __init__(self, decode: Decode, stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = tuple(stops)
        self._needed = max(map(len, self._stops), default=0) + _REACH  # characters of a window
        self._tokens: list[int] = []
        self._start = 0  # of the window
        self._limit = _STRIDE  # tokens of the window at which it is made shorter
        self._length: int | None = None

    @property
    def length(self) -> int | None:
        """After how many tokens the completion ends; None while it has no stop text in it."""
        return self._length

    def add(self, token: int) -> int | None:
        """One token more. Returns `length`; once that is a number, further tokens change nothing."""
        if self._length is not None or not self._stops:
            return self._length
        self._tokens.append(token)
        size, window = len(self._tokens) - self._start, self._decode(self._tokens[self._start :])
        if contains_stop(window, self._stops):
            self._length = self._first_length()
        elif size >= self._limit + (_CHARACTER if window.endswith(UNFINISHED) else 0):
            self._shorten(window)
        return self._length

    def finish(self) -> int | None:
        """`length`, after the last token: what no window showed, the whole text does."""
        if self._length is None and self._stops:
            self._length = self._first_length()
        return self._length

    def _first_length(self) -> int | None:
        """The whole text decides: a length whose text has a stop text, where that of one token less has none."""
        after = len(self._tokens)
        if not self._has_stop(after):
            return None
        before = after - 1 if not self._has_stop(after - 1) else 0  # without tokens there is no text
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (before, middle) if self._has_stop(middle) else (middle, after)
        return after

    def _has_stop(self, length: int) -> bool:
        return contains_stop(self._decode(self._tokens[:length]), self._stops)

    def _shorten(self, window: str) -> None:
        """Begin it later, where its text is the end of what it was: between characters, and a blank may be gone before it."""
        size, back = len(self._tokens) - self._start, _REACH
        while back < size:
            for kept in range(back, min(back + _CHARACTER, size)):
                text = self._decode(self._tokens[-kept:])
                if len(text) >= self._needed and window.endswith(text):
                    self._start, self._limit = len(self._tokens) - kept, kept + _STRIDE
                    return
            back *= 2
        self._limit = 2 * size


def stopped_length(decode: Decode, tokens: Sequence[int], stops: Sequence[str]) -> int | None:
    """After how many of these tokens the completion ends; None where its text contains no stop text.

    Args:
        tokens: all of a completion but a token of the end set.
    """
    watch = StopWatch(decode, stops)
    for token in tokens if stops else ():
        if watch.add(token) is not None:
            break
    return watch.finish()


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many last characters of a text without a stop text may still change or become part of one: a stream keeps them.

    They are the unfinished characters at its end, and before these the longest beginning of a stop text.
    """
    whole = text.rstrip(UNFINISHED)
    most = min(len(whole), max(map(len, stops), default=1) - 1)
    begun = next((count for count in range(most, 0, -1) if any(stop.startswith(whole[-count:]) for stop in stops)), 0)
    return len(text) - len(whole) + begun
