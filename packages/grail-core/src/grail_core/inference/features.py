"""What a client asks: a conversation or a text, as canonical JSON under one digest.

Features carry no address and nothing that a node would fetch. `seed` and `user` change nothing but the digest, and so every
seed that follows from it; `stop` says where a completion ends (`grail_core.inference.stops`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.environment import Message
from grail_core.inference.constants import (
    MAX_FEATURES_BYTES,
    MAX_MESSAGES,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_USER_CHARACTERS,
)
from grail_core.inference.stops import UNFINISHED
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.reading import MAX_JSON_INTEGER, Json, Node, parse_json
from grail_core.protocol.types import Digest

ROLES = ("system", "user", "assistant")
NO_SALT = bytes(32)
"""Of features that lie in the order itself, which everybody may read."""

_MEMBERS = ("messages", "prompt", "seed", "stop", "user")
_TOKENS = 16 * MAX_MESSAGES  # texts, brackets and commas


@dataclass(frozen=True)
class Features:
    """Either `messages` or `prompt`. A prompt is taken as it is: nothing is put before it, and control tokens are text.

    Raises:
        ValueError: both or neither, no message, an unknown role, or a member beyond its limit.
    """

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    seed: int | None = None
    user: str | None = None
    stop: tuple[str, ...] = ()  # texts that end a completion; none: no member, and the very bytes of before there were any

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("features hold either messages or a prompt")
        if self.messages is not None:
            if not 0 < len(self.messages) <= MAX_MESSAGES:
                raise ValueError(f"messages: 1 … {MAX_MESSAGES} are expected")
            for message in self.messages:
                if message.role not in ROLES:
                    raise ValueError(f"messages: {message.role!r:.40} is none of {', '.join(ROLES)}")
        if self.prompt == "":
            raise ValueError("prompt: it is empty")
        if self.seed is not None and not -MAX_JSON_INTEGER <= self.seed <= MAX_JSON_INTEGER:
            raise ValueError("seed: an integer beyond 2^53 − 1")
        if self.user is not None and not 0 < len(self.user) <= MAX_USER_CHARACTERS:
            raise ValueError(f"user: 1 … {MAX_USER_CHARACTERS} characters are expected")
        wrong = invalid_stop(self.stop)
        if wrong is not None:
            raise ValueError(wrong)

    def to_bytes(self) -> bytes:
        """Canonical JSON.

        Raises:
            ValueError: more than MAX_FEATURES_BYTES, or text that UTF-8 cannot hold.
        """
        value: dict[str, Json] = {}
        if self.messages is not None:
            value["messages"] = [{"role": message.role, "content": message.content} for message in self.messages]
        else:
            value["prompt"] = self.prompt
        if self.seed is not None:
            value["seed"] = self.seed
        if self.user is not None:
            value["user"] = self.user
        if self.stop:
            value["stop"] = list[Json](self.stop)
        raw = canonical_json(value)
        if len(raw) > MAX_FEATURES_BYTES:
            raise ValueError(f"features of {len(raw)} bytes, at most {MAX_FEATURES_BYTES} are allowed")
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes) -> Features:
        """Inverse of `to_bytes`; what is not canonical is refused: one question has one digest.

        Raises:
            ValueError: with the path of what is wrong.
        """
        node = parse_json(raw, most=MAX_FEATURES_BYTES, path="$features", tokens=_TOKENS)
        m = node.entries(len(_MEMBERS))
        for name in m:
            if name not in _MEMBERS:
                node.refuse(f"unknown member {name!r:.80}")
        features = node.build(
            lambda: cls(
                messages=tuple(map(_message, m["messages"].items(MAX_MESSAGES))) if "messages" in m else None,
                prompt=m["prompt"].text(MAX_FEATURES_BYTES) if "prompt" in m else None,
                seed=m["seed"].integer(-MAX_JSON_INTEGER) if "seed" in m else None,
                user=m["user"].text(MAX_USER_CHARACTERS) if "user" in m else None,
                stop=_stop(m["stop"]) if "stop" in m else (),
            )
        )
        if features.to_bytes() != raw:
            node.refuse("not in canonical form (RFC 8785: sorted members, no blanks)")
        return features


def invalid_stop(texts: Sequence[str]) -> str | None:
    """Why these are no stop texts, beginning with `stop`; None if they are."""
    if len(texts) > MAX_STOPS:
        return f"stop: {len(texts)} texts, at most {MAX_STOPS} are allowed"
    if len(set(texts)) != len(texts):
        return "stop: a text is given twice"
    for index, text in enumerate(texts):
        if not 0 < len(text) <= MAX_STOP_CHARACTERS:
            return f"stop[{index}]: {len(text)} characters, from 1 to {MAX_STOP_CHARACTERS} are allowed"
        if UNFINISHED in text:
            return f"stop[{index}]: U+FFFD stands for characters that are not finished, and ends nothing"
        if any("\ud800" <= character <= "\udfff" for character in text):
            return f"stop[{index}]: text with a lone surrogate has no UTF-8"
    return None


def _stop(node: Node) -> tuple[str, ...]:
    texts = tuple(item.text(MAX_STOP_CHARACTERS) for item in node.items(MAX_STOPS))
    if not texts:
        node.refuse("it is empty; without stop texts there is no such member")
    return texts


def _message(node: Node) -> Message:
    m = node.members("role", "content")
    return Message(m["role"].text(16), m["content"].text(MAX_FEATURES_BYTES))


def features_digest(network_id: bytes, salt: bytes, body: bytes) -> Digest:
    """H("grail/infer/features", salt, body). Whoever knows the digest alone cannot guess the text: the salt is 32 bytes."""
    if len(salt) != 32:
        raise ValueError(f"salt: 32 bytes are expected, not {len(salt)}")
    return tagged_hash(network_id, "grail/infer/features", salt, body)
