"""Where the answer stands in a completion: in what is said, in the last pair of answer tags or the last Python block.

What is said is what `spoken` gives; every environment looks for its answer there and nowhere else, because an answer that the
model only thought about is no answer. Every search but that for code blocks is `str.find` or `str.rfind`, so time is linear in
the text whatever it holds (10⁵ tags, one megabyte, binary). One text has one answer: the last one given.
"""

from __future__ import annotations

from typing import Final

from grail_core.environment import THINK_CLOSE, THINK_OPEN
from grail_envs.code_blocks import code_blocks, last_of

ANSWER_OPEN: Final = "<answer>"
ANSWER_CLOSE: Final = "</answer>"


def spoken(completion: str) -> str:
    """What is said in a completion: the text behind the last `</think>`, up to a `<think>` behind that which is never closed.

    A completion whose prompt has opened the thinking begins with `<think>` (`PromptRenderer.decode_completion`), so one that
    never closes it says nothing. Saying it again changes nothing: `spoken(spoken(text)) == spoken(text)`.
    """
    text = completion[completion.rfind(THINK_CLOSE) + len(THINK_CLOSE) :] if THINK_CLOSE in completion else completion
    return text.partition(THINK_OPEN)[0]


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
    """What the last closed code block holds, of whatever language; an unclosed one where none is closed; None without any."""
    return last_of(code_blocks(text))


def last_python(completion: str, *, limit: int) -> str | None:
    """The code that a completion answers with; None without any or above `limit` characters.

    That is what the last Python block holds: one that says so, else one that names no language. A block without a line of
    code is none.
    """
    blocks = [block for block in code_blocks(spoken(completion)) if _has_code(block.content)]
    code = last_of([block for block in blocks if block.is_python] or [block for block in blocks if not block.info])
    return code if code is not None and len(code) <= limit else None


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


def _has_code(content: str) -> bool:
    return any(line and not line.startswith("#") for line in map(str.strip, content.split("\n")))
