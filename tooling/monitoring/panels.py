"""What each dashboard shows: network, validator, miner, trainer."""

from __future__ import annotations

from typing import Final

from tooling.monitoring.dashboards import Dashboard, Panel, Query, Row

_I: Final = 'instance=~"$instance"'


def query(expression: str, legend: str = "{{instance}}") -> Query:
    """`@` stands for the chosen instances."""
    return Query(expression.replace("@", _I), legend)


def stat(title: str, about: str, unit: str, expression: str) -> Panel:
    return Panel(title, about, unit, (query(expression),), kind="stat", width=4)


def line(title: str, about: str, unit: str, *queries: Query | str, stacked: bool = False) -> Panel:
    asked = tuple(query(one) if isinstance(one, str) else one for one in queries)
    return Panel(title, about, unit, asked, stacked=stacked)


ALERTS: Final = Panel(
    "Alerts that fire",
    "Alerts of rules.yaml that hold now; docs/monitoring.md says what each means and what to do.",
    "",
    (query('count by (alertname) (ALERTS{alertstate="firing", alertname=~"Grail.*", @}) or vector(0)', "{{alertname}}"),),
    kind="bargauge",
    width=8,
)

SURROUNDINGS: Final = Row(
    "What surrounds it",
    (
        line("Chain head", "Age of the newest block that the node shows.", "seconds", "grail_chain_head_age_seconds{@}"),
        line("Clock", "This machine's clock against the beacon's relays.", "seconds", "grail_clock_skew_seconds{@}"),
        line("Beacon", "Age of the newest verified round, beyond its period.", "seconds", "grail_beacon_lag_seconds{@}"),
        line(
            "Checkpoint",
            "Windows since the newest checkpoint came into force, and for how long the trainer has been silent.",
            "windows",
            query("grail_checkpoint_age_windows{@}", "age {{instance}}"),
            query("grail_trainer_silent_windows{@}", "silent {{instance}}"),
        ),
        line(
            "Own bucket",
            "How long the bucket took to answer a HEAD.",
            "seconds",
            "grail_storage_answer_seconds{@}",
        ),
        line(
            "Disk",
            "Free room of the folders for cache and state.",
            "bytes",
            query("grail_disk_free_bytes{@}", "{{folder}} {{instance}}"),
        ),
        line(
            "Faults",
            "Reads and writes that failed in the end, and late beacon rounds, per hour.",
            "per hour",
            query("sum by (operation) (increase(grail_storage_errors_total{@}[1h]))", "{{operation}}"),
            query("increase(grail_beacon_late_rounds_total{@}[1h])", "late rounds {{instance}}"),
        ),
        line(
            "Not to be seen",
            "Looks at its surroundings that failed, per hour, by part.",
            "per hour",
            query("sum by (part) (increase(grail_watch_failures_total{@}[1h]))", "{{part}}"),
        ),
    ),
)

NETWORK: Final = Dashboard(
    "network",
    "GRAIL: network",
    "The subnet as the validators that are scraped see it.",
    "grail-.*",
    (
        Row(
            "Now",
            (
                ALERTS,
                stat("Block", "Newest block.", "blocks", "max(grail_chain_head_block{@})"),
                stat("Checkpoint", "Number of the newest checkpoint.", "", "max(grail_checkpoint_sequence{@})"),
                stat(
                    "Silent windows",
                    "For how long the trainer has been silent.",
                    "windows",
                    "max(grail_trainer_silent_windows{@})",
                ),
                stat("Hotkeys", "Registered at first sight.", "hotkeys", "max(grail_validator_registered_hotkeys{@})"),
            ),
        ),
        Row(
            "Miners",
            (
                line(
                    "What became of miners",
                    "Registered hotkeys of the last window by their status.",
                    "hotkeys",
                    query("max by (status) (grail_validator_miners{@})", "{{status}}"),
                    stacked=True,
                ),
                line(
                    "Seals",
                    "Seals of a window at first sight: in time, and late.",
                    "",
                    query("max(grail_validator_seals_seen{@})", "in time"),
                    query("max(grail_validator_seals_late{@})", "late"),
                ),
                line(
                    "Rejections",
                    "Failed files by check, per hour.",
                    "per hour",
                    query("sum by (check) (increase(grail_validator_rejections_total{@}[1h]))", "{{check}}"),
                    stacked=True,
                ),
                line(
                    "Weights",
                    "The twenty largest weights that were sent, of 65,535.",
                    "",
                    query("topk(20, max by (uid) (grail_validator_miner_weight{@}))", "uid {{uid}}"),
                    stacked=True,
                ),
                line(
                    "Files",
                    "Drawn files and those that failed, per hour.",
                    "per hour",
                    query("sum(increase(grail_validator_files_checked_total{@}[1h]))", "checked"),
                    query("sum(increase(grail_validator_files_failed_total{@}[1h]))", "failed"),
                ),
                line(
                    "Learning",
                    "Mean reward and share of solved rollouts, as claimed in accepted files.",
                    "reward",
                    query("grail_trainer_window_reward_mean{@}", "reward {{instance}}"),
                    query("grail_trainer_window_success_mean{@}", "success {{instance}}"),
                ),
            ),
        ),
        SURROUNDINGS,
    ),
)

