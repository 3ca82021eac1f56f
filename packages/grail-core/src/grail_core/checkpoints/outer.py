"""The delta profile `outer`: the update files of a round, and applying them, which is the merge (gradient work, section 12).

The byte stream is the merged files one after the other, in the order of their hotkeys' bytes, cut into objects. The manifest
says the rest: which files (`training`), and by its environment how they are laid out and at which rate they are merged. So the
weights are a pure function of the weights before, the bytes and the manifest; each tensor is checked against the index as it is
made. A checkpoint that changes the gradient spec is no merge: it comes with another delta, or whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from grail_core.checkpoints.delta.digests import WeightsIndex, digest_state, worker_threads
from grail_core.checkpoints.delta.tensors import DTYPES, RawState, RawTensor
from grail_core.checkpoints.delta.tensors import Layout as TensorForm
from grail_core.errors import CheckpointError
from grail_core.gradient.codec import Stream
from grail_core.gradient.layout import Floats, Layout
from grail_core.gradient.merge import merge_tensor
from grail_core.gradient.update_file import MAX_HEADER, most_bytes, read_front, sketch_rows, split
from grail_core.protocol.gradient.merged import Merged
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import MAX_OBJECT_BYTES, CheckpointManifest, DeltaRef
from grail_core.protocol.reading import parse_json
from grail_core.storage.layout import manifest_key

PART_BYTES: Final = MAX_OBJECT_BYTES
_MAX_HEADER_MEMBERS: Final = 64

Bytes = bytes | memoryview
Make = Callable[[str, TensorForm], RawTensor]
"""Memory for a new tensor; its contents are overwritten."""


def outer_parts(files: Iterable[Bytes], *, limit: int = PART_BYTES) -> Iterator[bytes]:
    """The objects of a delta, from its files in order: each of `limit` bytes but the last."""
    waiting = bytearray()
    for file in files:
        rest = memoryview(file)
        while rest:
            taken = rest[: limit - len(waiting)]
            waiting += taken
            rest = rest[len(taken) :]
            if len(waiting) == limit:
                yield bytes(waiting)
                waiting.clear()
    if waiting:
        yield bytes(waiting)


def merged_of(manifest: CheckpointManifest) -> tuple[Merged, GradientSpec]:
    """The merge that a manifest says made its weights, and the numbers of its work.

    Raises:
        CheckpointError: it is no checkpoint of gradient work, or of no merge, or says of it what contradicts the spec.
    """
    where = manifest_key(manifest.valid_from)
    try:
        spec = GradientSpec.of(manifest.environment)
        merged = Merged.from_json(manifest.training)
    except ValueError as error:
        raise CheckpointError(f"this checkpoint is no merge of updates: {error}", where=where) from error
    if merged.round != manifest.window or len(merged.merged) > spec.peers:
        raise CheckpointError("the merge that the manifest names is not its round's, or of too many updates", where=where)
    return merged, spec


def layout_of(forms: Mapping[str, TensorForm], spec: GradientSpec, *, where: str) -> Layout:
    """How a checkpoint's tensors are cut. Errors: CheckpointError where they are not float32."""
    wrong = [name for name, form in forms.items() if form.dtype is not DTYPES["F32"]]
    if wrong:
        raise CheckpointError("gradient work is done on float32 tensors, and this one is of another type", where=wrong[0])
    try:
        return Layout.of([(name, form.shape) for name, form in forms.items()], spec)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's tensors cannot be laid out: {error}", where=where) from error


def require_outer(manifest: CheckpointManifest, delta: DeltaRef, index: WeightsIndex) -> None:
    """Before anything is fetched: does the delta have the bytes of the files that the manifest names, and can it be theirs?

    Raises:
        CheckpointError: it cannot.
    """
    where = manifest_key(manifest.valid_from)
    merged, spec = merged_of(manifest)
    layout = layout_of({name: entry.layout for name, entry in index.tensors.items()}, spec, where=where)
    most = most_bytes(layout, spec)
    if merged.size != delta.size or any(update.size > most for update in merged.merged):
        raise CheckpointError("the delta's size is not that of the updates that the manifest names", where=where)
    if merged.outer_rate != spec.outer_rate(delta.base_sequence):
        raise CheckpointError(
            f"the updates were merged at rate {merged.outer_rate}, the spec says {spec.outer_rate(delta.base_sequence)}",
            where=where,
            hint="the trainer did not follow the network's own numbers; report the checkpoint",
        )


def files_of(parts: Sequence[Bytes], merged: Merged, *, where: str) -> list[Bytes]:
    """The files of a delta's parts, views where a file lies in one of them.

    Raises:
        CheckpointError: a file is cut short, or its bytes are not those that the manifest names.
    """
    found: list[Bytes] = []
    start = 0
    for update in merged.merged:
        data = _range(parts, start, update.size)
        if len(data) != update.size or hashlib.sha256(data).digest() != update.content_digest:
            raise CheckpointError(
                f"the update of UID {update.uid} is not the one that the manifest names",
                where=where,
                hint="the trainer signed a list and a delta that do not belong together; report the checkpoint",
            )
        if _header(data, where).hotkey != update.hotkey:
            raise CheckpointError(f"the file listed for UID {update.uid} is another hotkey's", where=where)
        found.append(data)
        start += update.size
    return found


