"""The alerts: what is wrong, how it is seen in the metrics and by a doctor, what it means, and what to do.

One table, from which Prometheus' rules and the page docs/monitoring.md are made and by whose names and actions `doctor --watch`
speaks. Expressions name metrics of the roles' tables (a test holds them to these) and compare within one instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["critical", "warning"]
"""critical: work or pay is being lost. warning: it will be, or somebody should look."""


@dataclass(frozen=True)
class Alert:
    """`lasting`: for how long the expression must hold ("0m": at once).

    `findings`: what of a doctor's says the same, as (section, name), "" for every name of a section. `standing`: the field of
    `standing_seen` that is above 0 while it holds.
    """

    name: str
    expression: str
    lasting: str
    severity: Severity
    roles: tuple[str, ...]
    means: str
    action: str
    findings: tuple[tuple[str, str], ...] = ()
    standing: str = ""


_MINER, _VALIDATOR, _TRAINER = ("miner",), ("validator",), ("trainer",)
_ALL: Final = (*_MINER, *_VALIDATOR, *_TRAINER)
STALE_SHARE: Final = 2
"""A checkpoint is stale once it is half as old as a trainer's silence."""
BEACON_LAG_S: Final = 30
CLOCK_SKEW_S: Final = 10
CHAIN_BEHIND_S: Final = 5
DISK_ROOM: Final = 5_000_000_000
LAST_PLACES: Final = 10
FULL_SUBNET: Final = 240


def _stuck(role: str, metric: str) -> str:
    return f"time() - grail_{role}_{metric}_timestamp_seconds > 3 * grail_window_seconds"


def _any_of(*expressions: str) -> str:
    return " or ".join(f"({one})" for one in expressions)


def _unseen(part: str) -> str:
    """Five looks in ten minutes that could not see it: gauges of it are old, or were never there."""
    return f'max by (job, instance) (increase(grail_watch_failures_total{{part="{part}"}}[10m])) > 4'


_NEVER_LOOKED: Final = (
    "time() - grail_role_start_timestamp_seconds > 600 unless on (job, instance) grail_watch_timestamp_seconds "
    "and on (job, instance) grail_watch_failures_total"
)
"""Of roles at whose surroundings somebody looks: they have the counter from the beginning."""


def _lost(role: str) -> str:
    return f"increase(grail_{role}_windows_lost_total[1h])"


