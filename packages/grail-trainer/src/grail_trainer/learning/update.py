"""One window's update: clipped policy gradient on groups of verified rollouts (GRPO and its relatives).

Rollouts are one or two checkpoints old when they are learned from, so three policies meet: the behaviour policy that drew
them (its log-probabilities are measured by this trainer, never taken from a miner), the policy at the start of the update
(proximal), and the one being trained. As in decoupled PPO (Hilton et al. 2022), the clip keeps the trained policy near the
proximal one, and the step from behaviour to proximal is an importance weight; clipping against the behaviour policy instead
would pull the policy back to where it was two windows ago. Normalisers are counted over the whole optimiser step, so
micro-batches change nothing but rounding.

Until the first step is made the trained policy is the proximal one, so that step needs no pass before it: what its own passes
give is kept for later epochs. The groups of later steps are measured in one pass before it; with one epoch of one step there is
none.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from grail_trainer.hyper_parameters import GrpoSettings
from grail_trainer.learning.kl_controller import current_coefficient, take_measured
from grail_trainer.learning.losses import PolicyObjective
from grail_trainer.learning.normalisers import StepCounts, token_normaliser
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.packing import packs as packs_of
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.ranks import ALONE, Ranks
from grail_trainer.learning.reference import ReferencePolicy, held_reference
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.learning.statistics import StepSums, UpdateStatistics, measured
from grail_trainer.learning.window_rows import WindowRows


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
    statistics = _counted(groups)
    rows = WindowRows.of(groups, settings)
    statistics.kl_coefficient = coefficient = current_coefficient(masters.scalars, settings)
    steps = [step for step in planned_steps(len(groups), settings, window) if rows.learned(step)]
    if steps:
        with held_reference(masters, reference) if coefficient else nullcontext() as held:
            _measure_before(rows, steps, masters.policy, held, settings, temperature, masters.ranks)
    for number, step in enumerate(steps):
        learned, counts = rows.learned(step), rows.counts(step, token_limit)
        sums = accumulate(
            masters.policy,
            rows,
            learned,
            counts,
            settings,
            begun=number > 0,
            coefficient=coefficient,
            temperature=temperature,
            ranks=masters.ranks,
        )
        if not math.isfinite(sums.loss):
            masters.spoil_gradients()
        statistics.take_step(sums, masters.step(largest_norm=masters.settings.max_gradient_norm))
        progress(number + 1, len(steps))
    statistics.close()
    if coefficient and statistics.steps > statistics.steps_refused:
        take_measured(masters.scalars, settings, statistics.kl_reference)
    return statistics


def planned_steps(groups: int, settings: GrpoSettings, window: int) -> list[list[int]]:
    """The groups of each optimiser step of an update, in order."""
    return [
        part.tolist()
        for epoch in range(settings.epochs if groups else 0)
        for part in np.array_split(visiting_order(groups, settings.seed, window, epoch), min(settings.minibatches, groups))
    ]


def visiting_order(count: int, seed: int, window: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of the groups, the same on every machine: sorted by SHA-256 of (seed, window, epoch, index)."""
    keys = [hashlib.sha256(f"grail-trainer/order|{seed}|{window}|{epoch}|{index}".encode()).digest() for index in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)


def accumulate(
    policy: Policy,
    rows: WindowRows,
    learned: Sequence[int],
    counts: StepCounts,
    settings: GrpoSettings,
    *,
    begun: bool,
    coefficient: float = 0.0,
    temperature: float = 1.0,
    packs: Sequence[Sequence[int]] | None = None,
    ranks: Ranks = ALONE,
) -> StepSums:
    """The gradient of one optimiser step over some rows, added to what the policy's parameters hold.

    Args:
        learned: rows of the step, or one process's part of them; a row is in one pass as a whole.
        counts: of the whole step, over all processes. coefficient: of the KL term.
        begun: a step was made in this update, so that the trained policy is not the proximal one any more.
        packs: which rows run together, as places in `learned`; by default what `settings.tokens_per_pass` allows.
        ranks: share the passes; each has the sums over all of them, and knows what was kept.

    Raises:
        ValueError: a step was made, and a row was not measured before it.
    """
    sums, device = StepSums(), next(policy.parameters()).device
    if packs is None:
        packs = packs_of(rows.sequences(learned), settings.tokens_per_pass, packed=policy.packed)
    for pack, ours in ranks.mine(packs):
        part = [learned[place] for place in pack]
        batch = rows.batch(part, proximal=begun).to(device)
        objective = PolicyObjective(
            batch,
            settings,
            token_normaliser(batch.lengths.cpu(), settings.loss, counts).to(batch.advantage),
            coefficient,
            settings.entropy_bonus / max(1, counts.tokens),
        )
        out = policy(rows.sequences(part), objective, temperature=temperature)
        (out.loss if ours else 0.0 * out.loss).backward()
        if not ours:
            continue
        if not begun:
            rows.keep_proximal(part, out.logprob)
        sums += measured(out.logprob, out.entropy, out.loss.item(), batch, settings)
    if not begun:
        rows.share_proximal(learned, ranks)
    return StepSums.of_sums(ranks.sums(sums.sums()), ranks.greatest(sums.importance_max))


@torch.no_grad()
def _measure_before(
    rows: WindowRows,
    steps: Sequence[Sequence[int]],
    policy: Policy,
    reference: ReferencePolicy | None,
    settings: GrpoSettings,
    temperature: float,
    ranks: Ranks,
) -> None:
    """What later steps need of the policy as it is before the first one, and what all need of the reference."""
    first = set(rows.learned(steps[0]))
    learned = sorted({row for step in steps for row in rows.learned(step)})

    def passes(asked: ReferencePolicy, some: Sequence[int], keep: Callable[[Sequence[int], Any], None]) -> None:
        packs = packs_of(rows.sequences(some), settings.tokens_per_pass, packed=policy.packed)
        for pack, ours in ranks.mine(packs):
            part = [some[place] for place in pack]
            out = asked(rows.sequences(part), temperature=temperature)
            if ours:
                keep(part, out.logprob)

    later = [row for row in learned if row not in first]
    passes(policy, later, rows.keep_proximal)
    rows.share_proximal(later, ranks)
    if reference is not None:
        passes(reference, learned, rows.keep_reference)
        rows.share_reference(ranks)


def _counted(groups: Sequence[RolloutGroup]) -> UpdateStatistics:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    tokens, count = sum(rollout.row.completion_length for rollout in rollouts), max(1, len(rollouts))
    return UpdateStatistics(
        groups=len(groups),
        rollouts=len(rollouts),
        tokens=tokens,
        length_mean=tokens / count,
        truncated_share=sum(rollout.truncated for rollout in rollouts) / count,
    )
