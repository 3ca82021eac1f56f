"""A round's checkpoint as every role of gradient work needs it: float32 weights as arrays, their layout, and both models.

One copy of the float32 module and one of the bf16 model that sketches are made with are kept and given the next checkpoint's
weights, since loading a model costs more than training a small one for a round. Whoever gets a `RoundModel` may use it until
the next one is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.source import CheckpointSource
from grail_core.errors import CheckpointError, StorageError
from grail_core.gradient.layout import Layout
from grail_core.model.policy_model import Attention, PolicyModel, require_device
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.round_sketches import previous_checkpoints
from grail_core.proof.round_work import PREVIOUS
from grail_core.proof.trained_model import StateArrays, TrainedModel
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest
from grail_core.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class RoundModel:
    """θ_T. `theta` are arrays that nobody changes; `policy` has their bf16 cast. Which weights `trained` has is not said:
    losses and gradients are computed at weights that whoever asks sets first."""

    manifest: CheckpointManifest
    theta: StateArrays
    layout: Layout
    trained: TrainedModel
    policy: PolicyModel


class RoundModels:
    """Loads checkpoints of gradient work. Not for two threads at a time.

    Attributes:
        attention, device: how it computes; with them goes the numerics class of the sketches.
    """

    def __init__(self, source: CheckpointSource, *, attention: Attention = "sdpa", device: str = "cpu") -> None:
        require_device(device)
        self._source = source
        self.attention: Attention = attention
        self.device = device
        self._current: RoundModel | None = None
        self._compared: tuple[Digest, Alternatives] | None = None

    def at(self, manifest: CheckpointManifest) -> RoundModel:
        """The checkpoint of a manifest.

        Raises:
            CheckpointError: it cannot be fetched, does not verify, or holds other than float32 weights.
        """
        if self._current is not None and self._current.manifest.digest == manifest.digest:
            return self._current
        folder = self._source.materialise(manifest)
        theta = float32_weights(folder)
        kept = self._current
        if kept is not None and _same_model(kept.manifest, manifest):
            trained, policy = kept.trained, kept.policy
            self._current = None  # neither the one nor the other, should setting the weights fail half way
            trained.set(theta)
            _set_cast(policy, theta)
        else:
            trained = TrainedModel.load(folder, attention=self.attention, device=self.device)
            policy = PolicyModel.load(folder, attention=self.attention, device=self.device)
        self._current = RoundModel(manifest, theta, _layout(theta, manifest), trained, policy)
        return self._current

    def layout(self, manifest: CheckpointManifest) -> Layout:
        """Of a checkpoint, without a model: any thread may ask while another computes. Errors: as `at`."""
        current = self._current
        if current is not None and current.manifest.digest == manifest.digest:
            return current.layout
        return _layout(float32_weights(self._source.materialise(manifest)), manifest)

    def alternatives(self, model: RoundModel) -> Alternatives:
        """What a round's sketches are held against: the float32 copy, and the checkpoints before this one that are here.

        Made once a round and good until the next checkpoint is asked for. An earlier checkpoint that cannot be had, or is
        another model's, is left out: evidence says what was compared, so that weakens a check and hides nothing.

        Raises:
            CheckpointError, StorageError: which checkpoints were before cannot be seen.
            MachineFaultError: memory does not hold the copy.
        """
        kept = self._compared
        if kept is not None and kept[0] == model.manifest.digest:
            return kept[1]
        earlier: dict[str, StateArrays] = {}
        before = self._source.before(model.manifest, len(PREVIOUS))
        for name, manifest in zip(PREVIOUS, before, strict=False):
            try:
                weights = float32_weights(self._source.materialise(manifest))
                if {key: value.shape for key, value in weights.items()} != {k: v.shape for k, v in model.theta.items()}:
                    raise CheckpointError("it is of another model")
                earlier[name] = weights
            except (CheckpointError, StorageError) as error:
                log.event("alternative_unavailable", window=model.manifest.valid_from, name=name, reason=error.what)
        same = kept is not None and kept[1].reference.current is model.policy
        reference = kept[1].reference if kept is not None and same else None
        self._compared = None  # the former round's weights go before this one's come
        found = Alternatives(model.policy, previous_checkpoints(model.policy, earlier), reference)
        self._compared = model.manifest.digest, found
        return found


def float32_weights(folder: Path) -> StateArrays:
    """The weights of a checkpoint's folder in name order, mapped from its files.

    Raises:
        CheckpointError: they cannot be read, or one is no float32.
    """
    weights: StateArrays = {}
    for name, tensor in sorted(map_weights(folder).items(), key=lambda item: item[0].encode()):
        if tensor.layout.dtype.name != "F32":
            raise CheckpointError(
                f"the weight {name} is {tensor.layout.dtype.name}, and gradient work trains float32",
                where=str(folder),
                hint="the trainer published another kind of checkpoint under a gradient spec; wait for its next one",
            )
        weights[name] = np.asarray(tensor.bits).view("<f4").reshape(tensor.layout.shape)
    return weights


def _layout(theta: StateArrays, manifest: CheckpointManifest) -> Layout:
    return Layout.of([(name, value.shape) for name, value in theta.items()], GradientSpec.of(manifest.environment))


@torch.no_grad()
def _set_cast(model: PolicyModel, theta: StateArrays) -> None:
    with model.lock:
        state = model.state()
        for name, value in theta.items():
            state[name].copy_(torch.from_numpy(np.array(value)))
        model.weights_changed()


def _same_model(old: CheckpointManifest, new: CheckpointManifest) -> bool:
    return (old.architecture, old.files) == (new.architecture, new.files)
