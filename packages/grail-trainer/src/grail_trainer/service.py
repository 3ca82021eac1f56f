"""The trainer's window loop, as one would draw it on a whiteboard.

wait for the verdicts → take what most of the stake accepted → verify every rollout again → update → publish the checkpoint →
publish the training log. Windows are decided in order, each once, and the decision is on disk before anything is published;
so a trainer killed anywhere learns from nothing twice and loses nothing.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.environment import Environment
from grail_core.errors import BeaconError, ChainError, CheckpointError, DiskFullError, StorageError
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.context import WindowContext
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_core.telemetry import get_logger
from grail_trainer.batch import TrainingBatch, build_batch
from grail_trainer.grpo import GrpoSettings, UpdateStatistics, update
from grail_trainer.intake import Intake, VerdictReader
from grail_trainer.optimiser import Masters, state_digest
from grail_trainer.publication import Publisher
from grail_trainer.state import Learned, TrainerState

log = get_logger(__name__)

_RETRY_SECONDS = 1.0
LOG_VERSION = 1


@dataclass
class TrainerService:
    """Learns from windows one after the other until stopped or `windows` of them are decided.

    `masters` and `state` belong together: `start.py` has brought the one to where the other says.
    """

    participant: Participant
    masters: Masters
    state: TrainerState
    publisher: Publisher
    verdicts: VerdictReader
    checkpoint: LiveCheckpoint  # of the behaviour policy
    environment_of: Callable[[CheckpointManifest], Environment]
    settings: GrpoSettings
    most_groups: int = 64
    reference: Any | None = None  # for the KL term

    def run(self, stop: threading.Event, windows: int | None = None) -> int:
        """Returns how many windows were learned from, in all starts of this trainer together."""
        first = self.publisher.view().stored[0].manifest.valid_from
        last = None if windows is None else Window(first + (windows - 1) * WINDOW_LENGTH)
        self._publish_pending(stop, last)
        for window in self._windows(last):
            batch = self._collect(window, stop)
            if batch is None:
                break
            if batch.groups:
                self._learn(window, batch)
                self._publish_pending(stop, last)
            else:
                self.state.passed_over(window)
            if stop.is_set():
                break
        return self.state.journal.learned if self.state.journal else 0

    def _windows(self, last: Window | None) -> Iterator[Window]:
        """Every window after the last decided one."""
        while self.state.journal is not None:
            window = Window(self.state.journal.decided + WINDOW_LENGTH)
            if last is not None and window > last:
                return
            yield window

    # --- collect ------------------------------------------------------------------------------------------------------

    def _collect(self, window: Window, stop: threading.Event) -> TrainingBatch | None:
        """Verified groups of a window; empty, with an event that says why, where there are none; None if stopped."""
        intake = self.verdicts.wait(window, stop)
        if intake is None:
            return None
        if not intake.files:
            return self._nothing(window, intake.reason)
        context = self._open(window, stop)
        if context is None:
            return None
        if isinstance(context, str):
            return self._nothing(window, context)
        start = time.perf_counter()
        try:
            loaded = self.checkpoint.at(context.manifest)
            environment = self.environment_of(context.manifest)
        except CheckpointError as error:
            return self._nothing(window, f"the behaviour checkpoint cannot be had: {error.what}")
        batch = build_batch(intake.files, context, loaded, environment, most_groups=self.most_groups, stopping=stop.is_set)
        if stop.is_set():
            return None
        for dropped in batch.dropped:
            log.event("group_dropped", window=window, hotkey=ss58(dropped.hotkey), group=dropped.group, reason=dropped.reason)
        self._intake, self._seconds_verify = intake, time.perf_counter() - start
        return batch if batch.groups else self._nothing(window, "no group that varies passed this trainer's own checks")

    def _open(self, window: Window, stop: threading.Event) -> WindowContext | str | None:
        """The window's context; why it cannot be had; None if stopped."""
        while not stop.is_set():
            try:
                return self.participant.open_window(window)
            except CheckpointError as error:
                return f"no valid checkpoint: {error.what}"
            except (BeaconError, ChainError, StorageError) as error:
                if self.participant.chain.current_block() > self.participant.times(window).void_block:
                    return f"an input could not be had: {error.what}"
                log.event("window_input_late", window=window, reason=error.what)
                stop.wait(_RETRY_SECONDS)
        return None

    def _nothing(self, window: Window, reason: str) -> TrainingBatch:
        log.event("window_not_trained", window=window, reason=reason)
        return TrainingBatch()

    # --- learn --------------------------------------------------------------------------------------------------------

    def _learn(self, window: Window, batch: TrainingBatch) -> None:
        """Update the masters, and put the result on disk together with what is to be published of it."""
        policy = self.publisher.view().stored[0].manifest.policy
        before, cast = self.masters.tensors(), self.masters.published()
        start = time.perf_counter()
        statistics = update(
            self.masters,
            batch.groups,
            self.settings,
            window=window,
            temperature=policy.temperature,
            token_limit=policy.max_tokens,
            reference=self.reference,
        )
        seconds = time.perf_counter() - start
        if not self.masters.finite():
            log.event("update_undone", window=window, reason="a weight is not finite any more; the update is taken back")
            self.masters.restore(before)
        new = self.masters.published()
        changed = sum(int((cast[name] != new[name]).sum()) for name in new)
        share = changed / sum(tensor.numel() for tensor in new.values())
        learned = Learned(
            window=window,
            log=self._log_body(window, batch, statistics, before),
            summary=_summary(batch, statistics, self.settings, share),
            event=_event(batch, statistics, self._seconds_verify, seconds),
        )
        self.state.learned(learned, self.masters)

    def _log_body(
        self, window: Window, batch: TrainingBatch, statistics: UpdateStatistics, before: dict[str, Any]
    ) -> dict[str, Any]:
        """What anybody needs to repeat this update: which verified groups in which order, from which state to which."""
        return {
            "version": LOG_VERSION,
            "network_id": self.participant.network_id.hex(),
            "window": window,
            "trainer": self.participant.signer.hotkey.hex(),
            "verdicts": {v.hex(): verdict.body.digest().hex() for v, verdict in sorted(self._intake.verdicts.items())},
            "groups": [member.to_json() for member in batch.members],
            "dropped": [dropped.to_json() for dropped in batch.dropped],
            "without_variance": batch.without_variance,
            "settings": self.settings.to_json(),
            "state_before": state_digest(before),
            "state_after": state_digest(self.masters.tensors()),
            "statistics": _texts(dataclasses.asdict(statistics)),
        }

    # --- publish ------------------------------------------------------------------------------------------------------

    def _publish_pending(self, stop: threading.Event, last: Window | None) -> None:
        """Publish what the journal still holds, until it is done or we are stopped; the journal keeps it then."""
        while self.state.journal is not None and (learned := self.state.journal.pending) is not None:
            try:
                manifest = self.publisher.publish_learned(
                    learned, self.masters, last=last is not None and learned.window >= last
                )
                self.publisher.publish_log(learned, manifest)
            except DiskFullError:
                raise
            except (StorageError, ChainError) as error:
                log.event("publish_failed", window=learned.window, reason=error.what)
                if stop.wait(_RETRY_SECONDS):
                    return
                continue
            self.state.published()
            valid_from = None if manifest is None else manifest.valid_from
            log.event("window_trained", window=learned.window, valid_from=valid_from, **learned.event)

    _intake: Intake = dataclasses.field(default_factory=lambda: Intake(Window(0)), init=False, repr=False)
    _seconds_verify: float = dataclasses.field(default=0.0, init=False, repr=False)


