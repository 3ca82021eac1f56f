"""From a manifest to weights that can be used: a Transformers folder in the disk cache, or a step of the model in memory.

`materialise` takes the cheapest way (cached folder, cached ancestor and deltas, or full weights and deltas), builds the folder
beside the others and hashes every tensor against the manifest's weights root before the folder gets its name. `apply_to_model`
turns the loaded model into the next checkpoint in place, after every frame has been checked. Whatever fails, what is loaded
and what is cached stay as they were, and the error names the tensor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.cache import MANIFEST_FILE
from grail_core.checkpoints.delta.codec import apply
from grail_core.checkpoints.delta.digests import WeightsIndex, digest_state
from grail_core.checkpoints.delta.shards import map_weights, plan_shards, shard_index
from grail_core.checkpoints.delta.tensors import RawTensor, raw_state
from grail_core.checkpoints.delta.weight_files import INDEX_FILE
from grail_core.checkpoints.delta_parts import delta_frames
from grail_core.checkpoints.download import fetch_bytes, fetch_object, fetch_range, read_object
from grail_core.checkpoints.manifests import CheckpointSequence
from grail_core.checkpoints.pinned_table import CALIBRATION_FILE, pinned_object
from grail_core.checkpoints.plan import FRAME_PROFILES, Route, cheapest_route, usable_deltas
from grail_core.checkpoints.route_steps import frames_step, merge_step
from grail_core.checkpoints.safety import MAX_FILE_BYTES, check_model_files
from grail_core.disk import is_full, storage_errors
from grail_core.errors import CheckpointError, DiskFullError, MissingObjectError
from grail_core.protocol.gradient.merged import OUTER
from grail_core.protocol.manifest import CheckpointManifest, DeltaRef, ObjectRef
from grail_core.protocol.types import Digest
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import manifest_key
from grail_core.telemetry import get_logger

log = get_logger(__name__)

MAX_LACKING: Final = 16
"""Objects that may be missing before a way is found; each costs a request."""


def materialise(manifest: CheckpointManifest, bucket: CheckpointBucket) -> Path:
    """An ordinary Transformers folder with exactly this checkpoint's weights, config and tokenizer.

    The folder lies in the bucket's cache, which the processes of this machine share; it must not be changed.

    Raises:
        CheckpointError: an object is missing, wrong or unsafe, or no way leads to this checkpoint; names key or tensor.
        StorageError, DiskFullError: the store or the disk fails; a later call goes on where this one stopped.
    """
    cache = bucket.cache
    with storage_errors(cache.root):
        refs = _with_room(manifest, bucket)
    with cache.alone() as alone:
        if alone:
            for ref in refs:
                (cache.objects / ref.sha256.hex()).unlink(missing_ok=True)
            cache.trim(keep={manifest.digest})
    return cache.folder(manifest.digest)


def _with_room(manifest: CheckpointManifest, bucket: CheckpointBucket) -> list[ObjectRef]:
    """`_materialise`, with old entries evicted for it: up to the limit before, and where the device is full all the same."""
    cache = bucket.cache
    if cache.entry(manifest.digest) is None:
        with cache.shared():
            size = sum(entry.layout.nbytes for entry in bucket.index(manifest).tensors.values())
        cache.make_room(2 * size, keep={manifest.digest})  # beside what is downloaded, which becomes part of it or goes
    while True:
        try:
            with cache.shared():
                return _materialise(manifest, bucket)
        except DiskFullError:
            if not cache.evict_oldest(keep={manifest.digest}):
                raise


def _materialise(manifest: CheckpointManifest, bucket: CheckpointBucket) -> list[ObjectRef]:
    """Make the cache's entry; returns the large objects that are in it now and need not be kept apart."""
    cache = bucket.cache
    index = bucket.index(manifest)
    digest = manifest.digest
    cached = cache.entry(digest)
    if cached is not None:
        if _is_whole(manifest, cached, index, bucket.store):
            return _own_objects(manifest)  # a process that was killed once the entry was made has not removed them
        cache.discard(digest)
    cache.sweep()
    files = model_files(manifest, bucket)
    view = bucket.holding(manifest)
    damaged: set[Digest] = set()
    lacking: dict[Digest, MissingObjectError] = {}  # a manifest may come before its shards and parts
    while True:
        try:
            route = cheapest_route(manifest, view.by_digest, [d for d in cache.entries() if d not in damaged], lacking)
        except CheckpointError:
            if not lacking:
                raise
            raise next(iter(lacking.values())) from None
        try:
            with cache.building(digest, manifest.to_bytes()) as folder:
                for name, data in files.items():
                    with storage_errors(folder / name):
                        (folder / name).write_bytes(data)
                _build(route, manifest, view, index, folder, bucket)
            return _large_objects(manifest, route, view)
        except (CheckpointError, OSError) as error:
            if isinstance(error, OSError) and is_full(error):
                raise
            if isinstance(error, MissingObjectError) and len(lacking) < MAX_LACKING:
                missing = [r for r in _large_objects(manifest, route, view) if r.key == error.where and r.sha256 not in lacking]
                if missing:
                    log.event("checkpoint_object_missing", key=error.where, sequence=manifest.sequence)
                    lacking[missing[0].sha256] = error
                    continue
            if route.fetch_start or route.start in damaged or not _is_damaged(route.start, view, bucket):
                raise
            damaged.add(route.start)
            cache.discard(route.start)


