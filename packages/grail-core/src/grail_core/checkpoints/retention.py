"""Which checkpoints a bucket keeps, as a pure function of its manifests, and the deletion that follows from it.

Kept: the first checkpoint, the anchors, the newest, and whatever lies on the shortest way from a kept anchor to a kept
checkpoint. An object goes only if a retired manifest names it and no kept one does; objects of unknown origin are never
touched. Manifests are deleted before their objects, so that no reader finds a manifest whose objects are already gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.plan import usable_deltas
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointManifest, ObjectRef
from grail_core.protocol.types import Digest
from grail_core.storage.layout import manifest_key

NEWEST_KEPT = 52
"""Somewhat more than the windows for which validators keep files: who audits training needs what they were drawn from."""


@dataclass(frozen=True)
class Retention:
    keep: tuple[CheckpointManifest, ...]
    retire: tuple[CheckpointManifest, ...]
    unreferenced: tuple[ObjectRef, ...]  # named by a retired manifest and by no kept one


def retention(
    manifests: Sequence[CheckpointManifest], *, newest: int = NEWEST_KEPT, newest_anchors: int | None = None
) -> Retention:
    """What to keep of a sequence.

    Args:
        manifests: every manifest of the bucket.
        newest: how many of the newest checkpoints readers must be able to fetch.
        newest_anchors: how many anchors to keep beside the first checkpoint; None: all of them.

    Raises:
        ValueError: `newest` is below 1.
    """
    if newest < 1:
        raise ValueError("the newest checkpoint is always kept")
    ordered = sorted(manifests, key=lambda m: m.sequence)
    if not ordered:
        return Retention((), (), ())
    anchors = [m for m in ordered if m.shards]
    chosen = anchors if newest_anchors is None else anchors[max(0, len(anchors) - newest_anchors) :]
    keep = {m.digest: m for m in [ordered[0], *chosen, *ordered[-newest:]]}
    by_digest = {m.digest: m for m in ordered}
    for manifest in list(keep.values()):
        for needed in _way_from_anchor(manifest, by_digest):
            keep[needed.digest] = needed
    kept = tuple(m for m in ordered if m.digest in keep)
    retired = tuple(m for m in ordered if m.digest not in keep)
    live = {sha256 for m in kept for sha256 in m.objects()}
    dead = {sha256: ref for m in retired for sha256, ref in m.objects().items() if sha256 not in live}
    return Retention(kept, retired, tuple(dead.values()))


def retire(bucket: CheckpointBucket, *, newest: int = NEWEST_KEPT, newest_anchors: int | None = None) -> Retention:
    """Delete what `retention` lets go from the trainer's own bucket. Killed halfway, it leaves unreferenced objects only.

    Raises:
        CheckpointError: a manifest cannot be read, so nothing is deleted.
        StorageError: the store failed; call again: what is left over of this call is deleted then.
    """
    store, view = bucket.store, bucket.sequence()
    if view.refused:
        raise CheckpointError(
            "nothing is deleted while a manifest cannot be read",
            where=view.refused[0].key,
            hint=f"remove or repair it first: {view.refused[0].error.what}",
        )
    plan = retention([item.manifest for item in view.stored], newest=newest, newest_anchors=newest_anchors)
    for manifest in plan.retire:
        store.delete(manifest_key(manifest.valid_from))
    bucket.removed(frozenset(manifest.digest for manifest in plan.retire))
    live = {sha256 for manifest in plan.keep for sha256 in manifest.objects()}
    bucket.left_over |= {ref.sha256: ref for ref in plan.unreferenced}
    for sha256, ref in list(bucket.left_over.items()):
        if sha256 not in live:
            store.delete(ref.key)
        del bucket.left_over[sha256]
    return plan


def _way_from_anchor(manifest: CheckpointManifest, by_digest: dict[Digest, CheckpointManifest]) -> list[CheckpointManifest]:
    """The checkpoints on a way with the fewest deltas from an anchor to `manifest`, both included; only itself if none."""
    before: dict[Digest, Digest | None] = {manifest.digest: None}
    queue = [manifest]
    for current in queue:
        if current.shards:
            way, node = [], current.digest
            while True:
                way.append(by_digest[node])
                following = before[node]
                if following is None:
                    return way
                node = following
        for delta in sorted(usable_deltas(current), key=lambda d: d.base_sequence):
            if delta.base in by_digest and delta.base not in before:
                before[delta.base] = current.digest
                queue.append(by_digest[delta.base])
    return [manifest]
