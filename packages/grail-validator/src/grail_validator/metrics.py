"""The metrics of a validator. Names are public interface."""

from __future__ import annotations

from typing import Final

from grail_core.protocol.verdicts import MinerStatus
from grail_core.telemetry.metrics.metric import UID, From, Label, Metric, table
from grail_core.telemetry.metrics.shared import SEEN, SHARED, counted, gauge, lost, when
from grail_core.verification.examine import CHECKS

JUDGED: Final = "window_judged"
CHECK: Final = Label("check", (*CHECKS, "seal", "replay", "own", "withheld"))
STATUS: Final = Label("status", tuple(status.value for status in MinerStatus))
LOST: Final = ("window_not_scored", "round_not_scored")
_JUDGED_EITHER: Final = (JUDGED, "round_judged")
_SECONDS: Final = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 600.0)


def _either(field: str, each: str = "") -> tuple[From, ...]:
    return tuple(From(event, field, each=each) for event in _JUDGED_EITHER)


METRICS: Final = (
    counted("grail_validator_windows_judged_total", JUDGED, "windows that were scored"),
    counted("grail_validator_rounds_judged_total", "round_judged", "rounds of gradient work that were scored"),
    lost("validator", "windows and rounds that were not scored, by the event that said so", LOST),
    when(
        "grail_validator_last_window_timestamp_seconds",
        "when a window or round was last judged, or this validator started",
        *(*_JUDGED_EITHER, *LOST, "validator_started"),
    ),
    gauge("grail_validator_last_window", JUDGED, "window", "the newest window that was judged", "block"),
    gauge("grail_validator_registered_hotkeys", "first_sight", "registered", "registered hotkeys at first sight", "hotkeys"),
    gauge("grail_validator_seals_seen", "first_sight", "seen", "seals that were there in time", "seals"),
    gauge("grail_validator_seals_late", "first_sight", "late", "seals that came too late", "seals"),
    counted("grail_validator_first_sights_missed_total", "first_sight_missed", "windows whose seals nobody here saw in time"),
    Metric("grail_validator_files_checked_total", "counter", "drawn files", follows=_either("checked")),
    Metric("grail_validator_files_failed_total", "counter", "of these, those that failed", follows=_either("failed")),
    counted("grail_validator_rollouts_checked_total", JUDGED, "rollouts that were measured", "rollouts_checked"),
    Metric(
        "grail_validator_rejections_total",
        "counter",
        "files that failed, by each check that rejects (withheld: the file was not to be had)",
        labels=(CHECK,),
        follows=_either("rejected_by", "check"),
    ),
    Metric(
        "grail_validator_miners",
        "gauge",
        "registered hotkeys of the last window, by what became of them",
        "hotkeys",
        labels=(STATUS,),
        follows=_either("statuses", "status"),
    ),
    counted("grail_validator_inconclusive_total", "inconclusive_again", "drawn files that could not be judged here"),
    Metric(
        "grail_validator_verify_seconds",
        "histogram",
        "all checks of a window or round, without waiting",
        "seconds",
        follows=_either("seconds_verify"),
        buckets=_SECONDS,
    ),
    Metric(
        "grail_validator_load_seconds",
        "histogram",
        "opening a window and loading its checkpoint",
        "seconds",
        follows=(From(JUDGED, "seconds_load"),),
        buckets=_SECONDS,
    ),
    counted("grail_validator_verdicts_published_total", "verdict_published", "verdicts that were stored"),
    gauge("grail_validator_verdict_bytes", "verdict_published", "bytes", "size of the last one", "bytes"),
    gauge("grail_validator_evidence_bytes", "verdict_published", "evidence_bytes", "size of its evidence", "bytes"),
    counted("grail_validator_files_not_had_total", "file_not_had", "tries to read a drawn file that failed"),
    counted(
        "grail_validator_model_processes_replaced_total", "model_process_replaced", "model processes that had to be replaced"
    ),
    Metric(
        "grail_validator_miner_weight",
        "gauge",
        "weight that was sent to the chain, of 65,535",
        labels=(UID,),
        follows=(From("weights_sent", "weights", each="uid"),),
    ),
    counted("grail_validator_weights_sent_total", "weights_sent", "times that weights were sent to the chain"),
    counted("grail_validator_weights_set_total", "weights_set", "times that the chain then showed them"),
    counted("grail_validator_weights_refused_total", "weights_refused", "tries that the chain refused"),
    counted("grail_validator_weights_missing_total", "weights_not_on_chain", "sent weights that the chain never showed"),
    gauge("grail_validator_weights_age_blocks", SEEN, "weights_age_blocks", "blocks since it last set weights", "blocks"),
    gauge("grail_validator_weights_interval_blocks", SEEN, "weight_interval", "blocks after which weights are due", "blocks"),
    gauge("grail_validator_permit", SEEN, "permit", "1: this hotkey may set weights, 0: it may not"),
)

TABLE: Final = table(SHARED, METRICS)
"""What `grail-validator run` exposes."""
