"""Objects that a manifest in the bucket names and the bucket does not have yet: how they come after it.

Full weights may take longer to upload than a checkpoint has. Its manifest is put first then; what the publisher owes lies on
its own disk, written there before the manifest is put: the digest of the manifest, and the parts of its deltas. Shards are made
again from the checkpoint in its cache. A publisher killed anywhere goes on with `complete`. Readers go another way until
the objects are there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.delta.shards import SHARD_BYTES, map_weights, plan_shards, shard_bytes
from grail_core.checkpoints.fetch import materialise
from grail_core.checkpoints.uploads import Uploads
from grail_core.disk import remove_any, storage_errors, write_atomically
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointManifest, FileRef, ObjectRef
from grail_core.protocol.types import Digest
from grail_core.storage.layout import manifest_key
from grail_core.telemetry import get_logger

log = get_logger(__name__)

_NAME = re.compile("[0-9a-f]{64}")


class DueObjects:
    """What a publisher owes, in a folder beside the journal of its uploads."""

    def __init__(self, bucket: CheckpointBucket) -> None:
        folder = bucket.uploads.with_name(f"{bucket.uploads.name}-due")
        self._owed, self._parts = folder / "manifests", folder / "parts"

    def keep(self, data: bytes) -> ObjectRef:
        """Put a part aside until it is uploaded. Errors: StorageError, DiskFullError."""
        ref = ObjectRef.of(data)
        path = self._parts / ref.sha256.hex()
        if not path.is_file():
            write_atomically(path, data)
        return ref

    def owe(self, manifest: CheckpointManifest) -> None:
        """Before the manifest is put: from now on a restarted publisher knows. Errors: StorageError, DiskFullError."""
        write_atomically(self._owed / manifest.digest.hex(), b"")

    def owed(self) -> list[Digest]:
        """Digests of manifests of which something may be missing."""
        return [Digest(bytes.fromhex(path.name)) for path in self._named(self._owed)]

    def part(self, ref: ObjectRef) -> bytes | None:
        """A part that was put aside; None where it is not here or not whole."""
        path = self._parts / ref.sha256.hex()
        with storage_errors(path):
            data = path.read_bytes() if path.is_file() else b""
        return data if ObjectRef.of(data) == ref else None

    def paid(self, digest: Digest) -> None:
        """All of this manifest's objects are in the bucket."""
        remove_any(self._owed / digest.hex())

    def sweep(self, live: Collection[CheckpointManifest]) -> None:
        """Forget manifests that are not (any more) in the bucket, and parts that none of those owed names. Not while one is
        being published."""
        by_digest = {manifest.digest: manifest for manifest in live}
        for digest in self.owed():
            if digest not in by_digest:
                self.paid(digest)
        named = {sha256.hex() for digest in self.owed() for sha256 in by_digest[digest].objects()}
        for path in self._named(self._parts):
            if path.name not in named:
                remove_any(path)

    @staticmethod
    def _named(folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def complete(bucket: CheckpointBucket, *, shard_limit: int = SHARD_BYTES) -> int:
    """Upload what manifests in the bucket name and their publisher still owes, oldest first. Returns how many objects.

    May run beside the publication of the next checkpoint, in one thread at a time; killed anywhere, it is called again.

    Args:
        shard_limit: as for `publish`.

    Raises:
        StorageError, DiskFullError: the store or the disk fails; call again.
        CheckpointError: the weights of an owed checkpoint cannot be had here any more.
    """
    due, uploads = DueObjects(bucket), Uploads(bucket.store, bucket.uploads)
    owed = set(due.owed())
    sent = 0
    for item in bucket.sequence().stored:
        manifest = item.manifest
        if manifest.digest not in owed:
            continue
        whole = True
        for ref in (part for delta in manifest.deltas for part in delta.parts):
            if bucket.store.head(ref.key) is None:
                data = due.part(ref)
                if data is None:
                    log.event("delta_part_lost", key=ref.key, sequence=manifest.sequence)
                    whole = False
                    continue
                uploads.put(data)
                sent += 1
        missing = [shard for shard in manifest.shards if bucket.store.head(shard.object.key) is None]
        for data in _shards(manifest, missing, bucket, shard_limit):
            uploads.put(data)
            sent += 1
        due.paid(manifest.digest)
        log.event("checkpoint_completed", sequence=manifest.sequence, objects=sent, whole=whole)
    return sent


def _shards(manifest: CheckpointManifest, missing: list[FileRef], bucket: CheckpointBucket, limit: int) -> Iterator[bytes]:
    """The bytes of these files of the manifest's weights, one at a time, from the publisher's cache."""
    if not missing:
        return
    state = map_weights(materialise(manifest, bucket))
    plans = {plan.name: plan for plan in plan_shards({name: tensor.layout for name, tensor in state.items()}, limit)}
    for shard in missing:
        plan = plans.get(shard.path)
        data = shard_bytes(plan, state) if plan is not None else b""
        if ObjectRef.of(data) != shard.object:
            raise CheckpointError(
                f"{shard.path} cannot be made again as the manifest names it",
                where=manifest_key(manifest.valid_from),
                hint="it was published in files of another size: say the same size again",
            )
        yield data
