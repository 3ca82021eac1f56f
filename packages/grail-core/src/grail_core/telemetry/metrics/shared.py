"""The metrics that every role has: what surrounds it (chain, beacon, checkpoints, own bucket, disk), and what its faults are.

`network_seen` is what `examination.watching` says once a minute, which is not logged each time.
"""

from __future__ import annotations

from typing import Final

from grail_core.telemetry.metrics.metric import From, Label, Metric

SEEN: Final = "network_seen"
FOLDER: Final = Label("folder", ("cache", "state"))
PART: Final = Label("part", ("chain", "beacon", "storage", "checkpoint", "standing", "disk"))
OPERATION: Final = Label("operation", ("upload", "publish", "retention", "window_input"))
_OPERATIONS: Final = {
    "upload_failed": "upload",
    "publish_failed": "publish",
    "retention_failed": "retention",
    "window_input_late": "window_input",
}
STARTED: Final = ("miner_started", "validator_started", "trainer_started", "aggregator_started", "serving")


def _seen(name: str, field: str, about: str, unit: str = "") -> Metric:
    return Metric(name, "gauge", about, unit, follows=(From(SEEN, field),))


SHARED: Final = (
    Metric(
        "grail_role_start_timestamp_seconds",
        "gauge",
        "when this role had joined its network",
        "seconds since 1970",
        follows=tuple(From(event) for event in STARTED),
    ),
    Metric(
        "grail_watch_timestamp_seconds",
        "gauge",
        "when this role last looked at what surrounds it",
        "seconds since 1970",
        follows=(From(SEEN),),
    ),
    Metric(
        "grail_watch_failures_total",
        "counter",
        "looks that could not see this part",
        labels=(PART,),
        follows=(From(SEEN, "failed", each="part"),),
    ),
    _seen("grail_block_seconds", "block_seconds", "how long a block is on this network", "seconds"),
    _seen("grail_window_seconds", "window_seconds", "how long a window, or a round of gradient work, is", "seconds"),
    _seen("grail_chain_head_block", "block", "the newest block that this role's node shows", "block"),
    _seen(
        "grail_chain_head_age_seconds",
        "head_age_seconds",
        "age of that block by this machine's clock; below 0: it is slow",
        "seconds",
    ),
    Metric(
        "grail_chain_endpoint_changes_total",
        "counter",
        "times that a chain endpoint was left for another",
        follows=(From("chain_endpoint_left"),),
    ),
    Metric(
        "grail_chain_heads_doubted_total",
        "counter",
        "blocks of an endpoint that were not believed",
        follows=(From("chain_head_doubted"),),
    ),
    _seen(
        "grail_clock_skew_seconds",
        "clock_skew_seconds",
        "by how much this machine's clock is ahead of the beacon's relays (behind: below 0); 0 within what they can show",
        "seconds",
    ),
    _seen(
        "grail_beacon_lag_seconds",
        "beacon_lag_seconds",
        "age of the newest beacon round that was verified here, beyond the beacon's period",
        "seconds",
    ),
    Metric(
        "grail_beacon_late_rounds_total",
        "counter",
        "rounds that a role waited for longer than it should",
        follows=(From("beacon_late"),),
    ),
    _seen("grail_checkpoint_sequence", "checkpoint_sequence", "number of the newest checkpoint seen"),
    _seen(
        "grail_checkpoint_age_windows",
        "checkpoint_age_windows",
        "windows since the newest checkpoint came into force; below 0: it will",
        "windows",
    ),
    _seen(
        "grail_checkpoint_silence_windows",
        "silence_windows",
        "the age in windows at which this network's trainer counts as silent",
        "windows",
    ),
    _seen(
        "grail_trainer_silent_windows",
        "silent_windows",
        "windows that the trainer has been silent; 0: it is not",
        "windows",
    ),
    Metric(
        "grail_upgrade_windows",
        "gauge",
        "windows until a version of the protocol holds that this software does not know; below 0: it was withdrawn",
        "windows",
        follows=(From("upgrade_announced", "windows_left"), From("upgrade_withdrawn", "windows_left")),
    ),
    _seen("grail_storage_reachable", "storage_reachable", "1: the own bucket answered at the last look, 0: it did not"),
    _seen("grail_storage_answer_seconds", "storage_seconds", "how long that answer took", "seconds"),
    Metric(
        "grail_storage_errors_total",
        "counter",
        "reads and writes that failed in the end, by what they were for (window_input: of a chain or beacon too)",
        labels=(OPERATION,),
        follows=tuple(From(event, fixed={"operation": name}) for event, name in _OPERATIONS.items()),
    ),
    Metric(
        "grail_disk_free_bytes",
        "gauge",
        "room on the disk of GRAIL_CACHE_DIR and GRAIL_STATE_DIR",
        "bytes",
        labels=(FOLDER,),
        follows=(From(SEEN, "disk_free", each="folder"),),
    ),
    Metric(
        "grail_monitoring_unavailable_total",
        "counter",
        "back-ends of monitoring that could not be opened or ended by themselves",
        follows=(From("monitoring_unavailable"),),
    ),
)


def lost(role: str, about: str, causes: tuple[str, ...]) -> Metric:
    """Windows that came to nothing, by the event that said so."""
    return Metric(
        f"grail_{role}_windows_lost_total",
        "counter",
        about,
        labels=(Label("cause", causes),),
        follows=tuple(From(event, fixed={"cause": event}) for event in causes),
    )


def counted(name: str, event: str, about: str, field: str = "", unit: str = "") -> Metric:
    """A counter of one event, or of one of its fields."""
    return Metric(name, "counter", about, unit, follows=(From(event, field),))


def gauge(name: str, event: str, field: str, about: str, unit: str = "") -> Metric:
    """A field of an event, as it was last."""
    return Metric(name, "gauge", about, unit, follows=(From(event, field),))


def when(name: str, about: str, *events: str) -> Metric:
    """When one of these events came last."""
    return Metric(name, "gauge", about, "seconds since 1970", follows=tuple(From(event) for event in events))
