"""Publishing a checkpoint: objects first, the manifest last, by one conditional put; or, said so, large objects after it.

Objects are named by their content and never change, so a publisher that is killed at any point and started again finds what
it had uploaded, makes the same objects, and finishes; readers see the old checkpoint until the manifest is there. Every tenth
checkpoint offers its whole weights; every checkpoint offers a delta from the one before, and those whose number is divisible
by 2, 4, 8, … also from the one 2, 4, 8, … before, which is what lets a late reader catch up in few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grail_core.checkpoints.announcement import next_upgrade
from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.codec import encode
from grail_core.checkpoints.delta.digests import StateDigests, digest_state
from grail_core.checkpoints.delta.frames import Frame, Profile
from grail_core.checkpoints.delta.shards import SHARD_BYTES, map_weights, plan_shards, save_weights, shard_bytes
from grail_core.checkpoints.delta.tensors import RawState, RawTensor, raw_state
from grail_core.checkpoints.download import Progress
from grail_core.checkpoints.due import DueObjects
from grail_core.checkpoints.fetch import materialise, table_bytes
from grail_core.checkpoints.manifests import CheckpointSequence, StoredManifest, begins_a_round
from grail_core.checkpoints.pinned_table import CALIBRATION_FILE
from grail_core.checkpoints.published_table import next_table, require_publishable
from grail_core.checkpoints.safety import CONFIG_FILE, ModelFiles, check_model_files
from grail_core.checkpoints.uploads import Uploads
from grail_core.disk import storage_errors
from grail_core.errors import CheckpointError, StorageError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.manifest import (
    MAX_MANIFEST_BYTES,
    CheckpointManifest,
    DeltaRef,
    FileRef,
    ManifestContent,
    NewerManifestError,
    ObjectRef,
    build,
    parse,
)
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import PreconditionFailedError
from grail_core.storage.layout import manifest_key

ANCHOR_EVERY = 10  # checkpoints
SKIPS = (1, 2, 4, 8, 16, 32)
PART_BYTES = 128 << 20  # a delta is split into objects of about this size

Put = Callable[[bytes], ObjectRef]
"""What becomes of an object: uploaded, put aside, or only named."""


@dataclass(frozen=True)
class ReadyDelta:
    """A delta whose bytes were made elsewhere, in objects of at most `MAX_OBJECT_BYTES`."""

    base: CheckpointManifest
    profile: str
    parts: tuple[bytes, ...]


@dataclass(frozen=True)
class CheckpointParts:
    """What the trainer decides; the rest of a manifest follows from the weights and the sequence so far."""

    network_id: Digest
    window: Window  # whose training made the weights
    valid_from: Window
    environment: EnvironmentSpec
    policy: GenerationPolicy
    end_token_ids: tuple[int, ...]
    thinking_mode: str
    training: Mapping[str, Any] = field(default_factory=dict)
    calibration: bytes | None = None  # the table it pins; None: that of the checkpoint before, the shipped one of the first
    uncovered: bool = False  # published although its table does not cover what the network admits, deliberately


def publish(
    bucket: CheckpointBucket,
    parts: CheckpointParts,
    state: Mapping[str, Any],
    model_files: Mapping[str, bytes] | ModelFiles,
    signer: Signer,
    params: NetworkParameters,
    *,
    profile: Profile | None = Profile.SMALL,
    ready: Sequence[ReadyDelta] = (),
    objects_after: bool = False,
    shard_limit: int = SHARD_BYTES,
) -> CheckpointManifest:
    """Publish `state` as the next checkpoint in the bucket; a call repeated after a crash finishes the first one.

    Args:
        state: name → CPU tensor (torch, numpy or raw), e.g. `model.state_dict()`; of tensors tied to each other only the
            last name is published, as Transformers saves them. Must not change meanwhile.
        model_files: config and tokenizer, from `safety.read_model_files`.
        bucket: the signer's own; its cache holds the checkpoints before this one, from which the deltas are made.
        profile: of the deltas that are made here; None: none is.
        ready: deltas that are offered before those.
        objects_after: put the manifest before shards and parts of deltas, which `due.complete` uploads.

    Raises:
        CheckpointError: the parts contradict the sequence or the network, the files are unsafe, the tokenizer changed, the
            calibration table is none that the network follows or does not cover its classes at this model's shape, or another
            checkpoint stands at this `valid_from` already.
        StorageError: the store or the disk fails; nothing is visible to readers, call again.
    """
    store = bucket.store
    files = model_files if isinstance(model_files, ModelFiles) else check_model_files(model_files)
    weights = publishable(state)
    digests = digest_state(weights)
    view = bucket.sequence()
    standing = next((s for s in view.stored if s.manifest.valid_from == parts.valid_from), None)
    uploads = Uploads(store, bucket.uploads)
    uploads.abandon_unfinished()
    if standing is not None:
        manifest = _same_or_refuse(standing, parts.window, digests)
        _keep(manifest, _with_table(files, table_bytes(manifest, bucket)), weights, bucket.cache)
        uploads.finish(item.manifest for item in view.stored)
        return manifest
    due = DueObjects(bucket)
    due.sweep([item.manifest for item in view.stored])
    _check_parts(parts, view, files, params)
    head = view.head
    table = next_table(parts.calibration, head, bucket)
    require_publishable(table, files.files[CONFIG_FILE], params, deliberately=parts.uncovered)
    files = _with_table(files, table)
    sequence = head.sequence + 1 if head else 0
    index = digests.index
    index_ref = uploads.put(index.to_bytes())
    file_refs = tuple(FileRef(name, uploads.put(data)) for name, data in sorted(files.files.items()))
    put_part, put_shard = (due.keep, ObjectRef.of) if objects_after else (uploads.put, uploads.put)
    deltas = tuple(_ready(ready, view, put_part))
    if profile is not None:
        deltas += tuple(_deltas(bucket, put_part, sequence, weights, digests, profile))
    shards: tuple[FileRef, ...] = ()
    if sequence % ANCHOR_EVERY == 0 or not deltas:
        shards = tuple(_full(put_shard, weights, shard_limit, bucket.progress))
    anchors = [s.manifest for s in view.stored if s.manifest.shards]
    content = ManifestContent(
        network_id=parts.network_id,
        trainer=signer.hotkey,
        sequence=sequence,
        window=parts.window,
        valid_from=parts.valid_from,
        parent=head.digest if head else None,
        base=anchors[-1].digest if anchors else None,
        architecture=files.architecture,
        weights_root=index.root,
        index=index_ref,
        files=file_refs,
        shards=shards,
        deltas=deltas,
        environment=parts.environment,
        policy=parts.policy,
        end_token_ids=parts.end_token_ids,
        tokenizer_digest=files.tokenizer_digest,
        chat_template_digest=files.chat_template_digest,
        thinking_mode=parts.thinking_mode,
        training=parts.training,
        upgrade=next_upgrade(bucket.announcement, head, parts.valid_from),
    )
    built = build(content, signer)
    if not begins_a_round(built, head):
        raise CheckpointError(
            f"a checkpoint cannot come into force at {built.valid_from}: no round begins there",
            where=manifest_key(built.valid_from),
            hint="rounds of gradient work begin at multiples of their length, of this checkpoint's and of the one before it",
        )
    if objects_after:
        due.owe(built)
    manifest = _put_manifest(bucket, built, digests)
    if manifest != built:
        files = _with_table(files, table_bytes(manifest, bucket))
    _keep(manifest, files, weights, bucket.cache)
    uploads.finish([*(item.manifest for item in view.stored), manifest])
    return manifest


class TakenError(CheckpointError):
    """Something else stands where a manifest was to go. `ours`: a manifest of this trainer; else nobody reads it as one."""

    def __init__(self, valid_from: Window, stored_at_ms: int, *, ours: bool) -> None:
        super().__init__(
            f"another checkpoint comes into force in window {valid_from} already"
            if ours
            else f"something that is no manifest of this network stands where window {valid_from}'s belongs",
            where=manifest_key(valid_from),
            hint="manifests are never replaced; choose a later window",
        )
        self.valid_from, self.stored_at_ms, self.ours = valid_from, stored_at_ms, ours


def _put_manifest(bucket: CheckpointBucket, manifest: CheckpointManifest, digests: StateDigests) -> CheckpointManifest:
    """Put the manifest; what stands there afterwards is this one, or the same checkpoint's of a publisher that was cut off."""
    store, key = bucket.store, manifest_key(manifest.valid_from)
    try:
        info = store.put(key, manifest.to_bytes(), if_absent=True)
        bucket.added(manifest, info.stored_at_ms)
        return manifest
    except PreconditionFailedError:
        return _what_stands(bucket, key, manifest, digests)
    except StorageError:
        bucket.forget()  # it may be there all the same: a second manifest of this number would be an equivocation
        raise