def can_step(
    state: Mapping[str, Any], current: CheckpointManifest, target: CheckpointManifest, bucket: CheckpointBucket
) -> bool:
    """Does a delta turn this model into the next checkpoint in place? Not where its tensors are of another type or shape than
    either checkpoint's (a bf16 model of a float32 checkpoint): that one is loaded.

    Args:
        state: as for `apply_to_model`.

    Raises:
        CheckpointError: the target's index is missing or wrong. StorageError: the store does not answer.
    """
    if _direct(current, target) is None:
        return False
    try:
        former = bucket.index(current)
    except MissingObjectError:
        return False  # retired since
    held = raw_state({name: state[name] for name in former.tensors if name in state})
    return all(
        index.tensors.keys() == held.keys() and all(held[name].layout == entry.layout for name, entry in index.tensors.items())
        for index in (former, bucket.index(target))
    )


def apply_to_model(
    state: Mapping[str, Any], current: CheckpointManifest, target: CheckpointManifest, bucket: CheckpointBucket
) -> None:
    """Turn a loaded model from one checkpoint into another in place, without a second copy of the weights.

    Args:
        state: `model.state_dict()` of CPU tensors that hold exactly `current`'s weights; tied names may be among them.

    Raises:
        CheckpointError: there is no direct delta, the model is not at `current`, or bytes are wrong; nothing was written.
    """
    delta = _direct(current, target)
    if delta is None:
        raise CheckpointError(
            f"checkpoint {target.sequence} offers no delta from checkpoint {current.sequence}",
            where=manifest_key(target.valid_from),
            hint="load it from the cache: materialise finds the way",
        )
    with bucket.cache.shared():
        model_files(target, bucket)  # an unsafe checkpoint is refused before the model changes
        index = bucket.index(target)
        missing = sorted(name for name in index.tensors if name not in state)
        if missing:
            raise CheckpointError("the model has no such tensor", where=missing[0], hint="load the checkpoint from the cache")
        raw = raw_state({name: state[name] for name in index.tensors})
        wrong = [name for name, entry in index.tensors.items() if raw[name].layout != entry.layout]
        if wrong:
            raise CheckpointError(
                "the checkpoint changes a tensor's shape or type; a running model cannot follow",
                where=wrong[0],
                hint="load the checkpoint from the cache",
            )
        with delta_frames(delta, target, bucket) as frames:
            apply(raw, frames, expected_root=target.weights_root)


def download_step(current: CheckpointManifest, target: CheckpointManifest, bucket: CheckpointBucket) -> None:
    """Put on this disk what `apply_to_model` will read for this step; nothing where no delta leads from one to the other.

    Raises:
        CheckpointError: an object is missing, wrong or unsafe. StorageError, DiskFullError: the store or the disk fails.
    """
    delta = _direct(current, target)
    if delta is None:
        if any(d.base == current.digest for d in usable_deltas(target)):
            materialise(target, bucket)  # a merge: no model is stepped by it in memory, and its folder is what will be read
        return
    with bucket.cache.shared():
        model_files(target, bucket)
        bucket.index(target)
        for part in delta.parts:
            fetch_object(bucket.store, part, bucket.cache.objects, progress=bucket.progress)


