"""One step of a route: new weights, in files, from those before and one delta. Frames are hashed at the end of the route."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.delta.codec import Check, decode, result_layouts
from grail_core.checkpoints.delta.digests import WeightsIndex
from grail_core.checkpoints.delta.shards import create_weights
from grail_core.checkpoints.delta.tensors import Layout, RawTensor
from grail_core.checkpoints.delta_parts import delta_frames, opened_parts
from grail_core.checkpoints.outer import apply_outer, require_outer
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointManifest, DeltaRef
from grail_core.storage.layout import manifest_key


def frames_step(
    state: Mapping[str, RawTensor],
    delta: DeltaRef,
    manifest: CheckpointManifest,
    wanted: Mapping[str, Layout] | None,
    limit: int,
    place: Path,
    bucket: CheckpointBucket,
) -> dict[str, RawTensor]:
    """The tensors that a delta of frames leads to, as files in `place`; they are hashed at the end of the route."""
    with delta_frames(delta, manifest, bucket) as frames:
        layouts = result_layouts(state, frames())
        if wanted is not None and layouts != wanted:
            raise CheckpointError(
                "the delta leads to other tensors than the manifest's index names", where=manifest_key(manifest.valid_from)
            )
        if sum(layout.nbytes for layout in layouts.values()) > limit:
            raise CheckpointError(
                "the delta leads to weights far larger than the target's", where=manifest_key(manifest.valid_from)
            )
        made = create_weights(place, layouts)
        decode(state, frames(), check=Check.NOTHING, allocate=lambda name, _layout: made[name])
    return made


def merge_step(
    state: Mapping[str, RawTensor],
    delta: DeltaRef,
    manifest: CheckpointManifest,
    index: WeightsIndex,
    place: Path,
    bucket: CheckpointBucket,
) -> dict[str, RawTensor]:
    """The tensors that a merge leads to, as files in `place`, each checked as it is made."""
    require_outer(manifest, delta, index)
    layouts = {name: tensor.layout for name, tensor in state.items()}
    if layouts != {name: entry.layout for name, entry in index.tensors.items()}:
        raise CheckpointError(
            "a merge leads to the tensors that it begins with, and the index names others",
            where=manifest_key(manifest.valid_from),
        )
    with opened_parts(delta, manifest, bucket) as parts:
        made = create_weights(place, layouts)
        apply_outer(state, manifest, [memoryview(part) for part in parts], index, make=lambda name, _layout: made[name])
    return made
