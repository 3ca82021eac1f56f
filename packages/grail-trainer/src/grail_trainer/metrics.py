"""The numbers of a `window_trained` event: each name once, with its unit and meaning; and the metrics of a trainer.

The event, the table in docs/trainer.md, the curves of localnet's report and the metrics of a window are made of `METRICS`.
Names are public interface: one that is there keeps its meaning. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from grail_core.telemetry.metrics.metric import From, Label, Metric, table
from grail_core.telemetry.metrics.shared import SHARED, counted, gauge, lost, when


@dataclass(frozen=True)
class Number:
    """`unit`: "" for a count or a number without one; "share" is 0 … 1."""

    unit: str
    about: str


METRICS: Final[Mapping[str, Number]] = {
    "groups": Number("", "groups that were learned from"),
    "rollouts": Number("", "rollouts in them"),
    "tokens": Number("", "completion tokens in them"),
    "groups_offered": Number("", "groups in the files that were accepted"),
    "groups_without_variance": Number("", "of these, those whose rewards are all the same: they teach nothing"),
    "groups_dropped": Number("", "files and groups that the validators accepted and the trainer did not"),
    "rollouts_verified": Number("", "rollouts that the trainer measured itself"),
    "reward_mean": Number("reward", "as claimed, over every accepted file"),
    "success_mean": Number("share", "of rollouts, as claimed, over every accepted file"),
    "learned_reward_mean": Number("reward", "as graded here, over the rollouts learned from"),
    "learned_reward_deviation": Number("reward", "standard deviation of the same, over rollouts"),
    "learned_success_mean": Number("share", "as graded here, of the rollouts learned from"),
    "well_formed_share": Number("share", "rollouts learned from whose answer has the form that was asked for, right or wrong"),
    "length_mean": Number("tokens", "completion of a rollout learned from, mean"),
    "truncated_share": Number("share", "rollouts learned from that ended at the policy's limit and not in an end token"),
    "steps": Number("", "optimiser steps"),
    "steps_refused": Number("", "of these, those that were not made: a gradient that is not finite"),
    "steps_refused_in_row": Number("", "the most of these one after the other"),
    "loss": Number("", "mean over steps"),
    "gradient_norm": Number("", "before clipping, mean over steps"),
    "gradient_norm_max": Number("", "of a step, before clipping"),
    "entropy": Number("nats a token", "of the policy that is trained, mean over steps"),
    "entropy_least": Number("nats a token", "the least of the steps' means"),
    "ratio_mean": Number("", "trained : proximal, mean over tokens and steps"),
    "clip_share": Number("share", "tokens whose ratio trained : proximal is outside the clip, mean over steps"),
    "clip_share_low": Number("share", "of these, below it"),
    "clip_share_high": Number("share", "of these, above it"),
    "kl_behaviour": Number("nats a token", "k3 estimate of the KL from the policy that drew the rollouts to the trained one"),
    "kl_reference": Number("nats a token", "k3 estimate of the KL from the trained policy to the reference; 0 without one"),
    "kl_coefficient": Number("", "of the KL term in this update"),
    "importance_mean": Number("", "mean over tokens of the weight proximal : behaviour, as it counts"),
    "importance_max": Number("", "the greatest of these weights"),
    "importance_capped_share": Number("share", "tokens whose weight is at its cap"),
    "learning_rate_factor": Number("", "what alarms have made of the learning rate, for the next window"),
    "changed_share": Number("share", "published weights that differ from those before"),
    "seconds_verify": Number("seconds", "collecting and verifying"),
    "seconds_train": Number("seconds", "the update"),
}

TRAINED: Final = "window_trained"
LOST: Final = ("window_not_trained", "round_not_merged")
ALARM: Final = Label(
    "alarm",
    (
        "entropy",
        "ratio",
        "kl",
        "reference",
        "gradient",
        "refused",
        "length",
        "truncated",
        "form_only",
        "form_lost",
        "reward_only",
    ),
)

TRAINER: Final = (
    counted("grail_trainer_windows_trained_total", TRAINED, "windows that were learned from, once they are published"),
    counted("grail_trainer_rounds_total", "merge_published", "rounds of gradient work that were merged"),
    lost("trainer", "windows and rounds that brought nothing, by the event that said so", LOST),
    when(
        "grail_trainer_last_window_timestamp_seconds",
        "when a window was last learned from or a round merged, or this trainer started",
        *(TRAINED, "merge_published", "trainer_started", "aggregator_started"),
    ),
    when(
        "grail_trainer_last_decision_timestamp_seconds",
        "when a window or round was last decided, whatever came of it, or this trainer started",
        *(TRAINED, "merge_published", *LOST, "merge_kept", "no_gradient_work", "trainer_started", "aggregator_started"),
    ),
    gauge("grail_trainer_last_window", TRAINED, "window", "the newest window that was learned from", "block"),
    Metric(
        "grail_trainer_alarms_total",
        "counter",
        "alarms over updates",
        labels=(ALARM,),
        follows=(From("training_alarm", labels={"alarm": "alarm"}),),
    ),
    counted("grail_trainer_updates_undone_total", "update_undone", "updates that an alarm took back"),
    counted("grail_trainer_groups_dropped_total", "group_dropped", "groups that validators accepted and this trainer did not"),
    counted("grail_trainer_verdicts_ignored_total", "verdict_ignored", "verdicts that contradict what everybody can compute"),
    counted("grail_trainer_files_missing_total", "accepted_files_missing", "accepted files that nobody had", "files"),
    counted("grail_trainer_checkpoints_total", "checkpoint_published", "checkpoints that were published"),
    Metric(
        "grail_trainer_published_sequence",
        "gauge",
        "number of the newest checkpoint that was published",
        follows=(From("checkpoint_published", "sequence"), From("merge_published", "sequence")),
    ),
    gauge("grail_trainer_delta_bytes", "checkpoint_published", "delta_bytes", "size of its changes", "bytes"),
    gauge("grail_trainer_publish_seconds", "checkpoint_published", "seconds_publish", "how long storing it took", "seconds"),
    gauge("grail_trainer_published_late", "checkpoint_published", "late", "1: it came too late for readers, 0: in time"),
    gauge("grail_trainer_merged_updates", "merge_published", "updates", "updates in the last merge", "updates"),
    *(
        gauge(f"grail_trainer_window_{name}", TRAINED, name, f"last window: {number.about}", number.unit)
        for name, number in METRICS.items()
    ),
)

TABLE: Final = table(SHARED, TRAINER)
"""What `grail-trainer run` exposes."""
