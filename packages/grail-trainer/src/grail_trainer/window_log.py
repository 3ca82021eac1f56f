"""What a window gave to learn from, and the training log that says what became of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from grail_core.participant.participant import Participant
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.policy import GenerationPolicy, decimal_text
from grail_core.protocol.types import Digest, Window
from grail_trainer.data.batch import TrainingBatch
from grail_trainer.data.intake import Intake, WantedFile
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.guarded import LearnedWindow
from grail_trainer.publishing.machine_facts import MachineFacts
from grail_trainer.publishing.training_log import (
    MAX_REASON,
    FileName,
    LoggedAlarm,
    TrainingLog,
    figures,
    shortened,
)


@dataclass(frozen=True)
class Material:
    """What one window gives to learn from, and what it was taken from."""

    intake: Intake
    manifest: CheckpointManifest  # of the checkpoint that drew the rollouts
    files: tuple[WantedFile, ...]  # that could be had, in the order they came
    batch: TrainingBatch
    seconds_verify: float

    @property
    def policy(self) -> GenerationPolicy:
        """Of the window's signed manifest: what the rollouts were drawn by."""
        return self.manifest.policy


@dataclass(frozen=True)
class Change:
    """What an update did to the state. `origin`: the checkpoint that the state before was made of, None where it goes on."""

    number: int  # of the window, among those learned from since the state began
    origin: Digest | None
    before: Digest
    after: Digest
    weights_root: Digest


def window_log(
    participant: Participant,
    material: Material,
    learned: LearnedWindow,
    change: Change,
    *,
    window: Window,
    settings: HyperParameters,
    reference: Digest | None,
    machine: MachineFacts,
) -> TrainingLog:
    """Everything of a window's log but what is known once it is published."""
    batch, had = material.batch, {file.hotkey for file in material.files}
    missing = [file for file in material.intake.wanted if file.hotkey not in had]
    return TrainingLog(
        network_id=participant.network_id,
        trainer=participant.signer.hotkey,
        window=window,
        number=change.number,
        origin=change.origin,
        behaviour=material.manifest.digest,
        reference=reference,
        temperature=decimal_text(material.policy.temperature),
        max_tokens=material.policy.max_tokens,
        verdicts={validator: verdict.body.digest() for validator, verdict in material.intake.verdicts.items()},
        files=tuple(FileName(file.hotkey, file.content_digest) for file in material.files),
        missing=tuple(FileName(file.hotkey, file.content_digest) for file in missing),
        groups=batch.members,
        dropped=shortened(batch.dropped),
        dropped_total=len(batch.dropped),
        without_variance=batch.without_variance,
        settings=settings.to_json(),
        machine=machine,
        state_before=change.before,
        state_after=change.after,
        weights_root=change.weights_root,
        undone=learned.undone[:MAX_REASON],
        alarms=tuple(LoggedAlarm.of(alarm) for alarm in learned.alarms),
        statistics=figures(dataclasses.asdict(learned.statistics)),
    )
