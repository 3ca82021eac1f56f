"""The numbers of a `window_trained` event: each name once, with its unit and meaning.

The event, the table in docs/trainer.md and the curves of localnet's report are made of `METRICS`. Names are public interface:
one that is there keeps its meaning. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Metric:
    """`unit`: "" for a count or a number without one; "share" is 0 … 1."""

    unit: str
    about: str


METRICS: Final[Mapping[str, Metric]] = {
    "groups": Metric("", "groups that were learned from"),
    "rollouts": Metric("", "rollouts in them"),
    "tokens": Metric("", "completion tokens in them"),
    "groups_offered": Metric("", "groups in the files that were accepted"),
    "groups_without_variance": Metric("", "of these, those whose rewards are all the same: they teach nothing"),
    "groups_dropped": Metric("", "files and groups that the validators accepted and the trainer did not"),
    "rollouts_verified": Metric("", "rollouts that the trainer measured itself"),
    "reward_mean": Metric("reward", "as claimed, over every accepted file"),
    "success_mean": Metric("share", "of rollouts, as claimed, over every accepted file"),
    "learned_reward_mean": Metric("reward", "as graded here, over the rollouts learned from"),
    "learned_reward_deviation": Metric("reward", "standard deviation of the same, over rollouts"),
    "learned_success_mean": Metric("share", "as graded here, of the rollouts learned from"),
    "well_formed_share": Metric("share", "rollouts learned from whose answer has the form that was asked for, right or wrong"),
    "length_mean": Metric("tokens", "mean of the rollouts learned from"),
    "truncated_share": Metric("share", "rollouts learned from that are as long as the policy allows"),
    "steps": Metric("", "optimiser steps"),
    "steps_refused": Metric("", "of these, those that were not made: a gradient that is not finite"),
    "loss": Metric("", "mean over steps"),
    "entropy": Metric("nats a token", "of the policy that is trained, mean over steps"),
    "gradient_norm": Metric("", "before clipping, mean over steps"),
    "clip_share": Metric("share", "tokens whose ratio trained : proximal is outside the clip, mean over steps"),
    "kl_behaviour": Metric("nats a token", "k3 estimate of the KL from the policy that drew the rollouts to the trained one"),
    "importance_mean": Metric("", "mean over tokens of the weight proximal : behaviour, after its cap"),
    "importance_capped_share": Metric("share", "tokens whose weight is at its cap"),
    "learning_rate_factor": Metric("", "what alarms have made of the learning rate, for the next window"),
    "changed_share": Metric("share", "published weights that differ from those before"),
    "seconds_verify": Metric("seconds", "collecting and verifying"),
    "seconds_train": Metric("seconds", "the update"),
}
