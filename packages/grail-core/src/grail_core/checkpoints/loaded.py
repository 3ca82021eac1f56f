"""The checkpoint in use: model and prompt renderer of one manifest, brought to the next one when the window changes.

A role holds one of these. Consecutive windows mostly differ by one delta; a checkpoint that is loaded already is returned
as it is, and the few older ones a validator compares against are kept by their digest.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from grail_core.checkpoints.pinned_table import PinnedTable
from grail_core.checkpoints.source import CheckpointSource
from grail_core.model.described import ModelDescription
from grail_core.model.policy_model import Attention, PolicyModel, require_device
from grail_core.model.prompts import PromptRenderer
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest


@dataclass(frozen=True)
class PreparedCheckpoint:
    """A verified checkpoint and what of it needs no weights in this process."""

    manifest: CheckpointManifest
    folder: Path  # an ordinary Transformers folder: configuration and tokenizer are this checkpoint's
    renderer: PromptRenderer
    description: ModelDescription
    pinned: PinnedTable  # what its work is judged by


@dataclass(frozen=True)
class LoadedCheckpoint(PreparedCheckpoint):
    """With its model in this process. The folder's weights may be an earlier checkpoint's: these are stepped in memory."""

    model: PolicyModel


class LiveCheckpoint:
    """Loads checkpoints on demand and keeps the last `keep` in memory."""

    def __init__(self, source: CheckpointSource, *, attention: Attention = "sdpa", device: str = "cpu", keep: int = 1) -> None:
        require_device(device)
        self._source = source
        self._attention: Attention = attention
        self._device = device
        self._keep = keep
        self._loaded: OrderedDict[Digest, LoadedCheckpoint] = OrderedDict()

    @property
    def attention(self) -> Attention:
        return self._attention

    @property
    def device(self) -> str:
        return self._device

    def at(self, manifest: CheckpointManifest) -> LoadedCheckpoint:
        """The checkpoint of this manifest, verified and loaded.

        With `keep` = 1 the loaded model itself is stepped to the new weights where a delta leads there, so that one copy of
        the weights is all the memory needed; a handle to the older checkpoint is not to be used any more then.

        Raises:
            CheckpointError: it cannot be fetched, does not verify or cannot be loaded; what was loaded stays usable.
        """
        digest = manifest.digest
        if digest not in self._loaded:
            stepped = self._step(manifest) if self._keep == 1 else None
            if stepped is not None:
                self._loaded.clear()
            self._loaded[digest] = stepped or self._load(manifest)
        self._loaded.move_to_end(digest)
        while len(self._loaded) > self._keep:
            self._loaded.popitem(last=False)
        return self._loaded[digest]

    def _load(self, manifest: CheckpointManifest) -> LoadedCheckpoint:
        pinned = self._source.table(manifest)
        folder = self._source.materialise(manifest)
        model = PolicyModel.load(folder, attention=self._attention, device=self._device)
        renderer = PromptRenderer(folder, manifest.thinking_mode)
        return LoadedCheckpoint(manifest, folder, renderer, description_of(model), pinned, model)

    def _step(self, manifest: CheckpointManifest) -> LoadedCheckpoint | None:
        """The loaded model with the weights of `manifest`, None where no delta leads from one to the other, or where the model
        is a cast of its checkpoint: this software runs in bf16 what a float32 checkpoint holds."""
        current = next(iter(self._loaded.values()), None)
        if current is None or self._device != "cpu" or not _differ_in_weights_only(current.manifest, manifest):
            return None
        with current.model.lock:
            if not self._source.can_step(current.model.state(), current.manifest, manifest):
                return None
            pinned = self._source.table(manifest)
            self._source.apply_to_model(current.model.state(), current.manifest, manifest)
            current.model.weights_changed()
        return LoadedCheckpoint(manifest, current.folder, current.renderer, current.description, pinned, current.model)


def description_of(model: PolicyModel) -> ModelDescription:
    """What `ModelDescription.of` reads from the files, of the loaded model."""
    return ModelDescription(model.vocabulary_size, model.context_length, model.layers, model.hidden_size)


def _differ_in_weights_only(old: CheckpointManifest, new: CheckpointManifest) -> bool:
    return (old.architecture, old.files, old.thinking_mode) == (new.architecture, new.files, new.thinking_mode)
