"""Where an audit stands: masters and moments after some window, as repeated here or as an anchor or a checkpoint gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grail_core.errors import CheckpointError, StorageError
from grail_core.participant.participant import Participant
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore
from grail_trainer.auditing.distance import distance_of_masters, distance_of_weights
from grail_trainer.auditing.report import Distance
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.optimiser import Masters, state_digest
from grail_trainer.learning.training_state import MASTER
from grail_trainer.publishing.state_anchors import fetch_anchor, read_anchor
from grail_trainer.publishing.training_log import TrainingLog

STATE_BYTES = 12
"""Of one weight: master and two moments, float32."""
SMALL_TENSOR_BYTES = 64
"""Of what else a state holds of a weight's tensor: its own count of steps."""


@dataclass
class Standing:
    """`drifted`: it is this machine's own, and no longer the trainer's to the bit."""

    masters: Masters
    folder: Path  # of a checkpoint of this model
    window: Window | None = None  # the last one that was repeated; None: none yet
    drifted: bool = False
    _common: dict[str, Any] = field(default_factory=dict)  # masters, where it was the trainer's to the bit for the last time
    _compared: tuple[dict[str, Any], dict[str, Any]] = ({}, {})  # published weights, its own and the trainer's, last known

    def hold(self) -> None:
        """Before an update: remember what is the trainer's own to the bit."""
        if self.drifted:
            return
        self._common = {name: one for name, one in self.masters.tensors().items() if name.startswith(MASTER)}
        cast = self.masters.published()
        self._compared = (cast, cast)

    def apart(self, theirs: dict[str, Any] | None, anchored: dict[str, Any] | None) -> Distance:
        """After an update that ended elsewhere than the trainer's: how far. An anchor brings this state back to it.

        Args:
            theirs: the published weights, anchored: the published state; None where there is none.
        """
        ours, distance = self.masters.published(), Distance()
        if theirs is not None:
            distance = distance_of_weights(ours, theirs, *self._compared)
            self._compared = (ours, theirs)
        if anchored is not None:
            of_masters = distance_of_masters(self.masters.tensors(), anchored, self._common)
            relative = max(one.relative for one in (distance, of_masters) if one.relative is not None)
            distance = replace(of_masters, relative=relative, published_share=distance.published_share)
            self.masters.restore(anchored)
        self.drifted = anchored is None
        return distance

    def digest(self) -> Digest:
        return Digest(bytes.fromhex(self.masters.digest()))

    def with_settings(self, settings: OptimiserSettings, device: str) -> None:
        """Another optimiser's settings, the same state."""
        if self.masters.settings != settings:
            tensors = self.masters.tensors()
            self.masters = Masters.load(self.folder, settings, device=device)
            self.masters.restore(tensors)


class Beginnings:
    """Where an audit may begin, of one network's trainer."""

    def __init__(self, participant: Participant, scratch: Path, device: str) -> None:
        self._participant, self._scratch, self._device = participant, scratch, device

    @property
    def store(self) -> ObjectStore:
        return self._participant.checkpoints.bucket().store

    def at_checkpoint(self, digest: Digest, settings: OptimiserSettings) -> Standing:
        """The state that a checkpoint is, moments zero. Raises CheckpointError where it is not to be had."""
        folder = self._folder(self._manifest(digest))
        return Standing(Masters.load(folder, settings, device=self._device), folder)

    def at_anchor(self, log: TrainingLog, settings: OptimiserSettings) -> Standing:
        """The state after a window whose log names an anchor, in a model of the checkpoint that it began with.

        Raises:
            AnchorGoneError, StorageError: it is not to be had.
            CheckpointError: it is not what the log says.
        """
        folder = self._folder(self._model_of(log, settings))
        standing = Standing(Masters.load(folder, settings, device=self._device), folder, log.window)
        standing.masters.restore(self.anchored(log, standing.masters))
        return standing

    def anchored(self, log: TrainingLog, like: Masters) -> dict[str, Any]:
        """The tensors of the anchor that a log names, which are the state that it names. Errors: as `at_anchor`."""
        if log.anchor is None:
            raise ValueError("this log names no anchor")
        anchor = read_anchor(self.store, log.window, digest=log.anchor, network_id=log.network_id, trainer=log.trainer)
        weights = sum(parameter.numel() for parameter in like.module.parameters())
        names = sum(1 for _ in like.module.parameters())
        most = STATE_BYTES * weights + SMALL_TENSOR_BYTES * (names + 1024)
        tensors = fetch_anchor(self.store, anchor, self._scratch, most_tensor_bytes=most)
        if Digest(bytes.fromhex(state_digest(tensors))) != log.state_after or anchor.state != log.state_after:
            raise CheckpointError("the anchor is not the state that the training log names", where=str(log.window))
        return tensors

    def _manifest(self, digest: Digest) -> CheckpointManifest:
        manifest = self._participant.checkpoints.view().by_digest.get(digest)
        if manifest is None:
            raise CheckpointError("the checkpoint is not in the trainer's bucket any more", where=digest.hex())
        return manifest

    def _model_of(self, log: TrainingLog, settings: OptimiserSettings) -> CheckpointManifest:
        """Adapters stand beside the weights that they began with; else any checkpoint of the network's makes the model."""
        view = self._participant.checkpoints.view()
        origin = None if log.origin is None else view.by_digest.get(log.origin)
        if origin is not None:
            return origin
        if settings.lora_rank:
            raise StorageError("the checkpoint that its adapters stand beside is not kept any more")
        return view.stored[0].manifest

    def _folder(self, manifest: CheckpointManifest) -> Path:
        return self._participant.checkpoints.materialise(manifest)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads within one operation, while the block lasts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
