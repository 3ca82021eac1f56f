"""Bodies of `/v1/completions` and `/v1/chat/completions`: what is asked, by which policy, and what is refused by name.

Every answer is a proved draw, so a parameter either is part of what is proved, or changes nothing, or is refused: none is
silently left out. Clients send many at their neutral values; those are taken. A temperature of 0 is drawn at 0.001, where ties
of up to 0.02 logits are still drawn. Defaults are OpenAI's, not the model folder's: temperature 1 and top_p 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from grail_core.environment import Message
from grail_core.inference.constants import (
    MAX_CHOICES,
    MAX_FEATURES_BYTES,
    MAX_MESSAGES,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_USER_CHARACTERS,
    MIN_TEMPERATURE,
)
from grail_core.inference.features import Features
from grail_core.inference.orders import invalid_policy
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.reading import MAX_JSON_INTEGER, Node, parse_json
from grail_miner.serving.refusals import bad_request

MAX_BODY_BYTES: Final = 1 << 20
MAX_BODY_TOKENS: Final = 32 * MAX_MESSAGES  # texts, brackets and commas; a message of one text part has 17
COMPLETION_TOKENS: Final = 16  # of a completion whose client does not say

_MAX_MODEL_NAME = 512
_MAX_PARTS = 256
_MAX_MEMBERS = 128
_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_T = TypeVar("_T")
_Values = tuple[object, ...]

_NEUTRAL: Final[Mapping[str, _Values]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "typical_p": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "use_beam_search": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "echo": (False,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
    "top_logprobs": (0,),
}
"""Parameters that are not served, and the values (beside null) with which they ask for nothing."""

_SAMPLING: Final = ("temperature", "top_p", "top_k", "repetition_penalty")
_STREAM: Final = ("stream", "stream_options")
_COMMON: Final = ("model", "max_tokens", "n", "seed", "user", "logprobs", "stop", *_SAMPLING, *_STREAM)
_COMPLETION: Final = frozenset({*_COMMON, "prompt"})
_CHAT: Final = frozenset({*_COMMON, "messages", "max_completion_tokens"})
_STREAM_NEUTRAL: Final[Mapping[str, _Values]] = {"include_obfuscation": (False,), "continuous_usage_stats": (False,)}
_TURN_NEUTRAL: Final[Mapping[str, _Values]] = {
    "name": ("",),
    "tool_calls": ([],),
    "annotations": ([],),
    "reasoning_content": ("",),
    "reasoning": ("",),
}
"""What clients send back of an answer that they make a turn of the next conversation."""


@dataclass(frozen=True)
class Asked:
    """A request that can be made an order of. `model` is as the client wrote it."""

    model: str
    features: Features
    policy: GenerationPolicy
    choices: int
    logprobs: bool
    stream: bool = False
    include_usage: bool = False  # in a stream


def read_completion(raw: bytes) -> Asked:
    """The body of `/v1/completions`. Raises: RefusedRequestError, naming the parameter."""
    return reading_body(lambda: _completion(_members(raw, _COMPLETION)))


def read_chat(raw: bytes) -> Asked:
    """The body of `/v1/chat/completions`. Raises: RefusedRequestError, naming the parameter."""
    return reading_body(lambda: _chat(_members(raw, _CHAT)))


def _completion(m: Mapping[str, Node]) -> Asked:
    text = _prompt(_required(m, "prompt"))
    logprobs = m.get("logprobs")
    if logprobs is not None and logprobs.value != 0:
        logprobs.integer()
        logprobs.refuse("alternatives to a chosen token are not served; 0 gives the log-probabilities of the chosen ones")
    return _asked(m, _with_who(Features(prompt=text), m), _tokens(m, COMPLETION_TOKENS), logprobs is not None)


def _prompt(node: Node) -> str:
    """A text, also as the one item of a list, as many clients send it."""
    if not isinstance(node.value, list):
        return node.text(MAX_FEATURES_BYTES)
    if len(node.value) != 1:
        what = f"a list of {len(node.value)} prompts; every answer has a receipt of its own"
        node.refuse(f"{what}, so send one prompt a request (in evaluation harnesses: batch size 1)")
    if isinstance(node.value[0], int | list):
        node.refuse("token ids are not served, only text")
    return node.items(1)[0].text(MAX_FEATURES_BYTES)


def _chat(m: Mapping[str, Node]) -> Asked:
    messages = tuple(map(_message, _required(m, "messages").items(MAX_MESSAGES)))
    if not messages:
        m["messages"].refuse("one message at least is needed")
    limit = _tokens(m, MAX_NEW_TOKENS_PROTOCOL_CAP)
    return _asked(m, _with_who(Features(messages=messages), m), limit, "logprobs" in m and m["logprobs"].flag())


def _asked(m: Mapping[str, Node], features: Features, max_tokens: int, logprobs: bool) -> Asked:
    values = {name: _number(m[name]) for name in _SAMPLING if name in m and name != "top_k"}
    if values.get("temperature") == 0:
        values["temperature"] = MIN_TEMPERATURE
    top_k = (m["top_k"].integer(-1, 2**31 - 1) if "top_k" in m else 0) or -1  # others write 0 for all
    policy = GenerationPolicy(max_tokens, top_k=top_k, **values)
    wrong = invalid_policy(policy)
    if wrong is not None:
        name = wrong.partition(" ")[0]
        raise bad_request(wrong, param="max_completion_tokens" if name not in m and name == "max_tokens" else name)
    choices = m["n"].integer(1, MAX_CHOICES) if "n" in m else 1
    stream = "stream" in m and m["stream"].flag()
    usage = _include_usage(m["stream_options"]) if "stream_options" in m else False
    return Asked(_required(m, "model").text(_MAX_MODEL_NAME), features, policy, choices, logprobs, stream, usage)


def _include_usage(node: Node) -> bool:
    """Of a stream's options; without a stream they change nothing."""
    options = _without_neutral(node.entries(_MAX_MEMBERS), frozenset({"include_usage"}), _STREAM_NEUTRAL, node.path)
    return "include_usage" in options and options["include_usage"].flag()


