"""A policy without a model: its parameters are what a pass would give, so that a step's gradient is seen where it begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grail_trainer.learning.objective import Objective
from grail_trainer.learning.policy import PassResult, Policy
from grail_trainer.learning.rollouts import TokenSequence


class GivenLogprobs(Policy):
    """Its parameters, `logprob` and `entropy`, are those of the completion tokens of some rows, no two of which are equal."""

    def __init__(self, rows: Sequence[TokenSequence], logprob: Tensor, entropy: Tensor) -> None:
        super().__init__(None)
        ends = np.cumsum([row.completion_length for row in rows]).tolist()
        self._place = {row: slice(end - row.completion_length, end) for row, end in zip(rows, ends, strict=True)}
        self.logprob, self.entropy = torch.nn.Parameter(logprob.clone()), torch.nn.Parameter(entropy.clone())

    def tokens_of(self, rows: Sequence[TokenSequence]) -> tuple[Tensor, Tensor]:
        places = [self._place[row] for row in rows]
        return torch.cat([self.logprob[at] for at in places]), torch.cat([self.entropy[at] for at in places])

    def forward(
        self, rows: Sequence[TokenSequence], objective: Objective | None = None, *, temperature: float = 1.0
    ) -> PassResult:
        logprob, entropy = self.tokens_of(rows)
        loss = None if objective is None else objective.loss(logprob, entropy, slice(0, len(logprob))).sum()
        return PassResult(logprob.detach(), entropy.detach(), loss)
