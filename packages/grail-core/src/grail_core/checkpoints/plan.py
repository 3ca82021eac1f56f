"""Which way to a checkpoint costs least: from what is cached, over deltas, or from a full anchor.

Pure: a graph whose nodes are checkpoints and whose edges are the deltas that manifests offer; a cached checkpoint costs
nothing to start from, an anchor costs its whole weights. Every object counts a little beside its bytes, since each is a
request of its own. A delta of a profile that this software does not know is no edge: a manifest may offer what later versions
read, and stays usable by the others.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from grail_core.checkpoints.delta.frames import Profile
from grail_core.errors import CheckpointError
from grail_core.protocol.gradient.merged import OUTER
from grail_core.protocol.manifest import CheckpointManifest, DeltaRef
from grail_core.protocol.types import Digest
from grail_core.storage.layout import manifest_key

REQUEST_COST = 64 << 10  # bytes that one more object is worth
FRAME_PROFILES: Final = frozenset(profile.value for profile in Profile)
"""Deltas that are frames: what a loaded model can be stepped by in memory, too."""
_USABLE: Final = FRAME_PROFILES | {OUTER}


def usable_deltas(manifest: CheckpointManifest) -> tuple[DeltaRef, ...]:
    """Those of its deltas that this software can apply."""
    return tuple(delta for delta in manifest.deltas if delta.profile in _USABLE)


@dataclass(frozen=True)
class Route:
    """Start from `start` (cached, or fetched whole), then apply `steps`, each paired with the manifest it leads to."""

    start: Digest
    fetch_start: bool  # False: it is in the cache
    steps: tuple[tuple[DeltaRef, CheckpointManifest], ...]
    bytes: int  # to download for the weights
    objects: int


def cheapest_route(
    target: CheckpointManifest,
    known: Mapping[Digest, CheckpointManifest],
    cached: Collection[Digest],
    lacking: Collection[Digest] = (),
) -> Route:
    """Dijkstra from everything that can be had at once to `target`; ties go to fewer bytes.

    Args:
        known: verified manifests by digest; `target` need not be among them.
        cached: checkpoints on this disk, trusted only once their weights root is checked.
        lacking: SHA-256 of objects that cannot be had (a manifest may come before its shards).

    Raises:
        CheckpointError: no anchor and no cached checkpoint leads to the target.
    """
    manifests = {**known, target.digest: target}
    onward: dict[Digest, list[tuple[DeltaRef, CheckpointManifest]]] = {}
    for manifest in manifests.values():
        for delta in usable_deltas(manifest):
            onward.setdefault(delta.base, []).append((delta, manifest))
    best: dict[Digest, Route] = {}
    queue: list[tuple[int, int, bytes, Route]] = []

    def offer(node: Digest, route: Route) -> None:
        heapq.heappush(queue, (route.bytes + REQUEST_COST * route.objects, len(queue), node, route))

    for digest in cached:
        offer(digest, Route(digest, False, (), 0, 0))
    for digest, manifest in manifests.items():
        if manifest.shards and all(shard.object.sha256 not in lacking for shard in manifest.shards):
            offer(digest, Route(digest, True, (), manifest.full_size, len(manifest.shards)))
    while queue:
        _, _, raw, route = heapq.heappop(queue)
        node = Digest(raw)
        if node in best:
            continue
        best[node] = route
        if node == target.digest:
            return route
        for delta, manifest in onward.get(node, ()):
            if any(part.sha256 in lacking for part in delta.parts):
                continue
            step = (*route.steps, (delta, manifest))
            size, objects = route.bytes + delta.size, route.objects + len(delta.parts)
            offer(manifest.digest, Route(route.start, route.fetch_start, step, size, objects))
    raise CheckpointError(
        f"no anchor and no sequence of deltas leads to checkpoint {target.sequence}",
        where=manifest_key(target.valid_from),
        hint="the checkpoints before it were retired and it offers no full weights; wait for the next anchor",
    )
