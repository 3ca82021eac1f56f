"""Token losses of GRPO and its relatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grail_trainer.hyper_parameters import GrpoSettings, LossKind
from grail_trainer.learning.rollouts import TokenSequence

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
"""The ratio trained : proximal is clipped to 1 − CLIP_LOW … 1 + CLIP_HIGH."""

MAX_IMPORTANCE = 2.0
"""Of the weight proximal : behaviour."""

MAX_LOG_RATIO = 20.0
"""Nats up to which e^x of two policies' difference is computed: float32 overflows at 88, and one such token would make a whole
step infinite (or 0 · ∞ where its advantage is 0). Beyond it the tangent goes on: finite, and its slope points the right way."""


@dataclass(frozen=True)
class Batch:
    """Some rollouts as flat tensors, token after token: all [sum of completion lengths] but `lengths` [rollouts].

    `weight` of a token: its advantage is counted that often (the truncated importance weight); `reference` may be None.
    """

    rows: tuple[TokenSequence, ...]
    lengths: Tensor
    advantage: Tensor
    proximal: Tensor
    weight: Tensor
    reference: Tensor | None


def policy_loss(logprob: Tensor, batch: Batch, settings: GrpoSettings, *, normaliser: Tensor) -> Tensor:
    """The loss of some rollouts: a sum over tokens, each times `normaliser` [tokens], so that micro-batches add up."""
    return (token_loss(logprob, batch, settings) * normaliser).sum()


def token_loss(logprob: Tensor, batch: Batch, settings: GrpoSettings) -> Tensor:
    """The loss of each token, float32 [tokens].

    −w · min(ρA, clip(ρ)A) with ρ = trained : proximal and w the truncated weight proximal : behaviour; where A < 0 and dual
    clip is on, −w · max(min(ρA, clip(ρ)A), cA) (Ye et al. 2020, equation 5); plus k3 KL to the reference.
    """
    ratio = bounded_exp(logprob - batch.proximal)
    clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
    gain = torch.minimum(ratio * batch.advantage, clipped * batch.advantage)
    if settings.dual_clip:
        gain = torch.where(batch.advantage < 0, torch.maximum(gain, settings.dual_clip * batch.advantage), gain)
    loss = -batch.weight * gain
    if settings.kl_coefficient and batch.reference is not None:
        gap = batch.reference - logprob
        loss = loss + settings.kl_coefficient * (bounded_exp(gap) - 1 - gap)
    return loss


def bounded_exp(x: Tensor) -> Tensor:
    """e^x up to MAX_LOG_RATIO, beyond it its tangent there: value and gradient are exact below, finite and rising above.

    0 for −∞; what is no number, or +∞, stays so: a policy that gives such numbers is not to be stepped with.
    """
    beyond = torch.where(x > MAX_LOG_RATIO, x - MAX_LOG_RATIO, 0.0)
    return torch.exp(x.clamp(max=MAX_LOG_RATIO)) * (1 + beyond)


def token_normaliser(lengths: Tensor, kind: LossKind, *, rollouts: int, tokens: int, token_limit: int) -> Tensor:
    """float32 [sum of lengths]: what each token counts, given the rollouts and tokens of the whole optimiser step."""
    if kind == "dapo":
        share = torch.full((len(lengths),), 1.0 / tokens)
    elif kind == "dr_grpo":
        share = torch.full((len(lengths),), 1.0 / (rollouts * token_limit))
    else:
        share = 1.0 / (rollouts * lengths.float())
    return torch.repeat_interleave(share, lengths)


@dataclass(frozen=True)
class ClippedObjective:
    """`policy_loss` of one pass's tokens. `normaliser` [tokens]."""

    batch: Batch
    settings: GrpoSettings
    normaliser: Tensor
    elementwise: bool = True

    def loss(self, logprob: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        batch = self.batch
        part = Batch(
            rows=(),
            lengths=batch.lengths,
            advantage=batch.advantage[tokens],
            proximal=batch.proximal[tokens],
            weight=batch.weight[tokens],
            reference=None if batch.reference is None else batch.reference[tokens],
        )
        return token_loss(logprob, part, self.settings) * self.normaliser[tokens]
