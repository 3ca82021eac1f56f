"""What an engine says of one row, read strictly: its own words for the same few facts become one value, or a refusal.

An answer is read whole or not at all. Which request it belongs to, with which weights it was drawn and why it ended must be in
it; what else is there is not looked at. Whether the tokens can stand is decided in `rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from grail_core.protocol.reading import Node, parse_json
from grail_core.text import printable

MAX_VERSION_TEXT = 256
_MAX_SPANS = 64
_MAX_TOKENS = 1 << 20
_BESIDE_TOKENS = 1 << 20
_BYTES_A_TOKEN = 1 << 10  # its id, and the text of it that engines send along
_BYTES_A_PROMPT_TOKEN = 16
_MAX_ID = 2**31 - 1


class UnusableAnswerError(Exception):
    """What came is no answer to what was asked. The same request may be asked again: the same seed draws the same tokens."""


class Ended(Enum):
    TOKEN = "token"  # the engine ended the row at its last token
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True)
class EngineAnswer:
    """What an engine drew for one request."""

    request_id: str
    prompt: tuple[int, ...] | None  # where the engine repeats it
    prompt_length: int
    tokens: tuple[int, ...]  # any integers below 2³¹
    ended: Ended
    versions: frozenset[str]  # of the weights, all that it names


def most_bytes(prompt: int, limit: int) -> int:
    """The longest answer that is read for a prompt of so many tokens, and at most `limit` more."""
    return _BESIDE_TOKENS + _BYTES_A_TOKEN * limit + _BYTES_A_PROMPT_TOKEN * prompt


def read_sglang(raw: bytes, *, most: int) -> EngineAnswer:
    """The body of a 200 of `POST /generate`, for one prompt and without streaming.

    Raises:
        UnusableAnswerError: it is not that.
    """
    try:
        root = parse_json(raw, most=most, tokens=_MAX_TOKENS, floats=True)
        meta = member(root, "meta_info")
        tokens = _ids(member(root, "output_ids"))
        reason = member(meta, "finish_reason")
        kind = member(reason, "type").text(64)
        spans = optional_member(meta, "weight_versions")
        versions = {member(meta, "weight_version").text(MAX_VERSION_TEXT), *(_versions(spans) if spans else ())}
        if member(meta, "completion_tokens").integer(0, _MAX_ID) != len(tokens):
            meta.refuse(f"it counts other than the {len(tokens)} tokens that it has")
        return EngineAnswer(
            member(meta, "id").text(MAX_VERSION_TEXT),
            None,
            member(meta, "prompt_tokens").integer(0, _MAX_ID),
            tokens,
            _ended(reason, kind, optional_member(reason, "matched"), tokens),
            frozenset(versions),
        )
    except ValueError as error:
        raise UnusableAnswerError(f"the answer is not what SGLang writes: {_short(str(error))}") from error


def read_vllm(raw: bytes, *, most: int) -> EngineAnswer:
    """The body of a 200 of `POST /inference/v1/generate`, with the prompt's token ids, without streaming.

    Raises:
        UnusableAnswerError: it is not that.
    """
    try:
        root = parse_json(raw, most=most, tokens=_MAX_TOKENS, floats=True)
        choices = member(root, "choices").items(2)
        if len(choices) != 1:
            root.refuse(f"{len(choices)} choices where one was asked for")
        choice = choices[0]
        member(choice, "index").integer(0, 0)
        tokens, prompt = _ids(member(choice, "token_ids")), _ids(member(root, "prompt_token_ids"))
        kind = member(choice, "finish_reason").text(64)
        versions = frozenset(_versions(member(choice, "weight_versions")))
        if not versions:
            choice.refuse("no weights are named")
        return EngineAnswer(
            member(root, "request_id").text(MAX_VERSION_TEXT),
            prompt,
            len(prompt),
            tokens,
            _ended(choice, kind, optional_member(choice, "stop_reason"), tokens),
            versions,
        )
    except ValueError as error:
        raise UnusableAnswerError(f"the answer is not what vLLM writes: {_short(str(error))}") from error


def read_object(raw: bytes, *, most: int) -> Node:
    """The body of an answer about the server itself: any JSON object.

    Raises:
        UnusableAnswerError: it is none.
    """
    try:
        root = parse_json(raw, most=most, tokens=_MAX_TOKENS, floats=True)
    except ValueError as error:
        raise UnusableAnswerError(f"the answer is no JSON that can be read: {_short(str(error))}") from error
    if not isinstance(root.value, Mapping):
        raise UnusableAnswerError("the answer is JSON, but no object")
    return root


def member(node: Node, name: str) -> Node:
    """A member that must be there; others may be beside it. ValueError where it is not."""
    found = optional_member(node, name)
    if found is None:
        node.refuse(f"no member {name!r}")
    return found


def optional_member(node: Node, name: str) -> Node | None:
    """A member, None where it is not there or null. ValueError where `node` is no object."""
    if not isinstance(node.value, Mapping):
        node.refuse(f"an object with {name!r} is expected")
    value = node.value.get(name)
    return None if value is None else Node(value, f"{node.path}.{name}")


def _ended(node: Node, kind: str, matched: Node | None, tokens: tuple[int, ...]) -> Ended:
    if kind in ("abort", "error"):
        return Ended.ABORTED
    if kind == "length":
        return Ended.LENGTH
    if kind != "stop":
        node.refuse(f"the row ended for another reason: {kind!r}")
    # SGLang puts an end token where its logits were NaN, and says so in place of a token's id.
    if matched is not None and (not tokens or matched.integer(0, _MAX_ID) != tokens[-1]):
        node.refuse("the token that ended the row is not its last one")
    return Ended.TOKEN


def _versions(spans: Node) -> list[str]:
    return [member(span, "version").text(MAX_VERSION_TEXT) for span in spans.items(_MAX_SPANS)]


def _ids(node: Node) -> tuple[int, ...]:
    value = node.value
    if not isinstance(value, list):
        node.refuse("an array of token ids is expected")
    for token in value:  # a Node each would cost more than the rest of the answer
        if type(token) is not int or not 0 <= token <= _MAX_ID:
            node.refuse(f"{_short(repr(token))} is no token id")
    return tuple(value)


def _short(text: str) -> str:
    return printable(text, 300)
