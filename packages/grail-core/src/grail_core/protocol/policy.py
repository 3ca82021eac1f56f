"""Section 4: how the network samples, as the manifest states it. Whoever draws tokens and whoever checks them read this value.

The digest is in every window file's header: a miner that sampled by another policy says so or lies about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest


@dataclass(frozen=True)
class GenerationPolicy:
    """How the network samples; part of the checkpoint manifest. `max_tokens` counts completion tokens."""

    max_tokens: int
    temperature: float = 1.0  # > 0
    top_p: float = 1.0
    top_k: int = -1  # -1: all
    repetition_penalty: float = 1.0


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


def policy_digest(policy: GenerationPolicy, end_token_ids: Sequence[int], thinking_mode: str) -> Digest:
    """SHA-256 over everything that says how completions are sampled and end."""
    value = {"policy": policy_json(policy), "end_token_ids": list(end_token_ids), "thinking_mode": thinking_mode}
    return Digest(hashlib.sha256(canonical_json(value)).digest())


def decimal_text(value: float) -> str:
    """The shortest plain decimal that reads back as `value`: 1.0 → "1", 0.95 → "0.95"."""
    text = format(Decimal(repr(float(value))), "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
