"""One window's update: clipped policy gradient on groups of verified rollouts (GRPO and its relatives).

Rollouts are one or two checkpoints old when they are learned from, so three policies meet: the behaviour policy that drew
them (its log-probabilities are measured by this trainer, never taken from a miner), the policy at the start of the update
(proximal), and the one being trained. As in decoupled PPO (Hilton et al. 2022), the clip keeps the trained policy near the
proximal one, and the step from behaviour to proximal is a truncated importance weight; clipping against the behaviour policy
instead would pull the policy back to where it was two windows ago. Normalisers are counted over the whole optimiser step, so
micro-batches change nothing but rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_trainer.advantages import group_advantages
from grail_trainer.hyper_parameters import GrpoSettings, LossKind
from grail_trainer.logprobs import TokenSequence, completion_logprobs
from grail_trainer.optimiser import Masters

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
"""The ratio trained : proximal is clipped to 1 − CLIP_LOW … 1 + CLIP_HIGH."""

MAX_IMPORTANCE = 2.0
"""Of the weight proximal : behaviour."""

MAX_GRADIENT_NORM = 1.0

MAX_LOG_RATIO = 20.0
"""Nats up to which e^x of two policies' difference is computed: float32 overflows at 88, and one such token would make a whole
step infinite (or 0 · ∞ where its advantage is 0). Beyond it the tangent goes on: finite, and its slope points the right way."""


@dataclass(frozen=True)
class Rollout:
    """One verified rollout. `behaviour` float32 [completion]: log-probabilities under the policy that drew it, at its
    temperature, measured by this trainer."""

    row: TokenSequence
    reward: float
    success: bool
    behaviour: npt.NDArray[np.float32]


@dataclass(frozen=True)
class RolloutGroup:
    """The rollouts of one problem. `name` identifies the group (hotkey, window, group) and orders nothing."""

    name: str
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> list[float]:
        return [rollout.reward for rollout in self.rollouts]


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


@dataclass
class UpdateStatistics:
    """Means over the optimiser steps of one update; norms before clipping."""

    groups: int = 0
    rollouts: int = 0
    tokens: int = 0
    steps: int = 0
    steps_refused: int = 0  # gradients that were not finite
    loss: float = 0.0
    gradient_norm: float = 0.0
    clip_share: float = 0.0  # of tokens whose ratio is outside the clip
    entropy: float = 0.0  # nats a token
    kl_behaviour: float = 0.0  # k3 estimate of KL(behaviour ‖ trained), nats a token
    importance_mean: float = 0.0
    importance_capped_share: float = 0.0
    _sums: dict[str, list[float]] = field(default_factory=dict, repr=False)

    def observe(self, **values: float) -> None:
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)

    def close(self) -> None:
        for name, values in self._sums.items():
            finite = [value for value in values if math.isfinite(value)]
            setattr(self, name, sum(finite) / len(finite) if finite else 0.0)


def update(
    masters: Masters,
    groups: Sequence[RolloutGroup],
    settings: GrpoSettings,
    *,
    window: int,
    temperature: float = 1.0,
    token_limit: int = 1,
    reference: Any | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UpdateStatistics:
    """Learn from one window's groups. A pure function of the masters' state and its arguments, whatever the micro-batches.

    Args:
        groups: groups that vary. window: seeds the order in which groups are visited.
        token_limit: the policy's most completion tokens; the loss `dr_grpo` divides by it.
        reference: a Transformers model the KL term holds on to; needed only where its coefficient is not 0.

    Raises:
        ValueError: a KL term without a reference.
    """
    if settings.kl_coefficient and reference is None:
        raise ValueError(f"a KL coefficient of {settings.kl_coefficient} needs a reference")
    statistics = UpdateStatistics(groups=len(groups), rollouts=sum(len(group.rollouts) for group in groups))
    prepared = [_prepare(masters.module, group, settings, temperature, reference) for group in groups]
    statistics.tokens = sum(len(batch.advantage) for batch in prepared)
    _observe_importance(statistics, prepared)
    total = settings.epochs * min(settings.minibatches, max(1, len(groups)))
    done = 0
    for epoch in range(settings.epochs if groups else 0):
        order = visiting_order(len(groups), settings.seed, window, epoch)
        for chosen in np.array_split(order, min(settings.minibatches, len(groups))):
            minibatch = [prepared[index] for index in chosen]
            behaviour = [groups[index] for index in chosen]
            _step(masters, minibatch, behaviour, settings, temperature, token_limit, statistics)
            done += 1
            progress(done, total)
    statistics.close()
    return statistics


def visiting_order(count: int, seed: int, window: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of the groups, the same on every machine: sorted by SHA-256 of (seed, window, epoch, index)."""
    keys = [hashlib.sha256(f"grail-trainer/order|{seed}|{window}|{epoch}|{index}".encode()).digest() for index in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)