def _with_table(files: ModelFiles, table: bytes) -> ModelFiles:
    return replace(files, files={**files.files, CALIBRATION_FILE: table})


def publishable(state: Mapping[str, Any]) -> dict[str, RawTensor]:
    """Raw tensors without second names: of tied ones the last name in order stays (lm_head is tied to the embedding)."""
    raw = raw_state(state)
    last = {id(tensor): name for name, tensor in raw.items()}
    kept = {name: tensor for name, tensor in raw.items() if last[id(tensor)] == name}
    if not kept:
        raise CheckpointError("a checkpoint has at least one tensor")
    return kept


def least_valid_from(window: Window, params: NetworkParameters) -> Window:
    """The first window that a checkpoint trained in `window` may come into force in."""
    return Window(window + params.checkpoint_least_distance * WINDOW_LENGTH)


def skip_bases(sequence: int) -> list[int]:
    """Sequence numbers that checkpoint `sequence` offers deltas from."""
    return [sequence - skip for skip in SKIPS if sequence >= skip and (skip == 1 or sequence % skip == 0)]


def _check_parts(parts: CheckpointParts, view: CheckpointSequence, files: ModelFiles, params: NetworkParameters) -> None:
    head = view.head
    if head is None:
        return
    if parts.valid_from < least_valid_from(parts.window, params):
        raise CheckpointError(
            f"a checkpoint of window {parts.window} cannot come into force in window {parts.valid_from}",
            hint=f"the network asks for {params.checkpoint_least_distance} windows between them",
        )
    if parts.valid_from <= head.valid_from or parts.window <= head.window:
        raise CheckpointError(
            f"checkpoint {head.sequence} is of window {head.window}, valid from {head.valid_from}; the next one must be later",
            where=manifest_key(head.valid_from),
        )
    for what, new, old in (
        ("tokenizer", files.tokenizer_digest, head.tokenizer_digest),
        ("chat template", files.chat_template_digest, head.chat_template_digest),
        ("architecture", files.architecture, head.architecture),
    ):
        if new != old:
            raise CheckpointError(
                f"the {what} is not the one of checkpoint {head.sequence}",
                where=manifest_key(head.valid_from),
                hint="publish with the model files of the network; another tokenizer or architecture is another network",
            )


