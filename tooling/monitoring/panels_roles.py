"""The dashboards of a miner and of the trainer; `panels` has the others and what all of them show."""

from __future__ import annotations

from typing import Final

from tooling.monitoring.dashboards import Dashboard, Row
from tooling.monitoring.panels import ALERTS, NETWORK, SURROUNDINGS, VALIDATOR, line, query, stat

MINER: Final = Dashboard(
    "miner",
    "GRAIL: miner",
    "What a miner makes, where its time goes, and how its hotkey stands by the validators' own verdicts.",
    "grail-miner|grail-node",
    (
        Row(
            "Now",
            (
                ALERTS,
                stat(
                    "Since the last window",
                    "Time since a window was stored.",
                    "seconds",
                    "time() - grail_miner_last_window_timestamp_seconds{@}",
                ),
                stat("Weight", "In the newest verdicts, by stake.", "share", "grail_miner_standing_weight_ratio{@}"),
                stat("Rejected by", "Stake whose newest verdict failed it.", "share", "grail_miner_standing_rejected_ratio{@}"),
                stat("Worth 0 for", "Windows of a look-back left.", "windows", "grail_miner_standing_unpaid_windows{@}"),
            ),
        ),
        Row(
            "Standing",
            (
                line(
                    "Weight and reward",
                    "Weight in the newest verdicts, and what they come to of all that miners get.",
                    "share",
                    query("grail_miner_standing_weight_ratio{@}", "weight {{instance}}"),
                    query("grail_miner_standing_reward_ratio{@}", "reward {{instance}}"),
                ),
                line(
                    "Against it",
                    "Stake whose newest verdict failed it, or saw no seal of it that counts.",
                    "share",
                    query("grail_miner_standing_rejected_ratio{@}", "rejected {{instance}}"),
                    query("grail_miner_standing_absent_ratio{@}", "absent {{instance}}"),
                ),
                line(
                    "Rejected by check",
                    "Validators whose newest verdict rejects by a check.",
                    "",
                    query("grail_miner_standing_rejections{@}", "{{check}} {{instance}}"),
                ),
                line(
                    "Places",
                    "Hotkeys that would lose their UID before it, of those registered.",
                    "hotkeys",
                    query("grail_miner_standing_places_before{@}", "before {{instance}}"),
                    query("grail_miner_standing_hotkeys{@}", "registered {{instance}}"),
                ),
            ),
        ),
        Row(
            "Work",
            (
                line("Rollouts", "Rollouts of a stored window.", "", "grail_miner_window_rollouts{@}"),
                line("Reward", "Mean reward of a stored window.", "reward", "grail_miner_window_reward{@}"),
                line("Time to spare", "Between the seal and the deadline.", "seconds", "grail_miner_window_spare_seconds{@}"),
                line(
                    "Time by stage",
                    "What the threads of each stage took in a window.",
                    "seconds",
                    query("grail_miner_stage_seconds{@}", "{{stage}} {{instance}}"),
                ),
                line(
                    "Idle",
                    "Share of a window's time in which a stage had nothing to do.",
                    "share",
                    query("grail_miner_idle_ratio{@}", "{{stage}} {{instance}}"),
                ),
                line(
                    "Tokens",
                    "In stored files, per hour.",
                    "tokens",
                    "increase(grail_miner_tokens_total{@}[1h])",
                ),
                line(
                    "Lost",
                    "Windows that it has nothing in, and files that it withheld, per hour.",
                    "per hour",
                    query("sum by (cause) (increase(grail_miner_windows_lost_total{@}[1h]))", "{{cause}}"),
                    query("sum by (check) (increase(grail_miner_withheld_total{@}[1h]))", "withheld: {{check}}"),
                ),
                line(
                    "Breakdowns",
                    "Dropped groups, failures of the engine and replaced proof workers, per hour.",
                    "per hour",
                    query("increase(grail_miner_groups_dropped_total{@}[1h])", "groups {{instance}}"),
                    query("increase(grail_miner_engine_failures_total{@}[1h])", "engine {{instance}}"),
                    query("increase(grail_miner_proof_workers_replaced_total{@}[1h])", "workers {{instance}}"),
                ),
                line("Weight roll", "How long the change of weights took.", "seconds", "grail_miner_weights_roll_seconds{@}"),
            ),
        ),
        Row(
            "Inference on request",
            (
                line(
                    "Requests",
                    "By outcome, per hour.",
                    "per hour",
                    query("sum by (outcome) (increase(grail_requests_total{@}[1h]))", "{{outcome}}"),
                ),
                line(
                    "First token",
                    "Nine in ten requests wait at most so long.",
                    "seconds",
                    query("histogram_quantile(0.9, sum by (le) (rate(grail_first_token_seconds_bucket{@}[5m])))", "90 %"),
                ),
                line(
                    "Open",
                    "Requests that wait, and answers that are streamed.",
                    "",
                    query("grail_queue_length{@}", "waiting {{instance}}"),
                    query("grail_open_streams{@}", "streamed {{instance}}"),
                ),
            ),
        ),
        SURROUNDINGS,
    ),
)

