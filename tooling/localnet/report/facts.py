"""What a run left behind, as typed values: the input of the summary and of the report.

`collect.py` reads them from the validators' buckets, the trainer's bucket, the chain and the roles' event files; a test
builds them by hand. No decision of the protocol is repeated here: outcomes, counts and reasons are the ones the
validators signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MinerIdentity:
    name: str  # miner-1
    hotkey: str  # ss58
    uid: int
    strategy: str  # honest, or the name of a cheat


@dataclass(frozen=True)
class RejectFact:
    """One finding with outcome reject, as signed. `value` and `threshold` are the validator's own text or numbers."""

    validator: str
    window: int
    miner: str
    check: str
    value: str
    threshold: str
    detail: str


@dataclass(frozen=True)
class MinerWindowFact:
    """One miner in one window, as the first validator that judged it signed."""

    window: int
    miner: str
    outcome: str  # accepted | failed | inconclusive | absent | not_selected
    declared: int
    unique_valid: int
    reason: str  # "" where there is nothing to say


@dataclass(frozen=True)
class WindowFact:
    """One window over all validators."""

    window: int
    index: int  # 0 for the first of the run
    judged_by: tuple[str, ...]  # validators
    missed_by: dict[str, str]  # validator → why
    bodies_equal: bool | None  # None: fewer than two judged it
    rows_announced: int
    rows_verified: int  # counted valid
    scores_compared: bool = True  # False: a validator missed a window before, so its scores and weights are its own


@dataclass(frozen=True)
class CheckpointFact:
    valid_from: int
    sequence: int
    kind: str  # FULL | DELTA; a DELTA that has a FULL beside it carries both sizes
    full_bytes: int | None
    delta_bytes: int | None
    changed_share: float | None  # of the weights, None where the manifest does not say


@dataclass(frozen=True)
class AlarmFact:
    name: str
    action: str  # tell | slow | undo | stop
    reason: str


@dataclass(frozen=True)
class TrainingFact:
    window: int
    groups: int
    reward_mean: float | None
    success_mean: float | None
    seconds_train: float | None
    valid_from: int | None  # the checkpoint this window produced
    metrics: Mapping[str, float] = field(default_factory=dict)  # of `grail_trainer.metrics.METRICS`, those that were told
    alarms: tuple[AlarmFact, ...] = ()


@dataclass(frozen=True)
class EvaluationFact:
    """Held-out problems with fixed seeds. Shares in 0 … 1; errors are standard errors of the mean."""

    label: str
    valid_from: int | None
    window_index: int  # windows of training the checkpoint has seen
    problems: int
    success: float
    success_error: float
    well_formed: float
    well_formed_error: float
    constant: float  # success of the best constant answer on the same problems


@dataclass(frozen=True)
class WeightFact:
    """What a validator had on the chain after `block`: shares of all weight by UID, adding up to 1 where any is set."""

    block: int
    validator: str
    shares: dict[int, float]


@dataclass(frozen=True)
class PhaseFact:
    """One timed phase of one process in one window."""

    window: int
    process: str
    role: str
    phase: str
    seconds: float


@dataclass(frozen=True)
class ProcessFact:
    name: str
    role: str
    restarts: int
    exit_codes: tuple[int, ...]
    killed_on_purpose: int = 0


@dataclass(frozen=True)
class NotWaitedFact:
    """A role that held the virtual clock until patience was at its end."""

    role: str  # process name
    task: str  # what it was to do, in words: "mine", "judge" …
    window: int | None
    block: int  # where the clock stood
    seconds: float  # of real time that it was waited for

    def __str__(self) -> str:
        what = self.task if self.window is None else f"{self.task} window {self.window}"
        return f"{self.role} was not waited for any longer to {what}: {self.seconds:.0f} s at block {self.block}"


@dataclass(frozen=True)
class ParameterFact:
    name: str
    subnet_81: str
    here: str


@dataclass(frozen=True)
class RunFacts:
    """Everything about one run."""

    env_id: str
    seed: int
    quick: bool
    model: str
    windows_asked: int
    first_window: int | None
    block_time_ms: int
    started_at: str  # ISO 8601, UTC
    seconds_total: float
    finished: bool
    why_unfinished: str
    miners: tuple[MinerIdentity, ...]
    validators: tuple[str, ...]
    windows: tuple[WindowFact, ...] = ()
    miner_windows: tuple[MinerWindowFact, ...] = ()
    rejects: tuple[RejectFact, ...] = ()
    checkpoints: tuple[CheckpointFact, ...] = ()
    training: tuple[TrainingFact, ...] = ()
    evaluations: tuple[EvaluationFact, ...] = ()
    control: EvaluationFact | None = None
    weights: tuple[WeightFact, ...] = ()
    phases: tuple[PhaseFact, ...] = ()
    processes: tuple[ProcessFact, ...] = ()
    not_waited: tuple[NotWaitedFact, ...] = ()
    unenforced: tuple[str, ...] = ()  # pooled statistics that verdicts report and do not act on: no table covers the model
    real_time: bool = False  # blocks came by the wall clock
    seconds_in_windows: float = 0.0  # real time, from the first window's beginning to the end of the last
    parameters: tuple[ParameterFact, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    command: str = ""
    parameters_total: int | None = None  # weights of the model
