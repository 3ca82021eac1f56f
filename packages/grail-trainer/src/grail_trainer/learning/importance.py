"""Weights from the policy that drew the tokens to the policy at the start of the update (proximal : behaviour).

Rollouts are a checkpoint or two old when they are learned from. Both log-probabilities are this trainer's own, so what the
weight corrects for is the step between two checkpoints, not a difference of engines. `token`: each token's own ratio, of little
variance and biased (it leaves out how the state before the token came about). `sequence`: the product over the completion,
unbiased and of a variance that grows with its length. A weight above the cap counts as the cap (`truncate`, Ionides 2008), or
its tokens are left out (`mask`); they still count in the normaliser, so that leaving out is not made up for by the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grail_trainer.hyper_parameters import GrpoSettings
from grail_trainer.learning.numbers import MAX_LOG_RATIO, row_sums


@dataclass(frozen=True)
class Importance:
    """`weight` [tokens]: what a token's loss is multiplied by; `capped` bool [tokens]: its ratio was above the cap."""

    weight: Tensor
    capped: Tensor


def importance(
    logprob: Tensor, proximal: Tensor | None, behaviour: Tensor, lengths: Tensor, settings: GrpoSettings
) -> Importance:
    """Weights of some tokens, without gradients.

    Args:
        logprob, proximal, behaviour: [tokens], nats; without `proximal` the trained policy itself is the proximal one.
        lengths: int64 [rows] of the rows that the tokens are; needed at the level of sequences alone, where they are whole.
    """
    gap = (logprob.detach() if proximal is None else proximal) - behaviour
    if settings.importance_level == "sequence":
        gap = row_sums(gap, lengths)
    ratio = torch.exp(gap.clamp(max=MAX_LOG_RATIO))
    capped = ratio > settings.importance_cap
    beyond = settings.importance_cap if settings.importance_mode == "truncate" else 0.0
    return Importance(torch.where(capped, beyond, ratio), capped)