TRAINER: Final = Dashboard(
    "trainer",
    "GRAIL: trainer",
    "What the trainer learns from, how the policy changes, and what it publishes.",
    "grail-trainer",
    (
        Row(
            "Now",
            (
                ALERTS,
                stat(
                    "Since the last window",
                    "Time since a window was learned from or a round merged.",
                    "seconds",
                    "time() - grail_trainer_last_window_timestamp_seconds{@}",
                ),
                stat("Published", "Number of the newest checkpoint.", "", "grail_trainer_published_sequence{@}"),
                stat("Late", "1: the last one came too late for readers.", "yes or no", "grail_trainer_published_late{@}"),
                stat("Bucket", "1: the own bucket answers.", "yes or no", "grail_storage_reachable{@}"),
            ),
        ),
        Row(
            "Learning",
            (
                line(
                    "Reward",
                    "Mean reward: as claimed in accepted files, and as graded here.",
                    "reward",
                    query("grail_trainer_window_reward_mean{@}", "claimed {{instance}}"),
                    query("grail_trainer_window_learned_reward_mean{@}", "learned from {{instance}}"),
                ),
                line(
                    "Success",
                    "Share of solved and of well-formed rollouts.",
                    "share",
                    query("grail_trainer_window_success_mean{@}", "solved, claimed {{instance}}"),
                    query("grail_trainer_window_learned_success_mean{@}", "solved, learned from {{instance}}"),
                    query("grail_trainer_window_well_formed_share{@}", "well-formed {{instance}}"),
                ),
                line("Length", "Mean completion.", "tokens", "grail_trainer_window_length_mean{@}"),
                line("Entropy", "Of the trained policy.", "nats a token", "grail_trainer_window_entropy{@}"),
                line(
                    "Distance",
                    "KL to the behaviour policy and to the reference.",
                    "nats a token",
                    query("grail_trainer_window_kl_behaviour{@}", "behaviour {{instance}}"),
                    query("grail_trainer_window_kl_reference{@}", "reference {{instance}}"),
                ),
                line("Loss", "Mean over steps.", "", "grail_trainer_window_loss{@}"),
                line(
                    "Gradient",
                    "Norm before clipping: mean and largest.",
                    "",
                    query("grail_trainer_window_gradient_norm{@}", "mean {{instance}}"),
                    query("grail_trainer_window_gradient_norm_max{@}", "largest {{instance}}"),
                ),
                line(
                    "Clipping",
                    "Tokens outside the clip, and those whose weight is at its cap.",
                    "share",
                    query("grail_trainer_window_clip_share{@}", "clipped {{instance}}"),
                    query("grail_trainer_window_importance_capped_share{@}", "capped {{instance}}"),
                ),
                line(
                    "Changed weights",
                    "Share of published weights that differ from those before.",
                    "share",
                    "grail_trainer_window_changed_share{@}",
                ),
            ),
        ),
        Row(
            "Material and publication",
            (
                line(
                    "Groups",
                    "Offered, without variance, dropped, learned from.",
                    "",
                    query("grail_trainer_window_groups_offered{@}", "offered {{instance}}"),
                    query("grail_trainer_window_groups_without_variance{@}", "without variance {{instance}}"),
                    query("grail_trainer_window_groups_dropped{@}", "dropped {{instance}}"),
                    query("grail_trainer_window_groups{@}", "learned from {{instance}}"),
                ),
                line(
                    "Time",
                    "Verifying, the update, and storing the checkpoint.",
                    "seconds",
                    query("grail_trainer_window_seconds_verify{@}", "verify {{instance}}"),
                    query("grail_trainer_window_seconds_train{@}", "train {{instance}}"),
                    query("grail_trainer_publish_seconds{@}", "publish {{instance}}"),
                ),
                line("Changes", "Size of a checkpoint's changes.", "bytes", "grail_trainer_delta_bytes{@}"),
                line(
                    "Alarms",
                    "Alarms and updates that one took back, per hour.",
                    "per hour",
                    query("sum by (alarm) (increase(grail_trainer_alarms_total{@}[1h]))", "{{alarm}}"),
                    query("increase(grail_trainer_updates_undone_total{@}[1h])", "undone {{instance}}"),
                ),
                line(
                    "Lost",
                    "Windows and rounds that brought nothing, per hour.",
                    "per hour",
                    query("sum by (cause) (increase(grail_trainer_windows_lost_total{@}[1h]))", "{{cause}}"),
                ),
                line(
                    "Inputs left out",
                    "Verdicts that were ignored and accepted files that nobody had, per hour.",
                    "per hour",
                    query("increase(grail_trainer_verdicts_ignored_total{@}[1h])", "verdicts {{instance}}"),
                    query("increase(grail_trainer_files_missing_total{@}[1h])", "files {{instance}}"),
                ),
            ),
        ),
        SURROUNDINGS,
    ),
)

DASHBOARDS: Final = (NETWORK, VALIDATOR, MINER, TRAINER)
