"""Generation behind one interface: prompts as token ids and one sampling seed per rollout in, token ids out.

Back-ends must sample as section 4 of the protocol says; `hf.py` does so in process. No proof, no wallet, no chain here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP


@dataclass(frozen=True)
class GenerationPolicy:
    """How the network samples; part of the checkpoint manifest. `max_tokens` counts completion tokens."""

    max_tokens: int
    temperature: float = 1.0  # > 0
    top_p: float = 1.0
    top_k: int = -1  # -1: all
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class GenerationRequest:
    prompt: tuple[int, ...]
    sampling_seed: int  # 64-bit, top bit clear


@dataclass(frozen=True)
class Completion:
    tokens: tuple[int, ...]  # the end token, if any, is the last


def completion_limit(policy: GenerationPolicy, context_length: int, prompt_length: int) -> int:
    """L of section 4: the most tokens a completion may have; a row of exactly L may end in anything."""
    return min(policy.max_tokens, MAX_NEW_TOKENS_PROTOCOL_CAP, context_length - prompt_length)


class Generator(Protocol):
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion per request, in order."""
        ...
