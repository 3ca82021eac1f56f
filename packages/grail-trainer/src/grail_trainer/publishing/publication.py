"""Publishing what was learned: the checkpoint and the signed training log.

Which window a checkpoint comes into force in is decided by `publication_steps`; this carries it out over the trainer's bucket.
Everything here may be repeated after a crash and finds what it did before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from grail_core.chain.base import blocks_in
from grail_core.checkpoints.manifests import CheckpointSequence, is_in_time
from grail_core.checkpoints.publish import CheckpointParts, least_valid_from, publish
from grail_core.checkpoints.retention import retire
from grail_core.checkpoints.safety import ModelFiles
from grail_core.errors import CheckpointError, StorageError
from grail_core.participant.participant import Participant
from grail_core.protocol import window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Window
from grail_core.storage.layout import MANIFEST_PREFIX, training_log_key
from grail_core.telemetry import get_logger
from grail_trainer.publishing.publication_steps import (
    Logged,
    Places,
    Publication,
    PublicationStage,
    PutCheckpoint,
    Stored,
    step,
)
from grail_trainer.steps import TrainedWindow

log = get_logger(__name__)

LOG_TAG = "grail/training-log"


def first_reachable(window: Window, block: Block, params: NetworkParameters, *, spare: int) -> Window:
    """The first window that a checkpoint trained in `window` can come into force in, if it is published `spare` blocks after
    `block`."""
    valid_from = least_valid_from(window, params)
    while block + spare >= valid_from - params.checkpoint_lead:
        valid_from = Window(valid_from + WINDOW_LENGTH)
    return valid_from


@dataclass
class Publisher:
    """Publishes one network's checkpoints from this machine. `files` are the model files of the network."""

    participant: Participant
    files: ModelFiles
    spare_blocks: int = 1
    _chain_seconds: float = 0.0  # of chain time, that the last publication took: what the next one is given

    def view(self) -> CheckpointSequence:
        """Our own sequence of checkpoints, as our bucket has it."""
        return self.participant.own_checkpoints.sequence()

    def publish_first(self, parts: CheckpointParts, state: dict[str, Any]) -> CheckpointManifest:
        """The network's first checkpoint; it needs no lead."""
        return self._publish(parts, state)

    def publish_next(self, window: Window, state: dict[str, Any]) -> CheckpointManifest:
        """Weights from elsewhere as the next checkpoint, in force from the first window that is free.

        Raises:
            CheckpointError: the network has no checkpoint, or one of `window` or later already.
        """
        head = self.view().head
        if head is None:
            raise CheckpointError("the network has no first checkpoint")
        taken = step(Publication(), Places(head.valid_from, self._reachable(window), last=True))
        if not isinstance(taken.put, PutCheckpoint):
            raise RuntimeError("weights from elsewhere always have a place: after the newest checkpoint")
        return self._publish(self._parts(head, window, taken.put.valid_from, {}), state)

    def publish_trained(
        self, trained: TrainedWindow, weights: Mapping[str, Tensor], *, last: bool
    ) -> CheckpointManifest | None:
        """Checkpoint and log of a trained window; None where its weights come with the next checkpoint.

        Args:
            weights: `Masters.published` right after the window's update; nobody changes these tensors any more.
            last: no window will follow: the checkpoint takes the next free place instead of waiting for another.

        Raises:
            CheckpointError: the sequence of checkpoints is not the one this trainer continues.
            StorageError: call again; what is there already is found again.
        """
        view = self.view()
        if view.head is None:
            raise CheckpointError("the network has no first checkpoint")
        manifest = next((s.manifest for s in view.stored if s.manifest.window == trained.window), None)
        if manifest is not None:
            taken = step(Publication(), Stored(manifest.valid_from))  # before a crash; needs nothing of the chain any more
        else:
            taken = step(Publication(), Places(view.head.valid_from, self._reachable(trained.window), last))
        if isinstance(taken.put, PutCheckpoint):
            parts = self._parts(view.head, trained.window, taken.put.valid_from, trained.summary)
            manifest = self._publish(parts, dict(weights))
            taken = step(taken.publication, Stored(manifest.valid_from))
        if taken.publication.stage is PublicationStage.JOINED:
            log.event("checkpoint_joined", window=trained.window, reason="its place is taken: the next checkpoint carries it")
        self._put_log(trained, manifest)
        step(taken.publication, Logged())
        self._retire()
        return manifest

    def _put_log(self, trained: TrainedWindow, manifest: CheckpointManifest | None) -> None:
        """The signed training log of a window; the same bytes however often it is called."""
        checkpoint = None
        if manifest is not None:
            checkpoint = {
                "digest": manifest.digest.hex(),
                "sequence": manifest.sequence,
                "valid_from": manifest.valid_from,
                "weights_root": manifest.weights_root.hex(),
            }
        participant = self.participant
        body = {**trained.log, "checkpoint": checkpoint}
        message = tagged_hash(participant.network_id, LOG_TAG, canonical_json(body))
        signed = {"body": body, "signature": participant.signer.sign(message).hex()}
        participant.own_store.put(training_log_key(trained.window), canonical_json(signed))

    def _retire(self) -> None:
        """Delete what no reader needs any more; what cannot be deleted now is with the next checkpoint."""
        try:
            plan = retire(self.participant.own_checkpoints)
        except (StorageError, CheckpointError) as error:
            log.event("retention_failed", prefix=MANIFEST_PREFIX, reason=error.what, retry="with the next checkpoint")
            return
        if plan.retire:
            retired = [manifest.sequence for manifest in plan.retire]
            log.event("checkpoints_retired", sequences=retired, objects=len(plan.unreferenced))

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

    def _publish(self, parts: CheckpointParts, state: dict[str, Any]) -> CheckpointManifest:
        participant = self.participant
        start, start_ms = time.perf_counter(), participant.chain.now_ms()
        manifest = publish(participant.own_checkpoints, parts, state, self.files, participant.signer, participant.params)
        seconds = time.perf_counter() - start
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