def _what_stands(bucket: CheckpointBucket, key: str, manifest: CheckpointManifest, digests: StateDigests) -> CheckpointManifest:
    """What stands where this manifest was to go, if it is of the same window and weights. Errors: TakenError, StorageError."""
    info = bucket.store.head(key)
    raw = bucket.store.get(key, max_bytes=MAX_MANIFEST_BYTES)
    bucket.refresh()
    stored_at_ms = 0 if info is None else info.stored_at_ms
    try:
        standing = parse(raw, trainer_hotkey=manifest.trainer, network_id=manifest.network_id, where=key)
    except CheckpointError as error:
        ours = isinstance(error, NewerManifestError)
        raise TakenError(manifest.valid_from, stored_at_ms, ours=ours) from error
    return _same_or_refuse(StoredManifest(standing, stored_at_ms), manifest.window, digests)


def _same_or_refuse(standing: StoredManifest, window: Window, digests: StateDigests) -> CheckpointManifest:
    """Raises TakenError: it is of another window, or of other weights."""
    manifest = standing.manifest
    if manifest.weights_root == digests.root and manifest.window == window:
        return manifest
    raise TakenError(manifest.valid_from, standing.stored_at_ms, ours=True)


def _ready(ready: Sequence[ReadyDelta], view: CheckpointSequence, put: Put) -> Iterator[DeltaRef]:
    for delta in ready:
        if delta.base.digest not in view.by_digest:
            raise CheckpointError(
                f"the delta is from checkpoint {delta.base.sequence}, which is not in this bucket",
                where=manifest_key(delta.base.valid_from),
                hint="make it from the newest checkpoint",
            )
        yield DeltaRef(delta.base.digest, delta.base.sequence, delta.profile, tuple(put(part) for part in delta.parts))


def _deltas(
    bucket: CheckpointBucket,
    put: Put,
    sequence: int,
    weights: RawState,
    digests: StateDigests,
    profile: Profile,
) -> Iterator[DeltaRef]:
    layouts = {name: tensor.layout for name, tensor in weights.items()}
    for base_sequence in skip_bases(sequence):
        base = bucket.known().at_sequence(base_sequence)
        if base is None:
            continue
        try:
            old = map_weights(materialise(base, bucket))
        except CheckpointError:
            if base_sequence == sequence - 1:
                raise
            continue  # a retired ancestor: the way is longer for a late reader, but whole
        if {name: tensor.layout for name, tensor in old.items()} != layouts:
            continue  # float32 to bfloat16, where a network has turned to other work: whole checkpoints lie between them
        refs = []
        for data in _split(encode(old, weights, profile, new_digests=digests)):
            refs.append(put(data))
            bucket.progress(f"delta from {base_sequence}", sum(ref.size for ref in refs), 0)
        yield DeltaRef(base.digest, base_sequence, profile.value, tuple(refs))


def _split(frames: Iterable[Frame]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    for frame in frames:
        data = frame.to_bytes()
        if waiting and sum(map(len, waiting)) + len(data) > PART_BYTES:
            yield b"".join(waiting)
            waiting = []
        waiting.append(data)
    yield b"".join(waiting)


def _full(put: Put, weights: RawState, limit: int, progress: Progress) -> Iterator[FileRef]:
    plans = plan_shards({name: tensor.layout for name, tensor in weights.items()}, limit)
    total, done = sum(plan.size for plan in plans), 0
    for plan in plans:
        ref = put(shard_bytes(plan, weights))
        done += ref.size
        progress("full weights", done, total)
        yield FileRef(plan.name, ref)


def _keep(manifest: CheckpointManifest, files: ModelFiles, weights: RawState, cache: CheckpointCache) -> None:
    """The checkpoint in the publisher's own cache: the next delta is made from it."""
    if cache.entry(manifest.digest) is not None:
        return
    with cache.building(manifest.digest, manifest.to_bytes()) as folder:
        for name, data in files.files.items():
            with storage_errors(folder / name):
                (folder / name).write_bytes(data)
        if save_weights(folder, weights).root != manifest.weights_root:
            raise CheckpointError("the weights changed while they were published", where=manifest_key(manifest.valid_from))
