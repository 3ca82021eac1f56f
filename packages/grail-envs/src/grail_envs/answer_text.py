"""Where the answer stands in a completion: after the thinking, in the last pair of answer tags.

Every search is `str.find` or `str.rfind`, so time is linear in the text whatever it holds (10⁵ tags, one megabyte, binary).
Thinking is text up to the last `</think>`; a `<think>` that is never closed hides everything after it, because an answer
that the model only thought about is no answer. One text has one answer: the last one given.
"""

from __future__ import annotations

from typing import Final

ANSWER_OPEN: Final = "<answer>"
ANSWER_CLOSE: Final = "</answer>"
_THINK_OPEN: Final = "<think>"
_THINK_CLOSE: Final = "</think>"
_FENCE: Final = "```"


def spoken(completion: str) -> str:
    """The text after the thinking; the whole text where there is none."""
    close = completion.rfind(_THINK_CLOSE)
    text = completion[close + len(_THINK_CLOSE) :] if close >= 0 else completion
    unclosed = text.find(_THINK_OPEN)
    return text if unclosed < 0 else text[:unclosed]


def tagged_answer(completion: str, *, limit: int) -> str | None:
    """What stands between the last pair of answer tags, stripped; None without a pair or above `limit` characters."""
    text = spoken(completion)
    close = text.rfind(ANSWER_CLOSE)
    start = text.rfind(ANSWER_OPEN, 0, close) if close >= 0 else -1
    if start < 0:
        return None
    body = text[start + len(ANSWER_OPEN) : close]
    return body.strip() if len(body) <= limit else None


def last_fence(text: str) -> str | None:
    """The content of the last closed ``` block, without its info string; None without one. Marks open and close in turn.

    A mark is a line that starts with ``` (white space before it is allowed). A block that is opened and never closed counts
    to the end of the text only if nothing was closed before it.
    """
    found: str | None = None
    opened: int | None = None
    at = 0
    while at <= len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if text[at : at + 64].lstrip(" \t").startswith(_FENCE):
            if opened is None:
                opened = min(end + 1, len(text))
            else:
                found, opened = text[opened:at], None
        at = end + 1
    if found is None and opened is not None:
        return text[opened:]
    return found


def last_boxed(text: str, *, limit: int) -> str | None:
    r"""The content of the last `\boxed{…}` with balanced braces; None without one or above `limit` characters."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    at = begin
    while at < len(text) and at - begin <= limit:
        character = text[at]
        if character == "\\":
            at += 2
            continue
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[begin:at].strip()
        at += 1
    return None