def _with_who(features: Features, m: Mapping[str, Node]) -> Features:
    """With the members that change nothing but the draw, and the texts that end an answer."""
    seed = m["seed"].integer(-MAX_JSON_INTEGER) if "seed" in m else None
    user = m["user"].text(MAX_USER_CHARACTERS) if "user" in m else ""
    return replace(features, seed=seed, user=user or None, stop=_stop(m["stop"]) if "stop" in m else ())


def _stop(node: Node) -> tuple[str, ...]:
    """A text or a list of up to four; none, and a text given twice, ask for nothing more."""
    if isinstance(node.value, str):
        return (node.text(MAX_STOP_CHARACTERS),) if node.value else ()
    return tuple(dict.fromkeys(item.text(MAX_STOP_CHARACTERS) for item in node.items(MAX_STOPS)))


def _tokens(m: Mapping[str, Node], otherwise: int) -> int:
    """The most tokens of a completion, by either of the two names."""
    given = {m[name].integer(1, MAX_NEW_TOKENS_PROTOCOL_CAP) for name in ("max_tokens", "max_completion_tokens") if name in m}
    if len(given) > 1:
        m["max_tokens"].refuse("it is not the number of max_completion_tokens; give one of the two")
    return given.pop() if given else otherwise


def _message(node: Node) -> Message:
    m = _without_neutral(node.entries(_MAX_MEMBERS), frozenset({"role", "content"}), _TURN_NEUTRAL, node.path)
    role = _required(m, "role", node.path).text(32)
    if role not in _ROLES:
        m["role"].refuse(f"{role!r} is none of {', '.join(_ROLES)}")
    return Message(_ROLES[role], _content(_required(m, "content", node.path)))


def _content(node: Node) -> str:
    """A text, or text parts, which are joined as they are."""
    if isinstance(node.value, str):
        return node.text(MAX_FEATURES_BYTES)
    texts = []
    for part in node.items(_MAX_PARTS):
        m = part.entries(_MAX_MEMBERS)
        kind = _required(m, "type", part.path).text(64)
        if kind != "text":
            m["type"].refuse(f"parts of type {kind!r} are not served, only text")
        texts.append(part.members("type", "text")["text"].text(MAX_FEATURES_BYTES))
    return "".join(texts)


def _members(raw: bytes, served: frozenset[str]) -> dict[str, Node]:
    """The parameters that are served and not null; the others are neutral, or refused."""
    body = parse_json(raw, most=MAX_BODY_BYTES, tokens=MAX_BODY_TOKENS, floats=True)
    return _without_neutral(body.entries(_MAX_MEMBERS), served, _NEUTRAL, body.path)


def _without_neutral(
    m: Mapping[str, Node], served: frozenset[str], neutral: Mapping[str, _Values], path: str
) -> dict[str, Node]:
    kept = {}
    for name, node in m.items():
        if node.value is None:
            continue
        if name in served:
            kept[name] = node
        elif not any(_same(node.value, value) for value in neutral.get(name, ())):
            raise bad_request(_why_not(name, neutral), param=_param(f"{path}.{name}"), code="unsupported_parameter")
    return kept


def _why_not(name: str, neutral: Mapping[str, _Values]) -> str:
    if name in neutral:
        return f"{name} is not served here, since no answer with it could be proved; leave it out"
    return f"{name:.80} is not known here, and what it would change could not be proved; leave it out"


def _same(given: object, value: object) -> bool:
    """Equal, and a truth value only to a truth value."""
    return given == value and isinstance(given, bool) == isinstance(value, bool)


def _required(m: Mapping[str, Node], name: str, path: str = "$") -> Node:
    if name not in m:
        raise bad_request(f"{name} is needed", param=_param(f"{path}.{name}"), code="missing_required_parameter")
    return m[name]


def _number(node: Node) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        node.refuse("a number is expected")
    if abs(value) > MAX_JSON_INTEGER:
        node.refuse("a number beyond 2^53")
    return float(value)


def reading_body(read: Callable[[], _T]) -> _T:
    """What `read` makes of a body; its complaint, which begins with a path, becomes a refusal that names the member."""
    try:
        return read()
    except ValueError as error:
        where, found, what = str(error).partition(": ")
        param = _param(where) if found else None
        raise bad_request(f"{param or 'the body'}: {what or where}", param=param) from None


def _param(path: str) -> str | None:
    """A member's path as OpenAI writes it: `$.messages[0].content` → `messages[0].content`; None for the body."""
    return path.removeprefix("$").removeprefix(".") or None
