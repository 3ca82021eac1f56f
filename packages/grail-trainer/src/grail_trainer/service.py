"""The trainer's shell: it carries out what `steps` says over buckets, chain, models and disk.

wait for the verdicts → take what most of the scoring stake accepted → verify every rollout again, one file open at a time →
update → the decision on a window is on disk → and only then are checkpoint and training log published, in a thread of their
own (`publishing.background`), from a copy of the weights, while the next window's verdicts are awaited and its rollouts
verified. So a trainer killed anywhere learns from nothing twice and loses nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.checkpoints.publish import publishable
from grail_core.environment import Environment
from grail_core.errors import AlarmStopError, CheckpointError
from grail_core.files.confined.opening import Confined
from grail_core.keys import ss58
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import until_had
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Window
from grail_core.telemetry import get_logger
from grail_trainer.data.batch import TrainingBatch, build_batch
from grail_trainer.data.intake import TOO_OLD, VerdictListener, WantedFile
from grail_trainer.data.wanted_files import WantedFiles
from grail_trainer.evaluating.beside import Evaluations
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.alarms import LEARNING_RATE_FACTOR, STOPPED_AT
from grail_trainer.learning.followers import learn_with_followers as learn_window
from grail_trainer.learning.guarded import LearnedWindow
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.statistics import UpdateStatistics
from grail_trainer.publishing.background import BackgroundPublisher, Snapshot
from grail_trainer.publishing.machine_facts import machine_facts
from grail_trainer.publishing.publication import Publisher
from grail_trainer.publishing.training_log import TrainingLog, figures
from grail_trainer.state import TrainerState
from grail_trainer.steps import NothingToLearn, TrainedWindow
from grail_trainer.window_log import Change, Material, window_log

log = get_logger(__name__)


@dataclass
class TrainerService:
    """Learns from windows one after the other until stopped or `windows` of them are decided.

    `masters` and `state` belong together: `start.py` has brought the one to where the other says.
    """

    participant: Participant
    masters: Masters
    state: TrainerState
    publisher: Publisher
    verdicts: VerdictListener
    checkpoint: LiveCheckpoint  # of the behaviour policy
    environment_of: Callable[[CheckpointManifest], Environment]
    settings: HyperParameters
    reference: Any | None = None  # for the KL term
    acknowledged: int | None = None  # the window of an alarm that a person has seen
    evaluations: Evaluations | None = None  # beside the learning; None: none
    confined: Confined = field(default_factory=Confined)

    def run(self, stop: threading.Event, windows: int | None = None) -> int:
        """Returns how many windows were learned from, in all starts of this trainer together.

        Raises:
            AlarmStopError: an alarm ended the run, in this start or in one before. What it was raised for is published.
            GrailError: what ended the publishing of a window for good; the journal keeps that window.
        """
        first = self.publisher.view().beginning().valid_from
        last = None if windows is None else Window(first + (windows - 1) * WINDOW_LENGTH)
        publishing = BackgroundPublisher(self.publisher, self.state, stop, last=last, tell=self._tell)
        for trained, weights in self.state.unpublished(self.masters):
            publishing.give(Snapshot(trained, weights))
        with self._evaluating(stop), publishing.running():
            self._learn_on(publishing, last)
        return self.state.journal.learned if self.state.journal else 0

    def _evaluating(self, stop: threading.Event) -> AbstractContextManager[None]:
        """The newest checkpoint too may be due: the network's first, or one whose evaluation ended with the start before."""
        if self.evaluations is None:
            return nullcontext()
        return self.evaluations.running(stop, newest=self.publisher.view().stored[-1].manifest)

    def _tell(self, trained: TrainedWindow, manifest: CheckpointManifest | None) -> None:
        """Once checkpoint and log are in the store."""
        valid_from = None if manifest is None else manifest.valid_from
        log.event("window_trained", window=trained.window, valid_from=valid_from, **trained.event)
        if self.evaluations is not None and manifest is not None:
            self.evaluations.out(manifest)

    def _learn_on(self, publishing: BackgroundPublisher, last: Window | None) -> None:
        """Decide window after window until stopped or past the last one."""
        halting = publishing.halting
        self._heed_alarm()
        while not halting.is_set() and (journal := self.state.journal) is not None:
            window = journal.next_window
            if last is not None and window > last:
                return
            event = self._decide(window, publishing, halting)
            self.state.take(event, self.masters)
            if isinstance(event, NothingToLearn):
                log.event("window_not_trained", window=window, reason=event.reason)
            if isinstance(event, TrainedWindow):
                publishing.give(Snapshot(event, self.masters.published()))
            self._heed_alarm()

    def _heed_alarm(self) -> None:
        """What ended a run keeps it ended until it is acknowledged: it lies in the training state."""
        at = self.masters.scalars.get(STOPPED_AT)
        if at is not None and self.acknowledged != int(at):
            raise AlarmStopError(
                f"an alarm in window {int(at)} ended the training; its update is taken back",
                where=str(self.state.folder),
                hint=f"look at its training log and at docs/trainer.md (Alarms); go on with --acknowledge {int(at)}",
            )

    # --- collect ------------------------------------------------------------------------------------------------------

    def _decide(
        self, window: Window, publishing: BackgroundPublisher, halting: threading.Event
    ) -> TrainedWindow | NothingToLearn | Stopped:
        """What becomes of a window: an update of the masters, or why there is none."""
        material = self._collect(window, halting)
        if not isinstance(material, Material):
            return material
        if not publishing.has_room():
            return Stopped()
        unusable = self._too_old(window, halting)
        return unusable or self._learn(window, material)

    def _too_old(self, window: Window, halting: threading.Event) -> NothingToLearn | Stopped | None:
        """Age counts at the time of use: verifying takes its time, and so may the store before there is room."""
        now = until_had(self.participant, window, halting, self.participant.chain.current_block, too_late=lambda: False)
        if not isinstance(now, Opened):
            return Stopped()
        return NothingToLearn(window, TOO_OLD) if now.value >= self.verdicts.too_late(window) else None

    def _collect(self, window: Window, stop: threading.Event) -> Material | NothingToLearn | Stopped:
        """Verified groups of a window."""
        intake = self.verdicts.wait(window, stop)
        if isinstance(intake, Stopped):
            return intake
        context = intake.context
        if context is None or not intake.wanted:
            return NothingToLearn(window, intake.reason)
        start = time.perf_counter()
        had = until_had(self.participant, window, stop, partial(self.checkpoint.at, context.manifest))
        if isinstance(had, Stopped):
            return had
        if isinstance(had, Void):
            return NothingToLearn(window, f"the behaviour checkpoint cannot be had: {had.reason}")
        loaded = had.value
        try:
            environment = self.environment_of(context.manifest)
        except CheckpointError as error:
            return NothingToLearn(window, f"the behaviour checkpoint cannot be had: {error.what}")
        files = WantedFiles(self.participant, window, too_late=self.verdicts.too_late(window))
        had_files: list[WantedFile] = []

        def each() -> Iterator[tuple[WantedFile, bytes]]:
            for file, data in files.each(intake, stop):
                had_files.append(file)
                yield file, data

        try:
            batch = build_batch(
                each(),
                files.read,
                context,
                loaded,
                environment,
                max_groups=self.settings.intake.most_groups,
                tokens_per_pass=self.settings.update.tokens_per_pass,
                compute=self.settings.optimiser.compute,
                stopping=stop.is_set,
                open_file=self.confined.open_file,
            )
        finally:
            files.forget()
        if stop.is_set():
            return Stopped()
        for dropped in batch.dropped:
            log.event("group_dropped", window=window, hotkey=ss58(dropped.hotkey), group=dropped.group, reason=dropped.reason)
        if not batch.groups:
            return NothingToLearn(window, _why_nothing(batch))
        return Material(intake, context.manifest, tuple(had_files), batch, time.perf_counter() - start)

    # --- learn --------------------------------------------------------------------------------------------------------

    def _learn(self, window: Window, material: Material) -> TrainedWindow:
        """Update the masters; what is returned goes to disk together with them."""
        batch = material.batch
        policy = material.policy
        before, cast = self.masters.digest(), self.masters.published()
        start = time.perf_counter()
        learned = learn_window(
            self.masters,
            batch.groups,
            self.settings,
            window=window,
            temperature=policy.temperature,
            token_limit=policy.max_tokens,
            reference=self.reference,
            kept=self.state.kept(),
        )
        seconds, statistics = time.perf_counter() - start, learned.statistics
        for alarm in learned.alarms:
            log.event("training_alarm", level=logging.WARNING, window=window, **alarm.to_event())
        if learned.undone:
            log.event("update_undone", window=window, reason=f"{learned.undone}; the update is taken back")
        new = self.masters.published()
        changed = sum(int((cast[name] != new[name]).sum()) for name in new)
        share = changed / sum(tensor.numel() for tensor in new.values())
        return TrainedWindow(
            window=window,
            log=self._log(window, material, learned, before, new).to_json(),
            summary=_summary(batch, statistics, self.settings, share),
            event=_event(batch, learned, self.masters.scalars, share, material.seconds_verify, seconds),
        )

    def _log(
        self, window: Window, material: Material, learned: LearnedWindow, before: str, new: Mapping[str, Any]
    ) -> TrainingLog:
        """What anybody needs to repeat this update. `before`: digest of the state it began with; `new`: the cast after it."""
        journal, view = self.state.journal, self.publisher.view()
        if journal is None or view.head is None:
            raise RuntimeError("a window is learned from where there are a journal and a checkpoint")
        change = Change(
            number=journal.learned + 1,
            origin=view.head.digest if journal.state_file is None else None,
            before=Digest(bytes.fromhex(before)),
            after=Digest(bytes.fromhex(self.masters.digest())),
            weights_root=digest_state(publishable(new)).root,
        )
        return window_log(
            self.participant,
            material,
            learned,
            change,
            window=window,
            settings=self.settings,
            reference=None if self.reference is None else view.beginning(window).digest,
            machine=machine_facts(
                str(next(iter(self.masters.module.parameters())).device), world_size=self.masters.ranks.count
            ),
        )


