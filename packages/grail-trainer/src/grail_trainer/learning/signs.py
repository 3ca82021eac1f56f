"""What one window's update looked like: the values that alarms are raised for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.learning.statistics import UpdateStatistics


@dataclass(frozen=True)
class RolloutMeans:
    """Over the rollouts of the groups that were learned from; 0 where there are none. Groups that do not vary are not among
    them, so these are not the policy's means over all problems."""

    reward_mean: float = 0.0
    reward_deviation: float = 0.0  # standard deviation over rollouts, not within groups
    success_mean: float = 0.0
    well_formed_share: float = 0.0
    length_mean: float = 0.0  # tokens, mean
    truncated_share: float = 0.0  # completions of as many tokens as the policy allows


@dataclass(frozen=True)
class WindowSigns:
    """`RolloutMeans` and `UpdateStatistics`, as far as alarms look at them. `kl_reference` is 0 without a reference."""

    entropy: float
    clip_share: float
    importance_mean: float
    kl_behaviour: float
    kl_reference: float
    gradient_norm: float
    steps: int
    steps_refused: int
    reward_mean: float
    reward_deviation: float
    success_mean: float
    well_formed_share: float
    length_mean: float
    truncated_share: float


def rollout_means(groups: Sequence[RolloutGroup], *, token_limit: int) -> RolloutMeans:
    """Of a window's groups. `token_limit`: the policy's most completion tokens."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return RolloutMeans()
    rewards = np.array([rollout.reward for rollout in rollouts], dtype=np.float64)
    lengths = np.array([rollout.row.completion_length for rollout in rollouts], dtype=np.float64)
    return RolloutMeans(
        reward_mean=float(rewards.mean()),
        reward_deviation=float(rewards.std()),
        success_mean=float(np.mean([rollout.success for rollout in rollouts])),
        well_formed_share=float(np.mean([rollout.well_formed for rollout in rollouts])),
        length_mean=float(lengths.mean()),
        truncated_share=float((lengths >= token_limit).mean()),
    )


def signs_of(statistics: UpdateStatistics, means: RolloutMeans) -> WindowSigns:
    return WindowSigns(
        entropy=statistics.entropy,
        clip_share=statistics.clip_share,
        importance_mean=statistics.importance_mean,
        kl_behaviour=statistics.kl_behaviour,
        kl_reference=getattr(statistics, "kl_reference", 0.0),
        gradient_norm=statistics.gradient_norm,
        steps=statistics.steps,
        steps_refused=statistics.steps_refused,
        reward_mean=means.reward_mean,
        reward_deviation=means.reward_deviation,
        success_mean=means.success_mean,
        well_formed_share=means.well_formed_share,
        length_mean=means.length_mean,
        truncated_share=means.truncated_share,
    )