def _direct(current: CheckpointManifest, target: CheckpointManifest) -> DeltaRef | None:
    """What steps a model in memory: frames, of a profile known here."""
    return next((d for d in target.deltas if d.base == current.digest and d.profile in FRAME_PROFILES), None)


def model_files(manifest: CheckpointManifest, bucket: CheckpointBucket) -> dict[str, bytes]:
    """Config and tokenizer by file name, checked as if they were to be published. For who needs no weights.

    Raises:
        CheckpointError: an object is missing, wrong or unsafe. StorageError: the store does not answer.
    """
    for file in manifest.files:
        if file.object.size > MAX_FILE_BYTES:
            raise CheckpointError(
                f"the file is larger than {MAX_FILE_BYTES} bytes", where=f"{manifest_key(manifest.valid_from)}: {file.path}"
            )
    files = {file.path: fetch_bytes(bucket.store, file.object, bucket.cache.objects) for file in manifest.files}
    checked = check_model_files(files, where=manifest_key(manifest.valid_from))
    for what, found, named in (
        ("architecture", checked.architecture, manifest.architecture),
        ("tokenizer", checked.tokenizer_digest, manifest.tokenizer_digest),
        ("chat template", checked.chat_template_digest, manifest.chat_template_digest),
    ):
        if found != named:
            raise CheckpointError(
                f"the {what} in the files is not the one the manifest names", where=manifest_key(manifest.valid_from)
            )
    return files


def table_bytes(manifest: CheckpointManifest, bucket: CheckpointBucket) -> bytes:
    """The bytes of the calibration table that a checkpoint pins: from its folder, where it is whole, else from the bucket.
    Nothing is written: whoever asks may have no use for the checkpoint.

    Raises:
        CheckpointError: it pins none, or the object is missing, wrong or too large. StorageError: the store does not answer.
    """
    ref = pinned_object(manifest)
    entry = bucket.cache.entry(manifest.digest)
    if entry is not None:
        path = entry / CALIBRATION_FILE
        with storage_errors(path):
            data = path.read_bytes() if path.is_file() and path.stat().st_size == ref.size else b""
        if ObjectRef.of(data) == ref:
            return data
    return read_object(bucket.store, ref, bucket.cache.objects)


def _build(
    route: Route,
    target: CheckpointManifest,
    view: CheckpointSequence,
    index: WeightsIndex,
    folder: Path,
    bucket: CheckpointBucket,
) -> None:
    """Put the weights at the end of the route into `folder`, verified."""
    start = bucket.cache.folder(route.start)
    if route.fetch_start:
        anchor = target if route.start == target.digest else view.by_digest[route.start]
        start = folder if not route.steps else _scratch(folder, "start")
        for shard in anchor.shards:
            path = fetch_object(bucket.store, shard.object, bucket.cache.objects, progress=bucket.progress)
            with storage_errors(start / shard.path):
                os.link(path, start / shard.path)
        if start is folder:
            _write_shard_index(index, folder)
    state: Mapping[str, RawTensor] = map_weights(start) if route.steps else {}
    wanted = {name: entry.layout for name, entry in index.tensors.items()}
    limit = 4 * sum(layout.nbytes for layout in wanted.values()) + (1 << 30)
    for number, (delta, manifest) in enumerate(route.steps, 1):
        last = number == len(route.steps)
        place = folder if last else _scratch(folder, f"step{number}")
        if delta.profile == OUTER:
            made = merge_step(state, delta, manifest, index if last else bucket.index(manifest), place, bucket)
        else:
            made = frames_step(state, delta, manifest, wanted if last else None, limit, place, bucket)
        state = made
        _remove_scratch(folder, keep=place)
    _remove_scratch(folder, keep=folder)
    wrong = _wrong_tensors(folder, index)
    if wrong:
        raise CheckpointError(
            f"tensor {wrong[0]} does not have the digest that the manifest names",
            where=f"{manifest_key(target.valid_from)} ({len(wrong)} of {len(index.tensors)} tensors differ)",
            hint="the running model is untouched; fetch again, or report the checkpoint",
        )


def _scratch(folder: Path, name: str) -> Path:
    scratch = folder / f".{name}"
    scratch.mkdir()
    return scratch


def _remove_scratch(folder: Path, keep: Path) -> None:
    for scratch in folder.glob(".*"):
        if scratch != keep and scratch.is_dir():
            for path in scratch.iterdir():
                path.unlink()
            scratch.rmdir()