ALERTS: Final = (
    Alert(
        "GrailMinerRejected",
        "grail_miner_standing_rejected_ratio > 0",
        "0m",
        "critical",
        _MINER,
        "A validator's newest verdict says that a file of this miner failed; it is worth 0 there until its look-back is over, "
        "for which GrailMinerDangerZone lasts. This alert ends with the next verdict, and tells nothing of a mend.",
        "`grail status` names the window, and `grail explain` with its number says by which check and with which numbers "
        "(`latest` soon is a later one). Hold the next file against `grail-miner check` before it goes up (docs/debugging.md).",
        standing="rejected",
    ),
    Alert(
        "GrailMinerDangerZone",
        "grail_miner_standing_unpaid_windows > 0",
        "0m",
        "warning",
        _MINER,
        "A failure is inside its look-back: this hotkey is worth 0 for so many windows more, and another one begins them anew.",
        "`grail status` counts the windows and names the one that failed, `grail explain` with its number says why. Mine on "
        "only with what `grail-miner doctor` and `grail-miner check` find nothing wrong with.",
        standing="unpaid_windows",
    ),
    Alert(
        "GrailMinerNearDeregistration",
        f"grail_miner_standing_places_before < {LAST_PLACES} and grail_miner_standing_hotkeys >= {FULL_SUBNET}",
        "30m",
        "critical",
        _MINER,
        f"Fewer than {LAST_PLACES} hotkeys would lose their UID before this one, and the subnet is all but full.",
        "`grail status` shows weight and rank. Find out why it earns little: windows lost, few rollouts, failures "
        "(docs/pay.md).",
    ),
    Alert(
        "GrailMinerAbsent",
        "grail_miner_standing_absent_ratio > 0.5",
        "15m",
        "critical",
        _MINER,
        "Most of the stake saw no seal of this miner that counts: it was not there at first sight, too late, or refused.",
        "`grail explain latest` says which. Look at GrailWindowLost and at the time to spare (`seconds_to_spare` of "
        "`window_mined`); `grail storage doctor` tries the bucket as others read it.",
        standing="absent",
    ),
    Alert(
        "GrailMinerWithheld",
        "increase(grail_miner_withheld_total[1h]) > 0",
        "0m",
        "critical",
        _MINER,
        "This miner's own check found that a validator would reject its file, and did not upload it.",
        "The event `window_withheld` names check, group and rollout. `grail-miner conformance` tries the engine, "
        "`grail-miner doctor` the machine.",
    ),
    Alert(
        "GrailCheckpointStale",
        _any_of(f"grail_checkpoint_age_windows >= grail_checkpoint_silence_windows / {STALE_SHARE}", _unseen("checkpoint")),
        "5m",
        "warning",
        _ALL,
        "No checkpoint has come into force for half of what counts as a trainer's silence, or none can be seen here.",
        "Work goes on with the one in force. Compare with `grail checkpoint show`, which reads the trainer's bucket anew; the "
        "trainer's operator looks at GrailRoleStuck there.",
        findings=(("checkpoint", "checkpoint"),),
    ),
    Alert(
        "GrailTrainerSilent",
        "grail_trainer_silent_windows > 0",
        "0m",
        "warning",
        _ALL,
        "The trainer has published nothing for as long as counts as silence. Others go on with what is in force.",
        "Nothing on a miner or validator. On the trainer: its log's `window_not_trained`, `publish_failed` and "
        "`training_alarm` say why.",
        findings=(("checkpoint", "trainer"),),
    ),
    Alert(
        "GrailClockSkew",
        _any_of(f"abs(grail_clock_skew_seconds) > {CLOCK_SKEW_S}", f"grail_chain_head_age_seconds < -{CHAIN_BEHIND_S}"),
        "2m",
        "critical",
        _ALL,
        "This machine's clock differs from the beacon's relays or from the chain: deadlines and rounds are missed by it.",
        "Set the clock by NTP (`timedatectl`, `chronyc tracking`), then `grail beacon doctor`.",
        findings=(("chain", "clock"), ("beacon", "clock")),
    ),
    Alert(
        "GrailBeaconLag",
        _any_of(f"grail_beacon_lag_seconds > {BEACON_LAG_S}", _unseen("beacon")),
        "3m",
        "critical",
        _ALL,
        "No relay shows a beacon round that is young enough: windows cannot be opened without it.",
        "`grail beacon doctor` asks each relay of GRAIL_BEACON_URLS; add one that answers, or look at this machine's way out.",
        findings=(("beacon", "beacon"),),
    ),
    Alert(
        "GrailChainBehind",
        _any_of("grail_chain_head_age_seconds > 10 * grail_block_seconds", _unseen("chain")),
        "5m",
        "critical",
        _ALL,
        "The newest block that this role's node shows is old, or there is none: it is behind or cut off, or the clock is fast.",
        "Put a second endpoint into BT_CHAIN_ENDPOINT; `grail-miner doctor` (or that of the role) asks chain and clock.",
        findings=(("chain", "chain"),),
    ),
    Alert(
        "GrailStorageErrors",
        'sum by (job, instance, operation) (increase(grail_storage_errors_total{operation!="window_input"}[30m])) > 0',
        "0m",
        "warning",
        _ALL,
        "Something could not be stored or deleted in the own bucket within its time.",
        "The log's `upload_failed`, `publish_failed` or `retention_failed` has the store's answer; `grail storage doctor` "
        "tries keys, clock and rights.",
    ),
    Alert(
        "GrailStorageUnreachable",
        "grail_storage_reachable == 0",
        "3m",
        "critical",
        _ALL,
        "The own bucket does not answer: nothing that this role makes gets out.",
        "`grail storage doctor`; then the provider's status, this machine's way out and the keys' validity.",
        findings=(("bucket", ""),),
    ),
    Alert(
        "GrailRoleStuck",
        _any_of(
            _stuck("miner", "last_window"),
            _stuck("validator", "last_window"),
            _stuck("trainer", "last_decision"),
        ),
        "2m",
        "critical",
        _ALL,
        "For three windows this role has finished none, or none that came to anything.",
        "Its log's last lines say what it waits for (`window_input_late`, `window_skipped`, `engine_loading`); the role's "
        "`doctor` asks everything at once.",
    ),
    Alert(
        "GrailWindowLost",
        "sum by (job, instance, cause) (" + _any_of(_lost("miner"), _lost("validator"), _lost("trainer")) + ") > 0",
        "0m",
        "warning",
        _ALL,
        "A window came to nothing; `cause` is the event that said so.",
        "That event's `reason` says why. One now and then, at a restart or with a late checkpoint, costs little; several want "
        "their reason mended.",
    ),
    Alert(
        "GrailFirstSightMissed",
        "increase(grail_validator_first_sights_missed_total[1h]) > 0",
        "0m",
        "critical",
        _VALIDATOR,
        "This validator saw no seals of a window in time, and cannot judge it by itself.",
        "It was down, or no store answered in the blocks after the deadline: look at its network and at the log of those "
        "minutes.",
    ),
    Alert(
        "GrailWeightsNotSet",
        _any_of(
            "grail_validator_weights_age_blocks > 3 * grail_validator_weights_interval_blocks",
            "increase(grail_validator_weights_missing_total[1d]) > 0",
        ),
        "10m",
        "critical",
        _VALIDATOR,
        "The chain does not show this validator's weights: it loses trust and dividends, and its miners their pay.",
        "The log's `weights_refused` or `weights_not_on_chain` has the chain's answer: permit, stake, rate limit, or the "
        "endpoint (docs/operations.md).",
    ),
    Alert(
        "GrailNotRegistered",
        _any_of("grail_miner_standing_registered == 0", "grail_validator_permit == 0"),
        "5m",
        "critical",
        (*_MINER, *_VALIDATOR),
        "The hotkey is not registered any more, or (a validator) may not set weights.",
        "The role's `doctor` prints the line that registers it; a permit comes with stake.",
        findings=(("chain", "registration"), ("chain", "permit")),
    ),
    Alert(
        "GrailTrainingAlarm",
        "increase(grail_trainer_alarms_total[1h]) > 0",
        "0m",
        "warning",
        _TRAINER,
        "An update was suspicious; `alarm` says in what.",
        "docs/trainer.md (Alarms) has the row of each alarm, its action and what it is typical of.",
    ),
    Alert(
        "GrailDiskRoom",
        f"grail_disk_free_bytes < {DISK_ROOM}",
        "10m",
        "warning",
        _ALL,
        "Less than 5 GB are free where checkpoints, files or state are kept; a role whose disk is full ends.",
        "Lower GRAIL_CHECKPOINT_CACHE_GIB or GRAIL_FILE_CACHE_GIB, or give the folder more room; everything in "
        "GRAIL_CACHE_DIR can be fetched again.",
        findings=(("disk", ""),),
    ),
    Alert(
        "GrailUpgradeDue",
        "grail_upgrade_windows >= 0",
        "0m",
        "warning",
        _ALL,
        "The trainer has announced a version of the protocol that this software does not know; the role ends where it begins.",
        "Upgrade before then: the event `upgrade_announced` has the line to type and the block.",
        findings=(("checkpoint", "protocol"),),
    ),
    Alert(
        "GrailWatchBlind",
        _any_of("time() - grail_watch_timestamp_seconds > 600", _NEVER_LOOKED),
        "0m",
        "warning",
        _ALL,
        "The role's endpoint answers, and what looks at its surroundings has not looked for ten minutes: gauges are old.",
        "Restart the role at a quiet moment, and report its log.",
    ),
    Alert(
        "GrailRoleDown",
        'up{job=~"grail-.*"} == 0',
        "5m",
        "critical",
        _ALL,
        "Prometheus cannot read this role's metrics: it has ended, or its endpoint is not where prometheus.yaml says.",
        "Look whether the process runs and what its log ends with; GRAIL_METRICS_ADDRESS and GRAIL_METRICS_PORT say where it "
        "listens.",
    ),
)


def alert_of(section: str, name: str) -> Alert | None:
    """The alert that says the same as a doctor's finding."""
    exact = (alert for alert in ALERTS if (section, name) in alert.findings)
    return next(exact, next((alert for alert in ALERTS if (section, "") in alert.findings), None))
