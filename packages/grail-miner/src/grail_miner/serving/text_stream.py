"""The text of a completion while its tokens come: what is certain of it, and nothing that a later token could take back.

A token's text can depend on the ones before it, and a character can take several tokens: a piece of text goes out once its
bytes are whole characters, and once it can no longer be the beginning of a text that ends the completion. Only the last few
tokens are decoded for each new one. Tokenizers whose text does not grow in that way exist, so who streams compares the whole
with the receipt's text at the end (`rest`).
"""

from __future__ import annotations

from collections.abc import Sequence

from grail_core.inference.stops import UNFINISHED, Decode, first_match
from grail_miner.serving.stop_watch import held_back

_MAX_WINDOW = 512  # tokens that are decoded for a new one; where more are unsettled, the rest comes at the end


class TextStream:
    """Of one completion.

    Args:
        decode: token ids to text, as the receipt's reader decodes them.
        before: what stands in front of the completion's own text.
        stops: texts before the first of which the text ends.
    """

    def __init__(self, decode: Decode, before: str = "", stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = tuple(stops)
        self._window: list[int] = []  # the last tokens: some whose text is settled, and those after them
        self._settled = 0  # so many of the window's first
        self._known = ""  # of the window's text, what is certain
        self._held = ""  # text that is certain, and may be the beginning of a stop text
        self._before = before
        self._over = False  # nothing more goes out before the end
        self.text = ""
        """All that went out."""

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that can go out now and could not before."""
        if self._over or not tokens:
            return ""
        self._window += tokens
        text = self._decode(self._window)
        certain = text.rstrip(UNFINISHED)
        if not certain.startswith(self._known):
            self._over = len(self._window) > _MAX_WINDOW  # this tokenizer's text does not grow
            return ""
        fresh, self._known = certain[len(self._known) :], certain
        if certain == text:
            self._window = self._window[self._settled :]
            self._settled, self._known = len(self._window), self._decode(self._window)
        self._over = len(self._window) > _MAX_WINDOW
        return self._out(fresh)

    def rest(self, whole: str) -> str:
        """What is left of the whole text. Raises ValueError: it does not begin with what went out."""
        if not whole.startswith(self.text):
            raise ValueError("the text of all tokens does not begin with that of the first of them")
        return whole[len(self.text) :]

    def _out(self, fresh: str) -> str:
        text = self._held + fresh
        found = first_match(text, self._stops)
        if found is not None:
            self._over = True
            text, self._held = text[:found], ""
        else:
            kept = held_back(text, self._stops)
            text, self._held = text[: len(text) - kept], text[len(text) - kept :]
        if text:
            text, self._before = self._before + text, ""
            self.text += text
        return text
