"""One network's checkpoints in one bucket, as this process knows them: store, cache, and what was read and verified before.

A reader lists the bucket's manifests and reads those it does not know; a manifest verified once is not read again. Whoever
owns the bucket is its only writer (the state folder's lock says so), knows what it put there, and lists it once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.digests import MAX_INDEX_BYTES, WeightsIndex
from grail_core.checkpoints.download import Progress, fetch_bytes, no_progress
from grail_core.checkpoints.manifests import CheckpointSequence, ManifestMemo, StoredManifest, list_manifests
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointManifest, ObjectRef
from grail_core.protocol.types import Digest, Hotkey
from grail_core.storage.base import ObjectStore

MAX_INDICES: Final = 8
"""Indices of weights kept in memory: the head's, and those of the checkpoints that deltas are made from or to."""


MinerStores = Callable[[Hotkey], ObjectStore | None]
"""A miner's bucket, to read; None where it has none, or where it cannot be found now."""


def no_miners(hotkey: Hotkey) -> ObjectStore | None:
    """For who reads what the trainer's bucket has, and nothing else."""
    del hotkey
    return None


class CheckpointBucket:
    """Safe to use from several threads.

    Args:
        trainer: whose signatures count. own: this process is the bucket's only writer.
        uploads: journal of objects on their way into the bucket; only a publisher needs one.
        announcement: file with what the publisher's next manifest announces; None: as the one before it.
        progress: told of bytes as they are fetched or made.
        miners: where else the update files of a merge may lie.
    """

    def __init__(
        self,
        store: ObjectStore,
        cache: CheckpointCache | Path,
        *,
        trainer: Hotkey,
        network_id: Digest,
        own: bool = False,
        uploads: Path | None = None,
        announcement: Path | None = None,
        progress: Progress = no_progress,
        miners: MinerStores = no_miners,
    ) -> None:
        self.store = store
        self.cache = cache if isinstance(cache, CheckpointCache) else CheckpointCache(cache)
        self.trainer = trainer
        self.network_id = network_id
        self.uploads = uploads or self.cache.root / "uploads"
        self.announcement = announcement
        self.progress = progress
        self.miners = miners
        self._own = own
        self._known: CheckpointSequence | None = None
        self._memo: ManifestMemo = {}
        self._indices: OrderedDict[Digest, WeightsIndex] = OrderedDict()
        self._lock = threading.RLock()
        self.left_over: dict[Digest, ObjectRef] = {}  # objects of retired checkpoints that are still to be deleted

    def sequence(self) -> CheckpointSequence:
        """Every manifest of the bucket, verified. One listing, and one read for each manifest not seen before; an owner lists
        the first time only.

        Raises:
            EquivocationError, RollbackError: the signed manifests contradict each other.
            StorageError: the store cannot be read.
        """
        with self._lock:
            return self._known if self._own and self._known is not None else self.refresh()

    def known(self) -> CheckpointSequence:
        """What `sequence` gave last; it is asked only the first time. For what cannot change what was decided already."""
        with self._lock:
            return self.sequence() if self._known is None else self._known

    def refresh(self) -> CheckpointSequence:
        """List the bucket, whoever owns it: after somebody else was found to have written into it. Errors: as `sequence`."""
        with self._lock:
            self._known = list_manifests(self.store, trainer_hotkey=self.trainer, network_id=self.network_id, memo=self._memo)
            return self._known

    def holding(self, manifest: CheckpointManifest) -> CheckpointSequence:
        """A sequence that has this manifest, if the bucket has it. Errors: as `sequence`."""
        known = self.known()
        return known if manifest.digest in known.by_digest else self.refresh()

    def added(self, manifest: CheckpointManifest, stored_at_ms: int) -> None:
        """This process has put a manifest, which follows all others."""
        with self._lock:
            if self._known is not None:
                self._known = self._known.followed_by(StoredManifest(manifest, stored_at_ms))

    def forget(self) -> None:
        """What is there is not known any more: a put whose answer was lost may have been taken. The next look lists."""
        with self._lock:
            self._known = None

    def removed(self, digests: frozenset[Digest]) -> None:
        """This process has deleted manifests."""
        with self._lock:
            if self._known is not None:
                self._known = self._known.without(digests)

    def index(self, manifest: CheckpointManifest) -> WeightsIndex:
        """Names, layouts and digests of a checkpoint's tensors.

        Raises:
            CheckpointError: it is missing, too large, or not the one the manifest names.
        """
        with self._lock:
            found = self._indices.get(manifest.weights_root)
        if found is None:
            if manifest.index.size > MAX_INDEX_BYTES:
                raise CheckpointError("the index of weights is larger than allowed", where=manifest.index.key)
            raw = fetch_bytes(self.store, manifest.index, self.cache.objects)
            found = WeightsIndex.from_bytes(raw, expected_root=manifest.weights_root, where=manifest.index.key)
        with self._lock:
            self._indices[manifest.weights_root] = found
            self._indices.move_to_end(manifest.weights_root)
            while len(self._indices) > MAX_INDICES:
                self._indices.popitem(last=False)
        return found