def _why_nothing(batch: TrainingBatch) -> str:
    reason = "no group that varies passed this trainer's own checks"
    if not batch.dropped:
        return reason
    return f"{reason}; files and groups dropped: {len(batch.dropped)}, the first of them for: {batch.dropped[0].reason}"


def _summary(batch: TrainingBatch, statistics: UpdateStatistics, settings: HyperParameters, changed: float) -> dict[str, Any]:
    """The manifest's words on the training behind it: canonical JSON, fractions as text."""
    return {
        "groups": statistics.groups,
        "rollouts": statistics.rollouts,
        "tokens": statistics.tokens,
        "steps": statistics.steps,
        "miners": len({member.hotkey for member in batch.members}),
        "changed_share": f"{changed:.6f}",
    } | figures(
        {
            "learning_rate": settings.optimiser.learning_rate,
            "reward_mean": round(batch.reward_mean, 6),
            "success_mean": round(batch.success_mean, 6),
            "loss": round(statistics.loss, 6),
            "entropy": round(statistics.entropy, 6),
        }
    )


def _event(
    batch: TrainingBatch,
    learned: LearnedWindow,
    scalars: Mapping[str, float],
    changed: float,
    seconds_verify: float,
    seconds: float,
) -> dict[str, Any]:
    """The fields of `window_trained`: `metrics.METRICS`, and the alarms that were raised."""
    means = learned.rollouts
    return {
        "groups_offered": batch.offered,
        "groups_without_variance": batch.without_variance,
        "groups_dropped": len(batch.dropped),
        "rollouts_verified": batch.rollouts_verified,
        "reward_mean": batch.reward_mean,
        "success_mean": batch.success_mean,
        "learned_reward_mean": means.reward_mean,
        "learned_reward_deviation": means.reward_deviation,
        "learned_success_mean": means.success_mean,
        "well_formed_share": means.well_formed_share,
        "learning_rate_factor": scalars.get(LEARNING_RATE_FACTOR, 1.0),
        "changed_share": changed,
        "seconds_verify": seconds_verify,
        "seconds_train": seconds,
        "undone": learned.undone,
        "alarms": [alarm.to_event() for alarm in learned.alarms],
    } | {name: value for name, value in dataclasses.asdict(learned.statistics).items() if not name.startswith("_")}
