"""Generation behind one interface: prompts as token ids and one sampling seed per rollout in, token ids out.

Back-ends must sample as section 4 of the protocol says; `hf.py` does so in process. No proof, no wallet, no chain here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class GenerationRequest:
    prompt: tuple[int, ...]
    sampling_seed: int  # 64-bit, top bit clear


@dataclass(frozen=True)
class Completion:
    tokens: tuple[int, ...]  # the end token, if any, is the last


class Generator(Protocol):
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion per request, in order."""
        ...
