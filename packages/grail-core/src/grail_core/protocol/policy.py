"""Section 4: how the network samples, as the manifest states it. Whoever draws tokens and whoever checks them read this value.

The digest is in every window file's header: a miner that sampled by another policy says so or lies about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import inf
from typing import Any, Protocol

from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.reading import Node
from grail_core.protocol.types import Digest


@dataclass(frozen=True)
class GenerationPolicy:
    """How the network samples; part of the checkpoint manifest. `max_tokens` counts completion tokens."""

    max_tokens: int
    temperature: float = 1.0  # > 0
    top_p: float = 1.0
    top_k: int = -1  # -1: all
    repetition_penalty: float = 1.0


def require_samplable(policy: GenerationPolicy) -> None:
    """Raises: ValueError: no token can be drawn by it: temperature, top_p or repetition_penalty out of bounds, or top_k."""
    if not 0 < policy.temperature < inf or not 0 < policy.top_p <= 1 or not 0 < policy.repetition_penalty < inf:
        raise ValueError(f"no such sampling policy: {policy}")
    if policy.top_k != -1 and policy.top_k < 1:
        raise ValueError(f"top_k is −1 or at least 1, not {policy.top_k}")


def completion_limit(policy: GenerationPolicy, context_length: int, prompt_length: int) -> int:
    """L of section 4: the most tokens a completion may have; a row of exactly L may end in anything."""
    return min(policy.max_tokens, MAX_NEW_TOKENS_PROTOCOL_CAP, context_length - prompt_length)


def policy_json(policy: GenerationPolicy) -> dict[str, Any]:
    return {
        "max_tokens": policy.max_tokens,
        "temperature": decimal_text(policy.temperature),
        "top_p": decimal_text(policy.top_p),
        "top_k": policy.top_k,
        "repetition_penalty": decimal_text(policy.repetition_penalty),
    }


class _Members(Protocol):
    """The members of an object by name: those of a strict reader, or of one that lets others be."""

    def __getitem__(self, name: str) -> Node: ...


def read_policy(m: _Members) -> GenerationPolicy:
    """Inverse of `policy_json`. Raises ValueError with the path: a value out of range, or not in its shortest form."""
    policy = GenerationPolicy(
        max_tokens=m["max_tokens"].integer(1, MAX_NEW_TOKENS_PROTOCOL_CAP),
        temperature=_decimal(m["temperature"], least=1e-3, most=100.0),
        top_p=_decimal(m["top_p"], least=1e-3, most=1.0),
        top_k=m["top_k"].integer(-1, 2**31 - 1),
        repetition_penalty=_decimal(m["repetition_penalty"], least=0.01, most=100.0),
    )
    if policy.top_k == 0:
        m["top_k"].refuse("0 keeps no token; -1 keeps all")
    return policy


def policy_digest(policy: GenerationPolicy, end_token_ids: Sequence[int], thinking_mode: str) -> Digest:
    """SHA-256 over everything that says how completions are sampled and end."""
    value = {"policy": policy_json(policy), "end_token_ids": list(end_token_ids), "thinking_mode": thinking_mode}
    return Digest(hashlib.sha256(canonical_json(value)).digest())


def decimal_text(value: float) -> str:
    """The shortest plain decimal that reads back as `value`: 1.0 → "1", 0.95 → "0.95"."""
    text = format(Decimal(repr(float(value))), "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def _decimal(node: Node, *, least: float, most: float) -> float:
    text = node.text(32)
    try:
        value = float(Decimal(text))
    except (InvalidOperation, ValueError):  # ValueError: a signalling NaN is no float
        node.refuse(f"{text!r} is no decimal number")
    if not least <= value <= most:
        node.refuse(f"{text} is outside {least} … {most}")
    if decimal_text(value) != text:
        node.refuse(f"{text!r} is not the shortest form, {decimal_text(value)!r}")
    return value
