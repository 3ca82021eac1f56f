"""The checkpoint in use: model and prompt renderer of one manifest, brought to the next one when the window changes.

A role holds one of these. Consecutive windows mostly differ by one delta; a checkpoint that is loaded already is returned
as it is, and the few older ones a validator compares against are kept by their digest.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from grail_core.checkpoints.manifest import CheckpointManifest
from grail_core.checkpoints.source import CheckpointSource
from grail_core.proof.model import Attention, PolicyModel
from grail_core.prompts import PromptRenderer
from grail_core.protocol.types import Digest


@dataclass(frozen=True)
class LoadedCheckpoint:
    manifest: CheckpointManifest
    folder: Path  # an ordinary Transformers folder in the cache
    model: PolicyModel
    renderer: PromptRenderer


class LiveCheckpoint:
    """Loads checkpoints on demand and keeps the last `keep` in memory."""

    def __init__(
        self, source: CheckpointSource, *, attention: Attention = "sdpa", device: str = "cpu", keep: int = 1
    ) -> None:
        self._source = source
        self._attention: Attention = attention
        self._device = device
        self._keep = keep
        self._loaded: OrderedDict[Digest, LoadedCheckpoint] = OrderedDict()

    def at(self, manifest: CheckpointManifest) -> LoadedCheckpoint:
        """The checkpoint of this manifest, verified and loaded.

        Raises:
            CheckpointError: it cannot be fetched, does not verify or cannot be loaded; what was loaded stays usable.
        """
        digest = manifest.digest
        if digest not in self._loaded:
            folder = self._source.materialise(manifest)
            model = PolicyModel.load(folder, attention=self._attention, device=self._device)
            renderer = PromptRenderer(folder, manifest.thinking_mode)
            self._loaded[digest] = LoadedCheckpoint(manifest, folder, model, renderer)
        self._loaded.move_to_end(digest)
        while len(self._loaded) > self._keep:
            self._loaded.popitem(last=False)
        return self._loaded[digest]
