"""Stop texts: where a completion ends by what it says, and what of it is handed to the client. For node and verifier alike.

The rule. text(k) is what the model's tokenizer decodes of a completion's first k tokens, special tokens left out, without any
`<think>` that the chat template wrote before it; the token that ends a completion, if it is of the end set, adds no text. A
completion of n tokens is right if text(n − 1) contains no stop text and one of these holds: its last token is of the end set,
n is the limit L, or text(n) contains a stop text. The text handed out ends before the earliest match; the tokens stay whole.

A node ends at the first k whose text(k) contains one, so text(n − 1) never does. Where text only grows with its tokens, as it
does with bytes, looking at n − 1 and n is looking at all k. Some decoders take back what they had written (a run of byte tokens
that is no UTF-8, blanks before a full stop): there a completion may go on although an earlier text(k) matched, if what matched
is no longer in its text. Nobody is shown a text with a stop text in it, and no honest node is refused: both sides decode the
very same tokens with the very same tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

Decode = Callable[[Sequence[int]], str]
"""The text of some tokens of a completion, from its first token on (`PromptRenderer.decode`)."""

UNFINISHED: Final = "\ufffd"
"""What a character decodes to whose bytes are not all there. No stop text has it: no match hangs on an unfinished character."""


def first_match(text: str, stops: Sequence[str]) -> int | None:
    """Where the earliest stop text begins in the text; None where there is none."""
    return min((place for place in (text.find(stop) for stop in stops) if place >= 0), default=None)


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the earliest stop text; all of it where there is none."""
    return text[: first_match(text, stops)]


def contains_stop(text: str, stops: Sequence[str]) -> bool:
    return any(stop in text for stop in stops)
