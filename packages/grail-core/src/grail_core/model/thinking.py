"""Where a completion's thinking begins: with a tag of its own, or with one that the chat template wrote before it.

A template may end every prompt with `<think>`, so that a completion that never names the tag is thought from its first word.
What a template opens is decided by the text it writes behind the last message, never by a message: a problem that speaks of
the tags opens and closes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from grail_core.environment import THINK_CLOSE, THINK_OPEN, Message
from grail_core.errors import ProtocolViolationError

_TAGS = (THINK_OPEN, THINK_CLOSE)
_MARK = "\uf8ff"  # the last character of the private use area
_NEUTRAL = str.maketrans({"<": "(", _MARK: "?"})


def opens_thinking(write: Callable[[Sequence[Message]], str], asked: Sequence[Message]) -> bool:
    """Whether the text that `write` makes of a conversation ends within a thinking block.

    `write` renders with the generation prompt; it may raise for a conversation that it refuses.
    """
    neutral = [Message(message.role, _without_tags(message.content)) for message in asked]
    behind = _behind_the_last(write, neutral)
    return behind.rfind(THINK_OPEN) > behind.rfind(THINK_CLOSE)


def _behind_the_last(write: Callable[[Sequence[Message]], str], asked: Sequence[Message]) -> str:
    """What the template writes behind the last message; the whole text where a mark in the message changes more than itself.

    A template may decide by how a message begins or ends, or cut it, so the mark is tried at its end and at its start.
    """
    text, last = write(asked), asked[-1]
    end, start = len(last.content.rstrip()), len(last.content) - len(last.content.lstrip())
    for place in (end, start):
        marked = Message(last.role, last.content[:place] + _MARK + last.content[place:])
        try:
            before, mark, behind = write([*asked[:-1], marked]).rpartition(_MARK)
        except ProtocolViolationError:  # it takes the message, but not with the mark there
            continue
        if mark and before.replace(_MARK, "") + behind == text:
            return behind
    return text


def keeping_thinking_tags(tokenizer: Any) -> Any:
    """A `tokenizers.Tokenizer` in which no token with a thinking tag in it is special, so that decoding keeps them all."""
    from tokenizers import Tokenizer

    added = tokenizer.get_added_tokens_decoder().values()
    if not any(token.special and _has_tag(token.content) for token in added):
        return tokenizer
    value = json.loads(tokenizer.to_str())
    for item in value["added_tokens"]:
        item["special"] = item["special"] and not _has_tag(item["content"])
    return Tokenizer.from_str(json.dumps(value))


def _has_tag(content: str) -> bool:
    """Also where a token is more than the tag: `<think>` and the line end behind it."""
    return any(tag in content for tag in _TAGS)


def _without_tags(content: str) -> str:
    for tag in _TAGS:
        content = content.replace(tag, tag.translate(_NEUTRAL))
    return content.replace(_MARK, "?")
