"""The trainer's bucket as a participant reads it: where it is, which checkpoint a window uses, and its folder on this disk.

The bucket is found through the commitment of the network's trainer hotkey on chain, never through a setting of the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grail_core.chain.base import Chain, time_of_block_ms
from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.cache import DEFAULT_LIMIT_BYTES, CheckpointCache
from grail_core.checkpoints.fetch import apply_to_model, can_step, download_step, materialise, table_bytes
from grail_core.checkpoints.inspection import SequenceReport, inspect_sequence
from grail_core.checkpoints.manifests import CheckpointSequence, select
from grail_core.checkpoints.pinned_table import PinnedTable, given_table, pinned_table
from grail_core.checkpoints.seen import SeenCheckpoints
from grail_core.checkpoints.trainer_life import TrainerLife, trainer_life
from grail_core.disk import storage_errors, write_atomically
from grail_core.errors import ChainError, CheckpointError, StorageError
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.base import ObjectStore, StoreDirectory


class CheckpointSource:
    """Reads one network's checkpoints; safe to use from several threads, and from several processes with one cache.

    Args:
        cache_dir: checkpoints lie below it, by network.
        seen: file that remembers which checkpoints were seen, so that a rewritten history is found out.
        own: the trainer's own bucket, where this process is the trainer.
        cache_limit_bytes: of checkpoints on this disk.
        calibration: where else to have the table of the running checkpoint from: a file of that very digest.
    """

    def __init__(
        self,
        chain: Chain,
        directory: StoreDirectory,
        params: NetworkParameters,
        network_id: Digest,
        cache_dir: Path,
        *,
        seen: Path | None = None,
        own: CheckpointBucket | None = None,
        cache_limit_bytes: int = DEFAULT_LIMIT_BYTES,
        calibration: Path | None = None,
    ) -> None:
        self._chain = chain
        self._directory = directory
        self._params = params
        self._network_id = network_id
        self.cache = CheckpointCache(cache_of(cache_dir, network_id), limit_bytes=cache_limit_bytes)
        if seen is not None and not seen.exists() and (former := self.cache.root / "seen.json").is_file():
            with storage_errors(former):
                data = former.read_bytes()
            write_atomically(seen, data)  # an earlier version kept it in the cache
        self._seen = SeenCheckpoints(seen) if seen is not None else None
        self._own = own
        self._calibration = calibration
        self._opened: tuple[str, CheckpointBucket] | None = None

    def view(self) -> CheckpointSequence:
        """Every manifest of the trainer's bucket, verified, and compared with what this machine has seen before.

        Raises:
            CheckpointError: the trainer has no bucket, or its sequence contradicts itself.
            StorageError, ChainError: the bucket or the chain cannot be read.
        """
        view = self.bucket().sequence()
        if self._seen is not None:
            self._seen.check(view)
        return view

    def valid_at(self, window: Window, view: CheckpointSequence | None = None) -> CheckpointManifest:
        """The checkpoint of a window (section 3). Errors: as `view`; CheckpointError too where none is valid yet.

        Args:
            view: what `view` gave just now; None: it is asked.
        """
        return select(self.view() if view is None else view, window, self._params, self._time_of)

    def life(self, window: Window, view: CheckpointSequence | None = None) -> TrainerLife:
        """What the sequence says of its trainer in a window: upgrades, silence. Errors: as `view`; ChainError."""
        return trainer_life(self.view() if view is None else view, window, self._params, self._time_of)

    def before(self, manifest: CheckpointManifest, count: int) -> tuple[CheckpointManifest, ...]:
        """Up to `count` checkpoints before this one, newest first: what a proof is compared against."""
        stored = self.bucket().holding(manifest).stored
        older = [item.manifest for item in stored if item.manifest.sequence < manifest.sequence]
        return tuple(older[::-1][:count])

    def materialise(self, manifest: CheckpointManifest) -> Path:
        """The checkpoint as a Transformers folder in the cache; see `fetch.materialise`."""
        return materialise(manifest, self.bucket())

    def table(self, manifest: CheckpointManifest) -> PinnedTable:
        """The calibration table that a checkpoint pins, verified and within the network's limits.

        Raises:
            CheckpointError: it pins none, or one that does not parse or is wider than the network admits.
            ConfigurationError: this machine was given another.
            StorageError: the bucket cannot be read.
        """
        if self._calibration is not None:
            return given_table(manifest, self._calibration, self._params)
        bucket = self.bucket()
        raw = table_bytes(manifest, bucket)
        return pinned_table(manifest, raw, self._params)

    def can_step(self, state: Mapping[str, Any], current: CheckpointManifest, target: CheckpointManifest) -> bool:
        """Can `apply_to_model` bring this model there? See `fetch.can_step`."""
        return can_step(state, current, target, self.bucket())

    def apply_to_model(self, state: Mapping[str, Any], current: CheckpointManifest, target: CheckpointManifest) -> None:
        """Step a loaded model from one checkpoint to another in place; see `fetch.apply_to_model`."""
        apply_to_model(state, current, target, self.bucket())

    def download_step(self, current: CheckpointManifest, target: CheckpointManifest) -> None:
        """Have at hand what `apply_to_model` needs; see `fetch.download_step`."""
        download_step(current, target, self.bucket())

    def inspect(self, *, check_objects: bool = False) -> SequenceReport:
        """The sequence as a person would look at it."""
        return inspect_sequence(self.bucket(), self._params, self._time_of, check_objects=check_objects)

    def bucket(self) -> CheckpointBucket:
        """The trainer's bucket, as its commitment says now."""
        if self._own is not None:
            return self._own
        trainer = self._params.trainer_hotkey
        neuron = self._chain.metagraph().by_hotkey(trainer)
        if neuron is None or neuron.commitment is None:
            raise CheckpointError(
                "the network's trainer has committed no bucket" if neuron else "the network's trainer is not registered",
                where=f"hotkey {trainer.hex()}",
                hint="check the network's parameters; the trainer commits its bucket when it starts",
            )
        if self._opened is None or self._opened[0] != neuron.commitment:
            store = self._directory.open(neuron.commitment)
            bucket = CheckpointBucket(store, self.cache, trainer=trainer, network_id=self._network_id, miners=self.miner_store)
            self._opened = (neuron.commitment, bucket)
        return self._opened[1]

    def miner_store(self, hotkey: Hotkey) -> ObjectStore | None:
        """The bucket that a miner has committed; None where there is none, or it cannot be found out now."""
        try:
            neuron = self._chain.metagraph().by_hotkey(hotkey)
            return None if neuron is None or neuron.commitment is None else self._directory.open(neuron.commitment)
        except (ChainError, StorageError):
            return None

    def _time_of(self, block: Block) -> int:
        return time_of_block_ms(self._chain, block, self._params.block_time_ms)


def cache_of(cache_dir: Path, network_id: Digest) -> Path:
    """Where a network's checkpoints lie in the cache."""
    return cache_dir / "checkpoints" / network_id.hex()[:16]
