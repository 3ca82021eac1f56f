"""The metrics of a miner, of how its hotkey stands, and of a node that answers requests. Names are public interface."""

from __future__ import annotations

from typing import Final

from grail_core.telemetry.metrics.metric import From, Label, Metric, table
from grail_core.telemetry.metrics.shared import SEEN, SHARED, counted, gauge, lost, when
from grail_core.verification.examine import CHECKS
from grail_miner.serving.metrics import METRICS as SERVING

MINED: Final = "window_mined"
STANDING: Final = "standing_seen"
STAGE: Final = Label("stage", ("generate", "grade", "prove", "pack", "check", "upload"))
PIPELINE: Final = Label("stage", ("generate", "prove"))
CHECK: Final = Label("check", (*CHECKS, "seal", "replay", "own", "withheld"))
LOST: Final = ("window_skipped", "window_left", "window_empty", "window_withheld", "upload_failed")


def _standing(name: str, field: str, about: str, unit: str = "") -> Metric:
    return gauge(f"grail_miner_standing_{name}", STANDING, field, about, unit)


METRICS: Final = (
    counted("grail_miner_windows_mined_total", MINED, "windows whose file and seal were stored"),
    lost("miner", "windows that this miner has nothing in, by the event that said so", LOST),
    counted("grail_miner_rounds_total", "round_sealed", "rounds of gradient work that were sealed"),
    counted("grail_miner_rollouts_total", MINED, "rollouts in stored files", "rollouts"),
    counted("grail_miner_tokens_total", MINED, "completion tokens in stored files", "tokens", "tokens"),
    Metric(
        "grail_miner_uploaded_bytes_total",
        "counter",
        "bytes of stored files and updates",
        "bytes",
        follows=(From(MINED, "bytes"), From("round_sealed", "bytes")),
    ),
    when(
        "grail_miner_last_window_timestamp_seconds",
        "when a window was last stored, a round sealed, or this miner started",
        *(MINED, "round_sealed", "window_already_mined", "miner_started"),
    ),
    gauge("grail_miner_window_rollouts", MINED, "rollouts", "rollouts of the last stored window"),
    gauge("grail_miner_window_reward", MINED, "reward_mean", "mean reward of its rollouts", "reward"),
    gauge("grail_miner_window_spare_seconds", MINED, "seconds_to_spare", "time between its seal and the deadline", "seconds"),
    Metric(
        "grail_miner_stage_seconds",
        "gauge",
        "time that the threads of a stage were at work on the last stored window",
        "seconds",
        labels=(STAGE,),
        follows=tuple(From(MINED, f"seconds_{stage}", fixed={"stage": stage}) for stage in STAGE.values),
    ),
    Metric(
        "grail_miner_idle_ratio",
        "gauge",
        "share of that time in which a stage had nothing to do",
        "share",
        labels=(PIPELINE,),
        follows=tuple(From(MINED, f"idle_{stage}", fixed={"stage": stage}) for stage in PIPELINE.values),
    ),
    counted("grail_miner_groups_dropped_total", "group_dropped", "groups that were begun and are in no file"),
    counted("grail_miner_engine_failures_total", "engine_failed", "times that the engine failed within a window"),
    counted("grail_miner_proof_workers_replaced_total", "proof_worker_replaced", "proof workers that had to be replaced"),
    gauge("grail_miner_weights_sequence", "weights_rolled", "sequence", "number of the checkpoint that is mined with"),
    gauge("grail_miner_weights_roll_seconds", "weights_rolled", "seconds", "how long the change to it took", "seconds"),
    Metric(
        "grail_miner_withheld_total",
        "counter",
        "own files that were not uploaded, by the check that would have rejected them",
        labels=(CHECK,),
        follows=(From("window_withheld", labels={"check": "check"}),),
    ),
    _standing("validators", "validators", "validators whose newest verdict was read", "validators"),
    _standing("registered", "registered", "1: the hotkey is registered, 0: it is not"),
    _standing("window", "window", "newest window that a validator has judged", "block"),
    _standing("weight_ratio", "weight", "weight in the newest verdicts, their mean by stake", "share"),
    _standing("reward_ratio", "expected", "what those weights come to, of all that miners get", "share"),
    _standing("rejected_ratio", "rejected", "stake whose newest verdict failed this hotkey, of all that was asked", "share"),
    _standing("absent_ratio", "absent", "stake whose newest verdict saw no seal of this hotkey that counts", "share"),
    _standing("unpaid_windows", "unpaid_windows", "windows from now for which a failure makes it worth 0", "windows"),
    _standing("places_before", "places_before", "hotkeys that would lose their UID before it on a full subnet", "hotkeys"),
    _standing("hotkeys", "hotkeys", "registered hotkeys", "hotkeys"),
    Metric(
        "grail_miner_standing_rejections",
        "gauge",
        "validators whose newest verdict rejects by this check",
        "validators",
        labels=(CHECK,),
        follows=(From(STANDING, "rejected_by", each="check"),),
    ),
)

TABLE: Final = table(SHARED, METRICS)
"""What `grail-miner run` exposes."""
NODE_TABLE: Final = table(tuple(one for one in SHARED if SEEN not in {source.event for source in one.follows}), SERVING)
"""What `grail-miner serve` exposes: it takes no part, so nobody looks at what surrounds a participant."""
