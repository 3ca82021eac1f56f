"""Publishing what was learned: the checkpoint, from time to time the training state, and last the signed training log.

Which window a checkpoint comes into force in is decided by `publication_steps`; this carries it out over the trainer's bucket.
Everything here may be repeated after a crash and finds what it did before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from grail_core.chain.base import blocks_in
from grail_core.checkpoints.manifests import CheckpointSequence, is_in_time, windows_of_round
from grail_core.checkpoints.pinned_table import PinnedTable, read_table_file
from grail_core.checkpoints.publish import CheckpointParts, TakenError, least_valid_from, publish
from grail_core.checkpoints.published_table import next_table, require_publishable
from grail_core.checkpoints.retention import retire
from grail_core.checkpoints.safety import CONFIG_FILE, ModelFiles
from grail_core.errors import CheckpointError, StorageError
from grail_core.participant.another import written_by_another
from grail_core.participant.participant import Participant
from grail_core.protocol import window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Digest, Window
from grail_core.storage.layout import MANIFEST_PREFIX, training_log_key
from grail_core.telemetry import get_logger
from grail_trainer.publishing.own_logs import OwnLogs
from grail_trainer.publishing.publication_steps import (
    Logged,
    Places,
    Publication,
    PublicationStage,
    PutCheckpoint,
    Stored,
    step,
)
from grail_trainer.publishing.sole_writer import SoleWriter
from grail_trainer.publishing.state_anchors import ANCHOR_EVERY, is_due, publish_anchor, retire_anchors
from grail_trainer.publishing.training_log import LOG_TAG, LOG_VERSION, PublishedCheckpoint, SignedLog, TrainingLog
from grail_trainer.steps import TrainedWindow, state_file_of

log = get_logger(__name__)

_MOST_TAKEN = 16


def first_reachable(window: Window, block: Block, params: NetworkParameters, *, spare: int) -> Window:
    """The first window that a checkpoint trained in `window` can come into force in, if it is published `spare` blocks after
    `block`."""
    valid_from = least_valid_from(window, params)
    while block + spare >= valid_from - params.checkpoint_lead:
        valid_from = Window(valid_from + WINDOW_LENGTH)
    return valid_from


@dataclass(frozen=True)
class TableChoice:
    """What a trainer is told of the calibration table that its checkpoints pin.

    `table`: bytes that parse; None: that of the checkpoint before, the shipped one of a network's first. `uncovered`: publish
    also where it does not cover what the network admits.
    """

    table: bytes | None = None
    uncovered: bool = False

    @classmethod
    def of(cls, path: Path | None, *, uncovered: bool) -> TableChoice:
        """Raises ConfigurationError: the file holds no table."""
        return cls(None if path is None else read_table_file(path), uncovered)


NO_CHOICE = TableChoice()


@dataclass
class Publisher:
    """Publishes one network's checkpoints from this machine. `files` are the model files of the network, `choice` what is said
    of the calibration table that they pin."""

    participant: Participant
    files: ModelFiles
    spare_blocks: int = 1
    states: Path | None = None  # where the training states of what is not published yet lie; None: none is published
    anchor_every: int = ANCHOR_EVERY  # windows; 0: never
    choice: TableChoice = NO_CHOICE
    _chain_seconds: float = 0.0  # of chain time, that the last publication took: what the next one is given

    def __post_init__(self) -> None:
        self._sole = SoleWriter()
        self._logs = OwnLogs(self.participant.own_store, self.participant.network_id)

    def view(self) -> CheckpointSequence:
        """Our own sequence of checkpoints, as our bucket has it."""
        view = self.participant.own_checkpoints.sequence()
        self._sole.begin(view)
        return view

    def publish_first(self, parts: CheckpointParts, state: dict[str, Any]) -> CheckpointManifest:
        """The network's first checkpoint; it needs no lead."""
        return self._publish(parts, state)

    def require_table(self) -> PinnedTable:
        """The table of the next checkpoint, after the look at it that its publication will take: before anything is learned.

        Raises:
            CheckpointError: it would be refused, by readers or at publication.
        """
        head = self.view().head
        table = next_table(self.choice.table, head, self.participant.own_checkpoints)
        config = self.files.files[CONFIG_FILE]
        try:
            return require_publishable(table, config, self.participant.params, deliberately=self.choice.uncovered)
        except CheckpointError as error:
            if self.choice.table is not None:
                where = "--calibration"
            elif head is None:
                where = f"{error.where} in the package, for the network's first checkpoint"
            else:
                where = f"checkpoint {head.sequence}, in force from window {head.valid_from}: {error.where}"
            raise CheckpointError(error.what, where=where, hint=error.hint) from error

    def publish_next(self, window: Window, state: dict[str, Any], turn: CheckpointParts | None = None) -> CheckpointManifest:
        """Weights from elsewhere as the next checkpoint, in force from the first window that is free.

        Args:
            turn: the work and the policy that the network turns to; None: those that it has.

        Raises:
            CheckpointError: the network has no checkpoint, or one of `window` or later already.
        """
        head = self.view().head
        if head is None:
            raise CheckpointError("the network has no first checkpoint")
        taken = step(Publication(), Places(head.valid_from, self._reachable(window), last=True))
        if not isinstance(taken.put, PutCheckpoint):
            raise RuntimeError("weights from elsewhere always have a place: after the newest checkpoint")
        valid_from = taken.put.valid_from
        if turn is None:
            return self._publish(self._parts(head, window, valid_from, {}), state)
        length = WINDOW_LENGTH * windows_of_round(head)  # rounds that have begun are not cut short
        valid_from = Window(-(-valid_from // length) * length)
        return self._publish(replace(turn, window=window, valid_from=valid_from), state)

    def publish_trained(
        self, trained: TrainedWindow, weights: Mapping[str, Tensor], *, last: bool
    ) -> CheckpointManifest | None:
        """Checkpoint and log of a trained window; None where its weights come with the next checkpoint.

        Args:
            weights: `Masters.published` right after the window's update; nobody changes these tensors any more.
            last: no window will follow: the checkpoint takes the next free place instead of waiting for another.

        Raises:
            CheckpointError: the sequence of checkpoints is not the one this trainer continues.
            WrittenByAnotherError: another trainer of this hotkey publishes into this bucket.
            StorageError: call again; what is there already is found again.
        """
        view = self._sole.look(self.participant.own_checkpoints, trained.window, trained.log.get("weights_root"))
        if view.head is None:
            raise CheckpointError("the network has no first checkpoint")
        manifest = next((s.manifest for s in view.stored if s.manifest.window == trained.window), None)
        if manifest is not None:
            taken = step(Publication(), Stored(manifest.valid_from))  # before a crash; needs nothing of the chain any more
        else:
            taken = step(Publication(), Places(view.head.valid_from, self._reachable(trained.window), last))
        if isinstance(taken.put, PutCheckpoint):
            parts = self._parts(view.head, trained.window, taken.put.valid_from, trained.summary)
            manifest = self._publish_where_free(parts, dict(weights))
            taken = step(taken.publication, Stored(manifest.valid_from))
        if taken.publication.stage is PublicationStage.JOINED:
            log.event("checkpoint_joined", window=trained.window, reason="its place is taken: the next checkpoint carries it")
        self._put_log(trained, manifest)
        step(taken.publication, Logged())
        self._retire(trained.window)
        return manifest

    def _put_log(self, trained: TrainedWindow, manifest: CheckpointManifest | None) -> None:
        """The signed training log of a window, behind the anchor that it names; the same body however often it is called."""
        participant, store = self.participant, self.participant.own_store
        if trained.log.get("version") != LOG_VERSION:
            self._put_former(trained, manifest)
            return
        body = TrainingLog.from_json(trained.log)
        before = self._logs.before(body.window, self.view().stored[0].manifest.valid_from)
        full = body.published(
            previous=None if before is None else before.link,
            origin=body.origin if body.begins or before is None else before.origin,
            anchor=self._put_anchor(body),
            checkpoint=None if manifest is None else PublishedCheckpoint.of(manifest),
        )
        store.put(training_log_key(body.window), SignedLog.sign(full, participant.signer).encode())
        self._logs.put(full)

    def _put_anchor(self, log_body: TrainingLog) -> Digest | None:
        """The state after a window, where it is one of those that are published: the file that the journal keeps until then."""
        if self.states is None or not is_due(log_body.number, self.anchor_every):
            return None
        participant, start = self.participant, time.perf_counter()
        path = self.states / state_file_of(log_body.window)
        digest = publish_anchor(
            participant.own_store, participant.signer, participant.network_id, log_body.window, path, log_body.state_after
        )
        log.event("anchor_published", window=log_body.window, seconds=time.perf_counter() - start)
        return digest

    def _put_former(self, trained: TrainedWindow, manifest: CheckpointManifest | None) -> None:
        """The log of a window that an earlier version learned from and did not come to publish: as it would have done it."""
        participant = self.participant
        checkpoint = None if manifest is None else PublishedCheckpoint.of(manifest).to_json()
        body = {**trained.log, "checkpoint": checkpoint}
        message = tagged_hash(participant.network_id, LOG_TAG, canonical_json(body))
        signed = {"body": body, "signature": participant.signer.sign(message).hex()}
        participant.own_store.put(training_log_key(trained.window), canonical_json(signed))
        self._logs.forget()

    def _retire(self, window: Window) -> None:
        """Delete what no reader needs any more; what cannot be deleted now is with the next checkpoint."""
        try:
            plan = retire(self.participant.own_checkpoints)
            anchors = retire_anchors(self.participant.own_store, window) if self.anchor_every else []
        except (StorageError, CheckpointError) as error:
            log.event("retention_failed", prefix=MANIFEST_PREFIX, reason=error.what, retry="with the next checkpoint")
            return
        if plan.retire:
            retired = [manifest.sequence for manifest in plan.retire]
            log.event("checkpoints_retired", sequences=retired, objects=len(plan.unreferenced))
        if anchors:
            log.event("anchors_retired", windows=anchors)

    def _reachable(self, window: Window) -> Window:
        participant = self.participant
        spare = self.spare_blocks + blocks_in(self._chain_seconds, participant.params.block_time_ms)
        return first_reachable(window, participant.chain.current_block(), participant.params, spare=spare)

    def _parts(
        self, head: CheckpointManifest, window: Window, valid_from: Window, training: Mapping[str, Any]
    ) -> CheckpointParts:
        """Everything but the weights stays as the network's last checkpoint has it."""
        return CheckpointParts(
            network_id=self.participant.network_id,
            window=window,
            valid_from=valid_from,
            environment=head.environment,
            policy=head.policy,
            end_token_ids=head.end_token_ids,
            thinking_mode=head.thinking_mode,
            training=dict(training),
        )

    def _publish_where_free(self, parts: CheckpointParts, state: dict[str, Any]) -> CheckpointManifest:
        """Where what stands in its place is no manifest of ours, in the next window."""
        for _ in range(_MOST_TAKEN):
            try:
                return self._publish(parts, state)
            except TakenError as taken:
                if taken.ours:
                    raise written_by_another("a manifest", taken.where, taken.stored_at_ms) from taken
                log.event("place_taken", window=parts.window, valid_from=parts.valid_from, reason=taken.what)
            parts = replace(parts, valid_from=Window(parts.valid_from + WINDOW_LENGTH))
        raise CheckpointError(
            f"{_MOST_TAKEN} places in a row are taken by what is no manifest",
            where=f"{MANIFEST_PREFIX} of the trainer's bucket",
            hint="look who else may write into this bucket, and remove what is not this trainer's",
        )

    def _publish(self, parts: CheckpointParts, state: dict[str, Any]) -> CheckpointManifest:
        participant = self.participant
        parts = replace(parts, calibration=self.choice.table, uncovered=self.choice.uncovered)
        start, start_ms = time.perf_counter(), participant.chain.now_ms()
        manifest = publish(participant.own_checkpoints, parts, state, self.files, participant.signer, participant.params)
        seconds = time.perf_counter() - start
        self._sole.wrote([manifest.digest])
        self._chain_seconds = max(0, participant.chain.now_ms() - start_ms) / 1000
        late = not self._in_time(manifest)
        log.event(
            "checkpoint_published",
            sequence=manifest.sequence,
            window=manifest.window,
            valid_from=manifest.valid_from,
            kind=manifest.kind.value,
            delta_bytes=next((delta.size for delta in manifest.deltas if delta.base == manifest.parent), None),
            seconds_publish=seconds,
            late=late,
        )
        return manifest

    def _in_time(self, manifest: CheckpointManifest) -> bool:
        """Will readers take it? A late checkpoint is skipped by everyone, and its weights come with the next one."""
        participant = self.participant
        item = next((s for s in self.view().stored if s.manifest.digest == manifest.digest), None)
        return item is not None and is_in_time(item, participant.params, participant.time_of_block_ms)


def first_window(participant: Participant) -> Window:
    """The next window of the chain: where a network's first checkpoint comes into force."""
    return Window(window_of(participant.chain.current_block()) + WINDOW_LENGTH)
