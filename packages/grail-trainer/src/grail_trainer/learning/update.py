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
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from grail_trainer.hyper_parameters import GrpoSettings
from grail_trainer.learning.advantages import group_advantages
from grail_trainer.learning.losses import (
    CLIP_HIGH,
    CLIP_LOW,
    MAX_IMPORTANCE,
    Batch,
    ClippedObjective,
    bounded_exp,
    token_normaliser,
)
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.reference import ReferencePolicy, held_reference
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.learning.statistics import UpdateStatistics


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
        reference: what the KL term holds on to (see `held_reference`); needed only where its coefficient is not 0, and not
            where adapters are trained.

    Raises:
        ValueError: a KL term without a reference.
    """
    if settings.kl_coefficient and reference is None and not masters.adapted:
        raise ValueError(f"a KL coefficient of {settings.kl_coefficient} needs a reference")
    statistics = UpdateStatistics(groups=len(groups), rollouts=sum(len(group.rollouts) for group in groups))
    with held_reference(masters, reference if settings.kl_coefficient else None) as held:
        prepared = [_prepare(masters.policy, group, settings, temperature, held) for group in groups]
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
        objective = ClippedObjective(_to(batch, device), settings, normaliser.to(device))
        out = masters.policy(batch.rows, objective, temperature=temperature)
        loss = out.loss
        loss.backward()
        with torch.no_grad():
            now, drawn = out.logprob.cpu(), torch.cat([behaviour[index] for index in part])
            ratio = bounded_exp(now - batch.proximal)
            gap = now - drawn  # the tokens were drawn from the behaviour policy
            sums["loss"] += loss.item()
            sums["clipped"] += ((ratio < 1 - CLIP_LOW) | (ratio > 1 + CLIP_HIGH)).sum().item()
            sums["entropy"] += out.entropy.sum().item()
            sums["kl"] += (bounded_exp(gap) - 1 - gap).sum().item()
    if not math.isfinite(sums["loss"]):
        masters.spoil_gradients()
    norm = masters.step(largest_norm=masters.settings.max_gradient_norm)
    statistics.count_step(norm)
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
def _prepare(
    policy: Policy, group: RolloutGroup, settings: GrpoSettings, temperature: float, reference: ReferencePolicy | None
) -> Batch:
    """A group's fixed parts: advantages, the proximal log-probabilities, importance weights."""
    rows = tuple(rollout.row for rollout in group.rollouts)
    lengths = torch.tensor([row.completion_length for row in rows])
    advantages = torch.from_numpy(group_advantages(group.rewards, settings.advantages)).float()
    proximal = policy(rows, temperature=temperature).logprob.cpu()
    behaviour = torch.from_numpy(np.concatenate([rollout.behaviour for rollout in group.rollouts]))
    held = None
    if settings.kl_coefficient and reference is not None:
        held = reference(rows, temperature=temperature).logprob.cpu()
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
