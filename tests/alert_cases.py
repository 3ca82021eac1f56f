"""For each alert, series as promtool writes them (`0+1x5`: 0, 1, … 5 a minute apart) in which it fires, and in which not.

Each test looks two hours after the beginning. A gauge of a time has seconds since 1970, and promtool's clock begins in 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

Series = Mapping[str, str]
_LONG: Final = "x130"


@dataclass(frozen=True)
class Case:
    """`labels`: what the alert has beside job, instance and severity."""

    fires: tuple[Series, ...]
    quiet: tuple[Series, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    job: str = "grail-miner"


def always(value: float) -> str:
    return f"{value}+0{_LONG}"


def one_step_at(minute: int) -> str:
    """A counter that is 0, and 1 from this minute on."""
    return f"0+0x{minute - 1} 1+0{_LONG}"


def gauge(name: str, wrong: float, right: float) -> Case:
    return Case(({name: always(wrong)},), ({name: always(right)}, {name: f"{wrong}+0x60 {right}+0{_LONG}"}))


def counter(name: str, job: str = "grail-miner", labels: Mapping[str, str] | None = None) -> Case:
    """It fires within an hour of a step, and not of one that is longer ago, or where none was."""
    return Case(({name: one_step_at(110)},), ({name: always(5)}, {name: one_step_at(20)}), labels or {}, job)


_WINDOW: Final = {"grail_window_seconds": always(360)}
_STARTED: Final = "grail_role_start_timestamp_seconds"
_UNSEEN_CHAIN: Final = 'grail_watch_failures_total{part="chain"}'
_PLACES: Final = "grail_miner_standing_places_before"

CASES: Final[Mapping[str, Case]] = {
    "GrailMinerRejected": gauge("grail_miner_standing_rejected_ratio", 0.2, 0),
    "GrailMinerDangerZone": gauge("grail_miner_standing_unpaid_windows", 3, 0),
    "GrailMinerNearDeregistration": Case(
        ({_PLACES: always(3), "grail_miner_standing_hotkeys": always(256)},),
        (
            {_PLACES: always(100), "grail_miner_standing_hotkeys": always(256)},
            {_PLACES: always(3), "grail_miner_standing_hotkeys": always(12)},
        ),
    ),
    "GrailMinerAbsent": gauge("grail_miner_standing_absent_ratio", 0.9, 0.1),
    "GrailMinerWithheld": counter('grail_miner_withheld_total{check="proof"}', labels={"check": "proof"}),
    "GrailCheckpointStale": Case(
        (
            {"grail_checkpoint_age_windows": always(5), "grail_checkpoint_silence_windows": always(10)},
            {"grail_checkpoint_age_windows": always(12), "grail_checkpoint_silence_windows": always(10)},
            {'grail_watch_failures_total{part="checkpoint"}': "0+1x130"},  # none was ever seen
        ),
        (
            {'grail_watch_failures_total{part="checkpoint"}': one_step_at(115)},
            {"grail_checkpoint_age_windows": always(2), "grail_checkpoint_silence_windows": always(10)},
            {"grail_checkpoint_age_windows": always(8), "grail_checkpoint_silence_windows": always(40)},
        ),
    ),
    "GrailTrainerSilent": gauge("grail_trainer_silent_windows", 10, 0),
    "GrailClockSkew": Case(
        (
            {"grail_clock_skew_seconds": always(-30)},
            {"grail_clock_skew_seconds": always(12)},
            {"grail_chain_head_age_seconds": always(-6)},
        ),
        ({"grail_clock_skew_seconds": always(0), "grail_chain_head_age_seconds": always(11)},),
    ),
    "GrailBeaconLag": Case(
        ({"grail_beacon_lag_seconds": always(31)}, {'grail_watch_failures_total{part="beacon"}': f"0+1{_LONG}"}),
        ({"grail_beacon_lag_seconds": always(2)}, {'grail_watch_failures_total{part="beacon"}': one_step_at(115)}),
    ),
    "GrailChainBehind": Case(
        (
            {"grail_chain_head_age_seconds": always(121), "grail_block_seconds": always(12)},
            {'grail_watch_failures_total{part="chain"}': f"0+1{_LONG}"},
        ),
        ({"grail_chain_head_age_seconds": always(30), "grail_block_seconds": always(12)},),
    ),
    "GrailStorageErrors": Case(
        ({'grail_storage_errors_total{operation="upload"}': one_step_at(110)},),
        (
            {'grail_storage_errors_total{operation="upload"}': one_step_at(60)},
            {'grail_storage_errors_total{operation="window_input"}': one_step_at(110)},
        ),
        {"operation": "upload"},
    ),
    "GrailStorageUnreachable": gauge("grail_storage_reachable", 0, 1),
    "GrailRoleStuck": Case(
        (
            {"grail_miner_last_window_timestamp_seconds": always(5_000), **_WINDOW},
            {"grail_validator_last_window_timestamp_seconds": always(5_000), **_WINDOW},
            {"grail_trainer_last_decision_timestamp_seconds": always(5_000), **_WINDOW},
        ),
        (
            {"grail_miner_last_window_timestamp_seconds": always(7_000), **_WINDOW},
            {"grail_miner_last_window_timestamp_seconds": always(6_000), "grail_window_seconds": always(3_600)},
        ),
    ),
    "GrailWindowLost": Case(
        (
            {'grail_miner_windows_lost_total{cause="window_skipped"}': one_step_at(110)},
            {'grail_validator_windows_lost_total{cause="window_skipped"}': one_step_at(110)},
            {'grail_trainer_windows_lost_total{cause="window_skipped"}': one_step_at(110)},
        ),
        ({'grail_miner_windows_lost_total{cause="window_skipped"}': one_step_at(20)},),
        {"cause": "window_skipped"},
    ),
    "GrailFirstSightMissed": counter("grail_validator_first_sights_missed_total", "grail-validator"),
    "GrailWeightsNotSet": Case(
        (
            {"grail_validator_weights_age_blocks": always(1_100), "grail_validator_weights_interval_blocks": always(360)},
            {"grail_validator_weights_missing_total": one_step_at(60)},
        ),
        (
            {"grail_validator_weights_age_blocks": always(400), "grail_validator_weights_interval_blocks": always(360)},
            {"grail_validator_weights_missing_total": always(2)},
        ),
        job="grail-validator",
    ),
    "GrailNotRegistered": Case(
        ({"grail_miner_standing_registered": always(0)}, {"grail_validator_permit": always(0)}),
        ({"grail_miner_standing_registered": always(1), "grail_validator_permit": always(1)},),
    ),
    "GrailTrainingAlarm": counter('grail_trainer_alarms_total{alarm="kl"}', "grail-trainer", {"alarm": "kl"}),
    "GrailDiskRoom": Case(
        ({'grail_disk_free_bytes{folder="cache"}': always(1_000_000_000)},),
        ({'grail_disk_free_bytes{folder="cache"}': always(50_000_000_000)},),
        {"folder": "cache"},
    ),
    "GrailUpgradeDue": gauge("grail_upgrade_windows", 12, -1),
    "GrailWatchBlind": Case(
        (
            {"grail_watch_timestamp_seconds": always(6_000)},
            {_STARTED: always(6_000), _UNSEEN_CHAIN: always(0)},  # the first look has not come back
        ),
        (
            {"grail_watch_timestamp_seconds": always(7_190)},
            {"grail_watch_timestamp_seconds": always(7_190), _STARTED: always(1), _UNSEEN_CHAIN: always(0)},
            {_STARTED: always(7_000), _UNSEEN_CHAIN: always(0)},
            {_STARTED: always(1)},  # a node, at whose surroundings nobody looks
        ),
    ),
    "GrailRoleDown": gauge("up", 0, 1),
}
