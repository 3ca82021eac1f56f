"""The objects of a delta on this disk: from the trainer's bucket, or, of a merge, from the buckets of those who made its files.

A merge's parts come into the trainer's bucket late, and may go early; the same bytes lie in the miners' own. A part is a range
of the merged files one after the other, so it is put together from ranges of their update files. Whoever they come from, a part
counts once its SHA-256 is the one that the manifest names.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from grail_core.checkpoints.bucket import CheckpointBucket, MinerStores
from grail_core.checkpoints.delta.frames import Frame, read_frames
from grail_core.checkpoints.download import fetch_object
from grail_core.checkpoints.outer import merged_of
from grail_core.errors import CheckpointError, DiskFullError, MissingObjectError, StorageError
from grail_core.keys import ss58
from grail_core.protocol.gradient.merged import OUTER, Merged, MergedUpdate
from grail_core.protocol.manifest import CheckpointManifest, DeltaRef, ObjectRef
from grail_core.storage.base import ObjectInfo, ObjectNotFoundError, ObjectStore
from grail_core.storage.layout import update_key
from grail_core.telemetry import get_logger

log = get_logger(__name__)


@contextmanager
def opened_parts(delta: DeltaRef, manifest: CheckpointManifest, bucket: CheckpointBucket) -> Iterator[list[mmap.mmap]]:
    """The parts of a delta to this manifest, as mapped files whose hashes were checked.

    Raises:
        MissingObjectError: a part is nowhere. CheckpointError: its bytes are not those that the manifest names.
        StorageError: the store or the disk fails.
    """
    with ExitStack() as stack:
        maps = []
        for number in range(len(delta.parts)):
            file = stack.enter_context(fetch_part(delta, number, manifest, bucket).open("rb"))
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield maps


@contextmanager
def delta_frames(
    delta: DeltaRef, manifest: CheckpointManifest, bucket: CheckpointBucket
) -> Iterator[Callable[[], Iterator[Frame]]]:
    """A function that yields the delta's frames, as often as it is called. Errors: as `opened_parts`."""
    where = f"delta to {delta.parts[0].key}"
    with opened_parts(delta, manifest, bucket) as maps:

        def frames() -> Iterator[Frame]:
            for number, part in enumerate(maps):
                yield from read_frames(part, where=where, continued=number > 0)

        yield frames


def fetch_part(delta: DeltaRef, number: int, manifest: CheckpointManifest, bucket: CheckpointBucket) -> Path:
    """One part as a file of the cache. Errors: as `opened_parts`."""
    ref, folder = delta.parts[number], bucket.cache.objects
    try:
        return fetch_object(bucket.store, ref, folder, progress=bucket.progress)
    except MissingObjectError as missing:
        if delta.profile != OUTER:
            raise
        merged, _ = merged_of(manifest)
        miners = PartAtMiners(ref, sum(part.size for part in delta.parts[:number]), merged, bucket.miners)
        try:
            path = fetch_object(miners, ref, folder, progress=bucket.progress)
        except DiskFullError:
            raise
        except (CheckpointError, StorageError) as error:
            log.event("part_not_at_miners", key=ref.key, sequence=manifest.sequence, reason=error.what)
            raise missing from error
        log.event("part_from_miners", key=ref.key, sequence=manifest.sequence)
        return path


class PartAtMiners:
    """One object of a merge, read from the buckets of the miners whose update files it is made of.

    Args:
        part: the object. start: where it begins in the merged files one after the other.
    """

    def __init__(self, part: ObjectRef, start: int, merged: Merged, miners: MinerStores) -> None:
        self._part, self._start, self._merged, self._miners = part, start, merged, miners

    def head(self, key: str) -> ObjectInfo | None:
        """As of a store. The ETag follows from those of all files, so that a file that is replaced meanwhile is noticed."""
        del key
        etags = hashlib.sha256()
        for update, _, _ in self._ranges(0, self._part.size):
            info = self._store(update).head(self._key(update))
            if info is None or info.size != update.size:
                return None
            etags.update(info.etag.encode())
        return ObjectInfo(self._part.key, self._part.size, etags.hexdigest(), 0)

    def get(
        self, key: str, *, max_bytes: int, if_match: str | None = None, offset: int = 0, length: int | None = None
    ) -> bytes:
        """As of a store, for a range within the part; whether the files are still those of `if_match` is left to the hash."""
        del key, if_match
        wanted = self._part.size - offset if length is None else length
        pieces = []
        for update, at, size in self._ranges(offset, min(wanted, max_bytes)):
            store = self._store(update)
            pieces.append(store.get(self._key(update), max_bytes=size, offset=at, length=size))
        return b"".join(pieces)

    def _ranges(self, offset: int, length: int) -> Iterator[tuple[MergedUpdate, int, int]]:
        """Which bytes of which files: update, where in its file, how many."""
        begin, end, at = self._start + offset, self._start + offset + length, 0
        for update in self._merged.merged:
            first, last = max(begin, at), min(end, at + update.size)
            if first < last:
                yield update, first - at, last - first
            at += update.size

    def _key(self, update: MergedUpdate) -> str:
        return update_key(ss58(update.hotkey), self._merged.round)

    def _store(self, update: MergedUpdate) -> ObjectStore:
        store = self._miners(update.hotkey)
        if store is None:
            raise ObjectNotFoundError("the miner of a merged update has no bucket", where=ss58(update.hotkey))
        return store
