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

_TAGS = (THINK_OPEN, THINK_CLOSE)
_MARK = "\uf8ff"  # the last character of the private use area
_NEUTRAL = str.maketrans({"<": "(", _MARK: "?"})


def opens_thinking(write: Callable[[Sequence[Message]], str], asked: Sequence[Message]) -> bool:
    """Whether the text that `write` makes of a conversation ends within a thinking block.

    `write` renders with the generation prompt; it may raise for a conversation that it refuses.
    """
    neutral = [Message(message.role, _without_tags(message.content)) for message in asked]
    neutral[-1] = Message(neutral[-1].role, _MARK + neutral[-1].content)
    behind = write(neutral).rpartition(_MARK)[2]
    return behind.rfind(THINK_OPEN) > behind.rfind(THINK_CLOSE)


def keeping_thinking_tags(tokenizer: Any) -> Any:
    """A `tokenizers.Tokenizer` whose thinking tags are no special tokens, so that decoding keeps them; the same if none is."""
    from tokenizers import Tokenizer

    added = tokenizer.get_added_tokens_decoder().values()
    if not any(token.special and token.content in _TAGS for token in added):
        return tokenizer
    value = json.loads(tokenizer.to_str())
    for item in value["added_tokens"]:
        item["special"] = item["special"] and item["content"] not in _TAGS
    return Tokenizer.from_str(json.dumps(value))


def _without_tags(content: str) -> str:
    for tag in _TAGS:
        content = content.replace(tag, tag.translate(_NEUTRAL))
    return content.replace(_MARK, "?")
