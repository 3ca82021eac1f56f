"""The samplers of one batch whose rows may have policies of their own; what a row draws is what it would draw alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy

History = Callable[[int], Sequence[int]]
"""From a row to its prompt and completion so far."""


class RowSamplers:
    """One sampler for each way of sampling among the rows' policies; those that differ in `max_tokens` alone share one.

    Args:
        policies: of each row. default, sampler: the generator's own, which draws every row that is sampled as `default` says.
    """

    def __init__(self, policies: Sequence[GenerationPolicy], default: GenerationPolicy, sampler: SeededSampler) -> None:
        own = _way(default)
        self._samplers: list[SeededSampler] = []
        by_way: dict[GenerationPolicy, int] = {}
        by_policy: dict[GenerationPolicy, int] = {}
        for policy in dict.fromkeys(policies):
            way = _way(policy)
            if way not in by_way:
                by_way[way] = len(self._samplers)
                self._samplers.append(sampler if way == own else SeededSampler(policy))
            by_policy[policy] = by_way[way]
        self._of_row = np.array([by_policy[policy] for policy in policies], dtype=np.int64)

    def sample(
        self,
        rows: npt.NDArray[np.int64],
        logits: Tensor,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        history: History,
    ) -> npt.NDArray[np.int64]:
        """The next token of these rows; the other arguments are theirs, in their order, as `SeededSampler.sample` has them."""
        of_row = self._of_row[rows]
        present = [0] if len(self._samplers) == 1 else np.unique(of_row).tolist()
        if len(present) == 1:  # the only case there is without policies of requests: one call, and no copy
            return _sample(self._samplers[present[0]], rows, logits, seeds, positions, history)
        tokens = np.empty(len(rows), dtype=np.int64)
        for which in present:
            at = np.flatnonzero(of_row == which)
            chosen = logits.index_select(0, torch.from_numpy(at).to(logits.device))
            tokens[at] = _sample(self._samplers[which], rows[at], chosen, seeds[at], positions[at], history)
        return tokens


def _way(policy: GenerationPolicy) -> GenerationPolicy:
    """The policy without what is no matter of sampling."""
    return replace(policy, max_tokens=1)


def _sample(
    sampler: SeededSampler,
    rows: npt.NDArray[np.int64],
    logits: Tensor,
    seeds: npt.NDArray[np.uint64],
    positions: npt.NDArray[np.uint32],
    history: History,
) -> npt.NDArray[np.int64]:
    histories = [history(row) for row in rows.tolist()] if sampler.needs_history else None
    return sampler.sample(logits, seeds, positions, histories)