def apply_outer(
    base: RawState,
    manifest: CheckpointManifest,
    parts: Sequence[Bytes],
    index: WeightsIndex,
    *,
    make: Make | None = None,
    threads: int | None = None,
) -> dict[str, RawTensor]:
    """The weights of `manifest` from those before it and the delta's parts; `base` is only read.

    Args:
        index: of `manifest`. make: where each new tensor's memory comes from. threads: None: the CPUs at hand.

    Raises:
        CheckpointError: bytes, base or manifest are not what belongs together; names the first tensor that does not come out
            as published.
    """
    where = manifest_key(manifest.valid_from)
    merged, spec = merged_of(manifest)
    files = files_of(parts, merged, where=where)
    made: dict[str, RawTensor] = {}
    for name, tensor in merged_tensors(base, files, merged, spec, where=where, make=make, threads=threads):
        if name not in index.tensors or digest_state({name: tensor}, threads=1).index.tensors[name] != index.tensors[name]:
            raise CheckpointError(
                f"tensor {name} does not come out of the merge as published",
                where=where,
                hint="the weights before it are not the merge's, or the trainer merged otherwise than its manifest says",
            )
        made[name] = tensor
    missing = sorted(index.tensors.keys() - made.keys())
    if missing:
        raise CheckpointError("a merge adds no tensors, and the index names one that is new", where=missing[0])
    return made


def merged_tensors(
    base: RawState,
    files: Sequence[Bytes],
    merged: Merged,
    spec: GradientSpec,
    *,
    where: str,
    make: Make | None = None,
    threads: int | None = None,
) -> Iterator[tuple[str, RawTensor]]:
    """The merge of these files, in whatever order: tensor by tensor, in name order, compared with nothing.

    Args:
        base: the weights before, in name order. spec: of the manifest, said or to be said. where: for errors.

    Raises:
        CheckpointError: a file is none of this layout or none of `merged`, or the base is not float32.
    """
    forms = {name: tensor.layout for name, tensor in base.items()}
    layout = layout_of(forms, spec, where=where)
    updates = [_streams(file, layout, spec, merged, where) for file in files]
    new = make or (lambda _name, form: RawTensor.empty(form))

    def one(number: int) -> tuple[str, RawTensor]:
        tensor = layout.tensors[number]
        theta: Floats = base[tensor.name].bits.view(np.float32).reshape(tensor.shape)
        try:
            result = merge_tensor(
                theta, [update[number] for update in updates], tensor, merged.outer_rate, f"streams[{number}]"
            )
        except ValueError as error:
            raise CheckpointError(f"an update cannot be merged: {error}", where=f"{where}, {tensor.name}") from error
        target = new(tensor.name, forms[tensor.name])
        np.copyto(target.bits, result.reshape(-1).view(target.bits.dtype))
        return tensor.name, target

    count = max(1, threads or worker_threads())
    numbers = range(len(layout.tensors))
    if count == 1:
        yield from map(one, numbers)
        return
    with ThreadPoolExecutor(count) as pool:
        for first in range(0, len(numbers), count):  # so many tensors at a time are more than the weights
            yield from pool.map(one, numbers[first : first + count])


@dataclass(frozen=True)
class _Header:
    """What the merge asks of a file's header; that it is signed and true is for checks 2 to 7."""

    hotkey: bytes
    round: int
    batch: int


def _header(file: Bytes, where: str) -> _Header:
    try:
        members = parse_json(read_front(file)[0], most=MAX_HEADER, path="$update.header").entries(_MAX_HEADER_MEMBERS)
        return _Header(members["hotkey"].raw(32), members["window"].integer(), members["batch"].integer(1))
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"a merged file is no update: {error}", where=where) from error


def _streams(file: Bytes, layout: Layout, spec: GradientSpec, merged: Merged, where: str) -> tuple[Stream, ...]:
    """The streams of one file, which must be one of the merge's, by what its header says."""
    header = _header(file, where)
    if header.round != merged.round or all(update.hotkey != header.hotkey for update in merged.merged):
        raise CheckpointError("a merged file is of another round, or of a hotkey that is not listed", where=where)
    if not spec.batch_least <= header.batch <= spec.batch_most:
        raise CheckpointError(f"a merged file has a batch of {header.batch} sequences", where=where)
    try:
        return split(file, layout, spec, sketch_rows(header.batch)).streams
    except ValueError as error:
        raise CheckpointError(f"a merged file is no update of this checkpoint: {error}", where=where) from error


def _range(parts: Sequence[Bytes], start: int, size: int) -> Bytes:
    pieces: list[memoryview] = []
    for part in parts:
        view = memoryview(part)
        piece = view[max(0, start) : max(0, start + size)]
        if len(piece):
            pieces.append(piece)
        start -= len(view)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
