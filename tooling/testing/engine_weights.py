"""Two tiny checkpoints on disk, requests of a few groups, and what any right generator draws for them: for engines' tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from grail_core.generation.base import Drawn, GenerationRequest, ServedWeights
from grail_core.generation.hf import HfGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

VOCABULARY, CONTEXT = 96, 160
END = frozenset({5, 7, 11, 13})
FOREIGN_END = 3
"""The folders' own end token, which the network does not have."""

# Logits far enough apart that numerics cannot flip a token in float32.
SHAPE = Qwen2Shape(VOCABULARY, context=CONTEXT, spread=0.3, end=FOREIGN_END)
POLICY = GenerationPolicy(6, temperature=0.8, top_p=0.9, top_k=20)

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class TinyCheckpoint:
    folder: Path
    version: str  # 64 hex digits, of nothing

    @classmethod
    def save(cls, folder: Path, seed: int) -> TinyCheckpoint:
        """Random weights of this seed, in float32."""
        random_model(SHAPE, seed=seed).save_pretrained(folder)
        return cls(folder, f"{seed:064x}")

    def weights(self, policy: GenerationPolicy = POLICY) -> ServedWeights:
        return ServedWeights(self.version, self.folder, policy, END, VOCABULARY, CONTEXT)

    def model(self) -> PolicyModel:
        """In float32; not to be changed."""
        return _loaded(self.folder)

    def draw(self, asked: Sequence[GenerationRequest], policy: GenerationPolicy = POLICY) -> dict[int, Tokens]:
        """In process, in float32: index of the request → tokens."""
        completions = HfGenerator(self.model(), policy, END).generate(asked)
        return {index: completion.tokens for index, completion in enumerate(completions)}


@lru_cache(maxsize=4)
def _loaded(folder: Path) -> PolicyModel:
    return PolicyModel.load(folder, dtype="float32")


def requests(groups: int = 2, rows: int = 3, *, seed: int = 0) -> list[GenerationRequest]:
    """`groups` prompts, each with `rows` seeds of its own."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(groups):
        prompt = tuple(rng.integers(14, VOCABULARY, int(rng.integers(3, 12))).tolist())
        made += [GenerationRequest(prompt, int(rng.integers(2**63))) for _ in range(rows)]
    return made


def by_index(drawn: Sequence[Drawn]) -> Mapping[int, Tokens]:
    """Refuses an index that came twice."""
    found = {one.index: one.completion.tokens for one in drawn}
    assert len(found) == len(drawn)
    return found
