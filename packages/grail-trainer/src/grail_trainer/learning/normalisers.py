"""What a token of an optimiser step counts: the weights with which token losses become one number.

Every normaliser is counted over the whole optimiser step, by whoever plans it: how the step's rows are split into passes, in
which order, and over how many processes changes nothing but rounding. Counting each micro-batch by itself and taking the mean
weighs a token by who happens to be beside it, and what is summed instead grows with the number of micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grail_trainer.hyper_parameters import LossKind


@dataclass(frozen=True)
class StepCounts:
    """Of one whole optimiser step, over all its passes and processes.

    `rollouts`: all of them, those masked from the loss too (a step of many masked ones is not made up for by the others).
    `tokens`: of completions that are not masked. `token_limit`: the policy's most completion tokens.
    """

    rollouts: int
    tokens: int
    token_limit: int = 1


def token_normaliser(lengths: Tensor, kind: LossKind, counts: StepCounts) -> Tensor:
    """float64 [sum of lengths]: what each token counts.

    grpo, gspo: 1 / (rollouts · its completion's length). dr_grpo: 1 / (rollouts · token limit). dapo, bnpo, cispo: 1 / tokens.

    Args:
        lengths: int64 [rows], completion tokens of the rows of a pass.
    """
    if kind in ("grpo", "gspo"):
        share = 1.0 / (counts.rollouts * lengths.double())
    elif kind == "dr_grpo":
        share = torch.full(lengths.shape, 1.0 / (counts.rollouts * counts.token_limit), dtype=torch.float64)
    else:
        share = torch.full(lengths.shape, 1.0 / max(1, counts.tokens), dtype=torch.float64)
    return torch.repeat_interleave(share, lengths)