def _summary(batch: TrainingBatch, statistics: UpdateStatistics, settings: GrpoSettings, changed: float) -> dict[str, Any]:
    """The manifest's words on the training behind it: canonical JSON, fractions as text."""
    return {
        "groups": statistics.groups,
        "rollouts": statistics.rollouts,
        "tokens": statistics.tokens,
        "steps": statistics.steps,
        "miners": len({member.hotkey for member in batch.members}),
        "changed_share": f"{changed:.6f}",
    } | _texts(
        {
            "learning_rate": settings.learning_rate,
            "reward_mean": round(batch.reward_mean, 6),
            "success_mean": round(batch.success_mean, 6),
            "loss": round(statistics.loss, 6),
            "entropy": round(statistics.entropy, 6),
        }
    )


def _event(batch: TrainingBatch, statistics: UpdateStatistics, seconds_verify: float, seconds: float) -> dict[str, Any]:
    return {
        "groups": statistics.groups,
        "rollouts": statistics.rollouts,
        "tokens": statistics.tokens,
        "groups_offered": batch.offered,
        "groups_without_variance": batch.without_variance,
        "groups_dropped": len(batch.dropped),
        "rollouts_verified": batch.rollouts_verified,
        "reward_mean": batch.reward_mean,
        "success_mean": batch.success_mean,
        "loss": statistics.loss,
        "entropy": statistics.entropy,
        "gradient_norm": statistics.gradient_norm,
        "clip_share": statistics.clip_share,
        "kl_behaviour": statistics.kl_behaviour,
        "steps": statistics.steps,
        "steps_refused": statistics.steps_refused,
        "seconds_verify": seconds_verify,
        "seconds_train": seconds,
    }


def _texts(value: dict[str, Any]) -> dict[str, Any]:
    """Numbers with a fraction as text: canonical JSON here holds no floats."""
    return {name: repr(item) if isinstance(item, float) else item for name, item in value.items() if not name.startswith("_")}