def policy_loss(logprob: Tensor, batch: Batch, settings: GrpoSettings, *, normaliser: Tensor) -> Tensor:
    """The loss of some rollouts: a sum over tokens, each times `normaliser` [tokens], so that sums over micro-batches add up.

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
    return (loss * normaliser).sum()


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


def _step(
    masters: Masters,
    minibatch: Sequence[Batch],
    groups: Sequence[RolloutGroup],
    settings: GrpoSettings,
    temperature: float,
    token_limit: int,
    statistics: UpdateStatistics,
) -> None:
    """One optimiser step over some groups, accumulated over micro-batches."""
    rollouts = sum(len(batch.rows) for batch in minibatch)
    tokens = sum(len(batch.advantage) for batch in minibatch)
    behaviour = [torch.from_numpy(np.concatenate([r.behaviour for r in group.rollouts])) for group in groups]
    sums = dict.fromkeys(("loss", "clipped", "entropy", "kl"), 0.0)
    for part in micro_batches(minibatch, settings.tokens_per_pass):
        batch = _concatenate([minibatch[index] for index in part])
        device = masters.module.get_input_embeddings().weight.device
        normaliser = token_normaliser(batch.lengths, settings.loss, rollouts=rollouts, tokens=tokens, token_limit=token_limit)
        out = completion_logprobs(masters.module, batch.rows, temperature=temperature)
        loss = policy_loss(out.logprob, _to(batch, device), settings, normaliser=normaliser.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            now, drawn = out.logprob.detach().cpu(), torch.cat([behaviour[index] for index in part])
            ratio = bounded_exp(now - batch.proximal)
            gap = now - drawn  # the tokens were drawn from the behaviour policy
            sums["loss"] += loss.item()
            sums["clipped"] += ((ratio < 1 - CLIP_LOW) | (ratio > 1 + CLIP_HIGH)).sum().item()
            sums["entropy"] += out.entropy.sum().item()
            sums["kl"] += (bounded_exp(gap) - 1 - gap).sum().item()
    norm = masters.step(largest_norm=MAX_GRADIENT_NORM)
    statistics.steps += 1
    statistics.steps_refused += not math.isfinite(norm)
    statistics.observe(
        loss=sums["loss"],
        gradient_norm=norm,
        clip_share=sums["clipped"] / tokens,
        entropy=sums["entropy"] / tokens,
        kl_behaviour=sums["kl"] / tokens,
    )


def micro_batches(minibatch: Sequence[Batch], tokens_per_pass: int) -> Iterator[list[int]]:
    """Indices of groups that run together: longest first, so that memory that does not suffice shows at once."""
    widths = [max(len(row.tokens) for row in batch.rows) for batch in minibatch]
    order = sorted(range(len(minibatch)), key=lambda index: -widths[index])
    part: list[int] = []
    rows = 0
    for index in order:
        wide = widths[part[0]] if part else widths[index]
        if part and (rows + len(minibatch[index].rows)) * wide > tokens_per_pass:
            yield part
            part, rows = [], 0
        part.append(index)
        rows += len(minibatch[index].rows)
    if part:
        yield part


@torch.no_grad()
def _prepare(module: Any, group: RolloutGroup, settings: GrpoSettings, temperature: float, reference: Any | None) -> Batch:
    """A group's fixed parts: advantages, the proximal log-probabilities, importance weights."""
    rows = tuple(rollout.row for rollout in group.rollouts)
    lengths = torch.tensor([row.completion_length for row in rows])
    advantages = torch.from_numpy(group_advantages(group.rewards, settings.advantages)).float()
    proximal = completion_logprobs(module, rows, temperature=temperature).logprob.cpu()
    behaviour = torch.from_numpy(np.concatenate([rollout.behaviour for rollout in group.rollouts]))
    held = None
    if settings.kl_coefficient:
        held = completion_logprobs(reference, rows, temperature=temperature).logprob.cpu()
    return Batch(
        rows=rows,
        lengths=lengths,
        advantage=torch.repeat_interleave(advantages, lengths),
        proximal=proximal,
        weight=torch.exp(proximal - behaviour).clamp(max=MAX_IMPORTANCE),
        reference=held,
    )


def _observe_importance(statistics: UpdateStatistics, prepared: Sequence[Batch]) -> None:
    if prepared:
        weights = torch.cat([batch.weight for batch in prepared])
        statistics.importance_mean = weights.mean().item()
        statistics.importance_capped_share = (weights >= MAX_IMPORTANCE).float().mean().item()


def _concatenate(batches: Sequence[Batch]) -> Batch:
    references = [batch.reference for batch in batches]
    return Batch(
        rows=tuple(row for batch in batches for row in batch.rows),
        lengths=torch.cat([batch.lengths for batch in batches]),
        advantage=torch.cat([batch.advantage for batch in batches]),
        proximal=torch.cat([batch.proximal for batch in batches]),
        weight=torch.cat([batch.weight for batch in batches]),
        reference=torch.cat([r for r in references if r is not None]) if all(r is not None for r in references) else None,
    )


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(
        rows=batch.rows,
        lengths=batch.lengths,
        advantage=batch.advantage.to(device),
        proximal=batch.proximal.to(device),
        weight=batch.weight.to(device),
        reference=None if batch.reference is None else batch.reference.to(device),
    )
