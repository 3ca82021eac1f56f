"""Greedy decoding that equals the protocol's sampling: a logits processor for Transformers, and the float32 head it needs.

With `SeededLogitsProcessor` in the list and `do_sample=False`, `model.generate` emits exactly the seeded tokens, provided the
model's head is `Float32Head`: Transformers' own head rounds logits to bf16, which the protocol forbids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grail_core.model.sampling import SeededSampler


class SeededLogitsProcessor:
    """Leaves one finite score per row: that of the token which the protocol samples.

    Args:
        sampler: the network's policy.
        seeds: one sampling seed per row of the batch.
        padding: number of left-padding tokens of each row (positions count from the first real token).
    """

    supports_continuous_batching = False

    def __init__(self, sampler: SeededSampler, seeds: Sequence[int], padding: Sequence[int]) -> None:
        if len(seeds) != len(padding):
            raise ValueError(f"{len(seeds)} seeds for {len(padding)} rows")
        self._sampler = sampler
        self._seeds = np.array([seed & (2**64 - 1) for seed in seeds], dtype=np.uint64)
        self._padding = np.array(padding, dtype=np.int64)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids [n, t], scores float32 [n, V] → float32 [n, V], −inf but for one 0 per row."""
        if len(input_ids) != len(self._seeds):
            raise ValueError(f"{len(input_ids)} rows, but seeds for {len(self._seeds)}")
        positions = (input_ids.shape[1] - 1 - self._padding).astype(np.uint32)
        histories = None
        if self._sampler.needs_history:
            histories = [row[pad:].tolist() for row, pad in zip(input_ids, self._padding, strict=True)]
        tokens = self._sampler.sample(scores, self._seeds, positions, histories)
        chosen = torch.full_like(scores, -torch.inf)
        chosen[torch.arange(len(scores)), torch.from_numpy(tokens).to(scores.device)] = 0
        return chosen


class Float32Head(nn.Module):
    """A head whose logits are the float32 product, never rounded to bf16. `install` puts it in a model's place."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = getattr(head, "bias", None)

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden.float(), self.weight.float(), None if self.bias is None else self.bias.float())

    @classmethod
    def install(cls, module: Any) -> None:
        """Replace the output head of a Transformers causal model; its weights stay shared."""
        module.set_output_embeddings(cls(module.get_output_embeddings()))