VALIDATOR: Final = Dashboard(
    "validator",
    "GRAIL: validator",
    "What a validator judges, how long it takes, and whether the chain shows its weights.",
    "grail-validator",
    (
        Row(
            "Now",
            (
                ALERTS,
                stat(
                    "Since the last window",
                    "Time since a window was judged.",
                    "seconds",
                    "time() - grail_validator_last_window_timestamp_seconds{@}",
                ),
                stat(
                    "Weights' age",
                    "Since the chain showed new ones.",
                    "blocks",
                    "grail_validator_weights_age_blocks{@}",
                ),
                stat("Permit", "1: this hotkey may set weights.", "yes or no", "grail_validator_permit{@}"),
                stat("Bucket", "1: the own bucket answers.", "yes or no", "grail_storage_reachable{@}"),
            ),
        ),
        Row(
            "Windows",
            (
                line(
                    "Judged",
                    "Windows and rounds per hour.",
                    "per hour",
                    query("increase(grail_validator_windows_judged_total{@}[1h])", "windows {{instance}}"),
                    query("increase(grail_validator_rounds_judged_total{@}[1h])", "rounds {{instance}}"),
                ),
                line(
                    "Lost",
                    "Windows that were not scored, and first sights that were missed, per hour.",
                    "per hour",
                    query("sum by (cause) (increase(grail_validator_windows_lost_total{@}[1h]))", "{{cause}}"),
                    query("increase(grail_validator_first_sights_missed_total{@}[1h])", "first sight {{instance}}"),
                ),
                line(
                    "Time to judge",
                    "Nine in ten windows take at most so long, over six hours.",
                    "seconds",
                    query(
                        "histogram_quantile(0.9, sum by (le) (increase(grail_validator_verify_seconds_bucket{@}[6h])))",
                        "checks",
                    ),
                    query(
                        "histogram_quantile(0.9, sum by (le) (increase(grail_validator_load_seconds_bucket{@}[6h])))",
                        "opening",
                    ),
                ),
                line(
                    "Rollouts",
                    "Rollouts that were measured, per hour.",
                    "per hour",
                    "increase(grail_validator_rollouts_checked_total{@}[1h])",
                ),
                line(
                    "Rejections",
                    "Failed files by check, per hour.",
                    "per hour",
                    query("sum by (check) (increase(grail_validator_rejections_total{@}[1h]))", "{{check}}"),
                    stacked=True,
                ),
                line(
                    "Not judged",
                    "Drawn files that could not be judged here, and tries to read files that failed, per hour.",
                    "per hour",
                    query("increase(grail_validator_inconclusive_total{@}[1h])", "inconclusive {{instance}}"),
                    query("increase(grail_validator_files_not_had_total{@}[1h])", "not had {{instance}}"),
                ),
            ),
        ),
        Row(
            "Chain and store",
            (
                line(
                    "Weights",
                    "Sent, shown, refused and never shown, per day.",
                    "",
                    query("increase(grail_validator_weights_sent_total{@}[1d])", "sent {{instance}}"),
                    query("increase(grail_validator_weights_set_total{@}[1d])", "shown {{instance}}"),
                    query("increase(grail_validator_weights_refused_total{@}[1d])", "refused {{instance}}"),
                    query("increase(grail_validator_weights_missing_total{@}[1d])", "never shown {{instance}}"),
                ),
                line(
                    "Verdicts",
                    "Size of the last verdict and its evidence.",
                    "bytes",
                    query("grail_validator_verdict_bytes{@}", "verdict {{instance}}"),
                    query("grail_validator_evidence_bytes{@}", "evidence {{instance}}"),
                ),
                line(
                    "Model process",
                    "Model processes that were replaced, per day.",
                    "",
                    "increase(grail_validator_model_processes_replaced_total{@}[1d])",
                ),
            ),
        ),
        SURROUNDINGS,
    ),
)