def _write_shard_index(index: WeightsIndex, folder: Path) -> None:
    data = shard_index(plan_shards({name: entry.layout for name, entry in index.tensors.items()}))
    if data is not None:
        (folder / INDEX_FILE).write_bytes(data)


def _wrong_tensors(folder: Path, index: WeightsIndex) -> list[str]:
    """Names whose bytes in the folder are not the index's; every name of either side that the other lacks.

    Raises:
        CheckpointError: the folder's files are no safetensors.
    """
    found = digest_state(map_weights(folder)).index.tensors
    return [name for name in sorted(found.keys() | index.tensors.keys()) if found.get(name) != index.tensors.get(name)]


def _is_whole(manifest: CheckpointManifest, folder: Path, index: WeightsIndex, store: ObjectStore) -> bool:
    """Is a cached folder what its manifest says, if need be after fetching its damaged tensors again?"""
    try:
        wrong = _wrong_tensors(folder, index)
        whole = _files_match(manifest, index, folder) and (not wrong or _repair(manifest, folder, wrong, index, store))
    except DiskFullError:
        raise
    except (CheckpointError, OSError) as error:
        log.event("cached_checkpoint_dropped", path=str(folder), reason=str(getattr(error, "what", None) or error))
        return False
    if not whole:
        log.event("cached_checkpoint_dropped", path=str(folder), reason="its files are not those that its manifest names")
    return whole


def _files_match(manifest: CheckpointManifest, index: WeightsIndex, folder: Path) -> bool:
    """Are the files beside the weights exactly the manifest's? One more would be read by Transformers too."""
    expected = {file.path: file.object for file in manifest.files}
    listing = shard_index(plan_shards({name: entry.layout for name, entry in index.tensors.items()}))
    if listing is not None:
        expected[INDEX_FILE] = ObjectRef.of(listing)
    names = {path.name for path in folder.iterdir() if path.suffix != ".safetensors"} - {MANIFEST_FILE}
    return names == expected.keys() and all(
        (folder / name).is_file() and ObjectRef.of((folder / name).read_bytes()) == ref for name, ref in expected.items()
    )


def _repair(manifest: CheckpointManifest, folder: Path, wrong: list[str], index: WeightsIndex, store: ObjectStore) -> bool:
    """Fetch only the damaged tensors of a cached anchor, by range. True if the folder is whole again."""
    shards = {shard.path: shard.object for shard in manifest.shards}
    plans = plan_shards({name: entry.layout for name, entry in index.tensors.items()})
    if not shards or {p.name: p.size for p in plans} != {name: ref.size for name, ref in shards.items()}:
        return False
    for plan in plans:
        for name in (name for name in plan.tensors if name in wrong):
            placed = plan.tensors[name]
            data = fetch_range(store, shards[plan.name], placed.start, placed.layout.nbytes)
            tensor = RawTensor(placed.layout, np.frombuffer(data, placed.layout.dtype.bits))
            if digest_state({name: tensor}).index.tensors[name] != index.tensors[name]:
                return False
            path = folder / plan.name
            with storage_errors(path), path.open("r+b") as file:
                if path.stat().st_size != plan.size:
                    return False
                file.seek(placed.start)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    return not _wrong_tensors(folder, index)


def _is_damaged(digest: Digest, view: CheckpointSequence, bucket: CheckpointBucket) -> bool:
    """Is this cached entry not what its manifest says? Then it was the cause, and another way is tried."""
    manifest = view.by_digest.get(digest)
    folder = bucket.cache.entry(digest)
    if manifest is None or folder is None:
        return True
    try:
        return bool(_wrong_tensors(folder, bucket.index(manifest)))
    except (CheckpointError, OSError):
        return True


def _large_objects(manifest: CheckpointManifest, route: Route, view: CheckpointSequence) -> list[ObjectRef]:
    """What was downloaded for the weights alone; what is small stays in the cache for the next checkpoint."""
    refs = [part for delta, _ in route.steps for part in delta.parts]
    if route.fetch_start:
        anchor = manifest if route.start == manifest.digest else view.by_digest[route.start]
        refs += [shard.object for shard in anchor.shards]
    return refs


def _own_objects(manifest: CheckpointManifest) -> list[ObjectRef]:
    """All that this manifest offers for the weights, whichever way was taken."""
    return [shard.object for shard in manifest.shards] + [part for delta in manifest.deltas for part in delta.parts]
