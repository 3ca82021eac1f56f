"""The trainer's bucket as a participant reads it: where it is, which checkpoint a window uses, and its folder on this disk.

The bucket is found through the commitment of the network's trainer hotkey on chain, never through a setting of the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grail_core.chain.base import Chain, time_of_block_ms
from grail_core.checkpoints.cache import DEFAULT_LIMIT_BYTES, CheckpointCache
from grail_core.checkpoints.download import Progress, no_progress
from grail_core.checkpoints.fetch import apply_to_model, materialise
from grail_core.checkpoints.inspection import SequenceReport, inspect_sequence
from grail_core.checkpoints.manifests import ChainMemory, CheckpointSequence, ManifestMemo, list_manifests, select
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Digest, Window
from grail_core.storage.base import ObjectStore, StoreDirectory


class CheckpointSource:
    """Reads one network's checkpoints; safe to use from several threads, and from several processes with one cache."""

    def __init__(
        self,
        chain: Chain,
        directory: StoreDirectory,
        params: NetworkParameters,
        network_id: Digest,
        cache_dir: Path,
        *,
        cache_limit_bytes: int = DEFAULT_LIMIT_BYTES,
        progress: Progress = no_progress,
    ) -> None:
        self._chain = chain
        self._directory = directory
        self._params = params
        self._network_id = network_id
        self._progress = progress
        root = cache_dir / "checkpoints" / network_id.hex()[:16]
        self.cache = CheckpointCache(root, limit_bytes=cache_limit_bytes)
        self._memory = ChainMemory(root / "seen.json")
        self._memo: ManifestMemo = {}
        self._opened: tuple[str, ObjectStore] | None = None

    def view(self) -> CheckpointSequence:
        """Every manifest of the trainer's bucket, verified, and compared with what this machine has seen before.

        Raises:
            CheckpointError: the trainer has no bucket, or its sequence contradicts itself.
            StorageError, ChainError: the bucket or the chain cannot be read.
        """
        view = list_manifests(
            self.store(), trainer_hotkey=self._params.trainer_hotkey, network_id=self._network_id, memo=self._memo
        )
        self._memory.check(view)
        return view

    def valid_at(self, window: Window) -> CheckpointManifest:
        """The checkpoint of a window (section 3). Errors: as `view`; CheckpointError too where none is valid yet."""
        return select(self.view(), window, self._params, self._time_of)

    def before(self, manifest: CheckpointManifest, count: int) -> tuple[CheckpointManifest, ...]:
        """Up to `count` checkpoints before this one, newest first: what a proof is compared against."""
        older = [item.manifest for item in self.view().stored if item.manifest.sequence < manifest.sequence]
        return tuple(older[::-1][:count])

    def materialise(self, manifest: CheckpointManifest) -> Path:
        """The checkpoint as a Transformers folder in the cache; see `fetch.materialise`."""
        return materialise(manifest, self.cache, self.store(), progress=self._progress)

    def apply_to_model(self, state: Mapping[str, Any], current: CheckpointManifest, target: CheckpointManifest) -> None:
        """Step a loaded model from one checkpoint to another in place; see `fetch.apply_to_model`."""
        apply_to_model(state, current, target, self.store(), self.cache, progress=self._progress)

    def inspect(self, *, check_objects: bool = False) -> SequenceReport:
        """The sequence as a person would look at it."""
        return inspect_sequence(self.store(), self._params, self._network_id, self._time_of, check_objects=check_objects)

    def current_block(self) -> Block:
        return self._chain.current_block()

    def store(self) -> ObjectStore:
        """The trainer's bucket, as its commitment says now."""
        trainer = self._params.trainer_hotkey
        neuron = self._chain.metagraph().by_hotkey(trainer)
        if neuron is None or neuron.commitment is None:
            raise CheckpointError(
                "the network's trainer has committed no bucket" if neuron else "the network's trainer is not registered",
                where=f"hotkey {trainer.hex()}",
                hint="check the network's parameters; the trainer commits its bucket when it starts",
            )
        if self._opened is None or self._opened[0] != neuron.commitment:
            self._opened = (neuron.commitment, self._directory.open(neuron.commitment))
        return self._opened[1]

    def _time_of(self, block: Block) -> int:
        return time_of_block_ms(self._chain, block, self._params.block_time_ms)
