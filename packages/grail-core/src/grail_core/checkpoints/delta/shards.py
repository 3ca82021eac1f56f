"""Weights on disk: safetensors files, written in one fixed form and read as mapped memory.

The same tensors always make the same bytes, so that a folder rebuilt from deltas equals the published one byte for byte:
tensors ordered by item size (large first) and name, split into files of bounded size, header padded to eight bytes. Readers
check every offset; nothing but safetensors is ever opened, and nothing in it is executed.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grail_core.checkpoints.delta.digests import StateDigests, digest_state
from grail_core.checkpoints.delta.tensors import (
    MAX_TENSOR_TOKENS,
    Layout,
    RawState,
    RawTensor,
    check_layout,
    check_name,
    name_order,
)
from grail_core.checkpoints.delta.weight_files import INDEX_FILE, SINGLE_FILE, listed_tensors, weight_files
from grail_core.disk import storage_errors
from grail_core.errors import CheckpointError
from grail_core.lfs_pointers import refuse_pointer
from grail_core.protocol.reading import Node, parse_json

SHARD_BYTES = 256 << 20
_ANEW = "save the model anew with save_pretrained(folder)"
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 1 << 16
"""In one file. Shards are cut by size, so a model of any size stays below both."""


@dataclass(frozen=True)
class Placed:
    """Where a tensor lies: bytes start … start + layout.nbytes of a file."""

    layout: Layout
    start: int


@dataclass(frozen=True)
class ShardPlan:
    """One safetensors file: its name, its header's bytes, and the tensors behind it."""

    name: str
    header: bytes
    tensors: Mapping[str, Placed]

    @property
    def size(self) -> int:
        return len(self.header) + sum(placed.layout.nbytes for placed in self.tensors.values())


def plan_shards(layouts: Mapping[str, Layout], limit: int = SHARD_BYTES) -> tuple[ShardPlan, ...]:
    """Distribute tensors over files of about `limit` bytes (a larger tensor gets its own file)."""
    order = sorted(layouts, key=lambda name: (-layouts[name].dtype.itemsize, name_order(name)))
    groups: list[list[str]] = [[]]
    total = 0
    for name in order:
        if groups[-1] and total + layouts[name].nbytes > limit:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += layouts[name].nbytes
    count = len(groups)
    return tuple(
        _plan(SINGLE_FILE if count == 1 else f"model-{i:05d}-of-{count:05d}.safetensors", names, layouts)
        for i, names in enumerate(groups, 1)
    )


def _plan(file_name: str, names: Sequence[str], layouts: Mapping[str, Layout]) -> ShardPlan:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, starts = 0, {}
    for name in names:
        layout = layouts[name]
        end = offset + layout.nbytes
        entries[name] = {"dtype": layout.dtype.name, "shape": list(layout.shape), "data_offsets": [offset, end]}
        starts[name] = offset
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return ShardPlan(file_name, header, {n: Placed(layouts[n], len(header) + starts[n]) for n in names})


def shard_index(plans: Sequence[ShardPlan]) -> bytes | None:
    """Transformers' index of several files; None for a single one."""
    if len(plans) == 1:
        return None
    weight_map = {name: plan.name for plan in plans for name in plan.tensors}
    total = sum(placed.layout.nbytes for plan in plans for placed in plan.tensors.values())
    value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(value, indent=2).encode() + b"\n"


def shard_bytes(plan: ShardPlan, state: RawState) -> bytes:
    """The file's bytes."""
    return b"".join([plan.header, *(state[name].bits.view(np.uint8).data for name in plan.tensors if state[name].bits.size)])


def save_weights(folder: Path, state: RawState, limit: int = SHARD_BYTES) -> StateDigests:
    """Write the files of a state and hash its blocks at the same time; returns the digests.

    Raises:
        StorageError: no space, or the folder cannot be written.
    """
    plans = plan_shards({name: tensor.layout for name, tensor in state.items()}, limit)
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(digest_state, state)
        for plan in plans:
            path = folder / plan.name
            with storage_errors(path), path.open("wb") as file:
                file.write(plan.header)
                for name in plan.tensors:
                    file.write(state[name].bits.view(np.uint8).data)
        index = shard_index(plans)
        if index is not None:
            with storage_errors(folder / INDEX_FILE):
                (folder / INDEX_FILE).write_bytes(index)
        return hashing.result()


def create_weights(folder: Path, layouts: Mapping[str, Layout], limit: int = SHARD_BYTES) -> dict[str, RawTensor]:
    """New files with the headers written and the tensors as writable mapped memory, to be filled in.

    Raises:
        StorageError: no space, or the folder cannot be written.
    """
    state: dict[str, RawTensor] = {}
    plans = plan_shards(layouts, limit)
    for plan in plans:
        path = folder / plan.name
        with storage_errors(path):
            with path.open("wb") as file:
                file.write(plan.header)
                file.flush()
                os.posix_fallocate(file.fileno(), 0, plan.size)  # mapped memory that finds no space ends the process, wordless
            state.update(_mapped(path, plan.tensors, "r+"))
    index = shard_index(plans)
    if index is not None:
        with storage_errors(folder / INDEX_FILE):
            (folder / INDEX_FILE).write_bytes(index)
    return {name: state[name] for name in sorted(state, key=name_order)}


def map_weights(folder: Path) -> dict[str, RawTensor]:
    """All tensors of a folder's safetensors files, read-only, in name order; where there is an index, the tensors it lists.

    Raises:
        CheckpointError: no such file, a malformed one, a name that occurs twice, or files that are not what the index says.
    """
    listed = listed_tensors(folder)
    headers = {path: read_header(path) for path in weight_files(folder)}
    _require_listed(listed, headers, folder)
    state: dict[str, RawTensor] = {}
    for path, placed in headers.items():
        for name, tensor in _mapped(path, placed, "r").items():
            if name in state:
                raise CheckpointError("two files hold the same tensor", where=f"{path}: {name}", hint=_ANEW)
            state[name] = tensor
    return {name: state[name] for name in sorted(state, key=name_order)}


def _require_listed(listed: Mapping[str, str] | None, headers: Mapping[Path, Mapping[str, Placed]], folder: Path) -> None:
    """Every tensor of the index in its file. A single file that stands beside an index is read in its place, and must have
    what the index promises."""
    if listed is None:
        return
    single = [path.name for path in headers] == [SINGLE_FILE]
    held: dict[str, str] = {}
    for path, placed in headers.items():
        for name in placed:
            if held.setdefault(name, path.name) != path.name:
                raise CheckpointError("two files hold the same tensor", where=f"{path}: {name}", hint=_ANEW)
    for name, file_name in listed.items():
        if held.get(name) is None or (not single and held[name] != file_name):
            where = SINGLE_FILE if single else file_name
            raise CheckpointError(
                f"{where} has no tensor {name}, which the index promises",
                where=str(folder),
                hint="fetch the model again, whole",
            )
    more = sorted(held.keys() - listed.keys())
    if more and not single:
        raise CheckpointError(
            f"{held[more[0]]} has a tensor that the index does not list: {more[0]}",
            where=str(folder),
            hint=_ANEW,
        )


def read_header(path: Path) -> dict[str, Placed]:
    """Tensors of a safetensors file and where they lie, every offset checked: contiguous, in bounds, of the right size."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            refuse_pointer(file.read(64), where=str(path))
            file.seek(0)
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little") if len(prefix) == 8 else -1
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ValueError("the header's length is out of bounds")
            raw = file.read(length)
        _require_few_parts(raw)
        entries = parse_json(raw, most=MAX_HEADER_BYTES, tokens=MAX_TENSOR_TOKENS).entries(MAX_TENSORS + 1, key_length=512)
        _check_metadata(entries.pop("__metadata__", None))
        placed = {}
        for name, node in entries.items():
            check_name(name)
            member = node.members("dtype", "shape", "data_offsets")
            layout = check_layout(name, member["dtype"].text(16), [d.integer() for d in member["shape"].items(16)])
            start, end = (offset.integer() for offset in member["data_offsets"].items(2))
            if end - start != layout.nbytes:
                raise ValueError(f"{name}: {end - start} bytes for a tensor of {layout.nbytes}")
            placed[name] = Placed(layout, 8 + length + start)
        position = 8 + length
        for name, item in sorted(placed.items(), key=lambda pair: (pair[1].start, pair[1].layout.nbytes)):
            if item.start != position:
                raise ValueError(f"{name}: overlaps another tensor, or leaves a hole")
            position += item.layout.nbytes
        if position != size:
            raise ValueError(f"the file has {size} bytes, its tensors end at {position}")
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"this is no safetensors file: {error}",
            where=str(path),
            hint="fetch the file again, whole, or save the model anew with save_pretrained(folder)",
        ) from error
    return placed


def _check_metadata(node: Node | None) -> None:
    """Text by name, or null: what the safetensors package takes."""
    if node is not None and node.value is not None:
        for value in node.entries(MAX_TENSORS, key_length=MAX_HEADER_BYTES).values():
            value.text(MAX_HEADER_BYTES)


def _require_few_parts(raw: bytes) -> None:
    """Counted in the bytes, before JSON makes objects of them: a header of lists in lists takes thirty times its size."""
    for part, each in ((b"{", 1), (b":", 4), (b"[", 2), (b",", 24)):
        if raw.count(part) > each * MAX_TENSORS + 4096:
            raise ValueError(f"more parts than {MAX_TENSORS} tensors have, the most that one file may hold")


def _mapped(path: Path, placed: Mapping[str, Placed], mode: str) -> dict[str, RawTensor]:
    file: np.ndarray = np.memmap(path, np.uint8, mode)  # type: ignore[call-overload]
    return dict(_views(file, placed))


def _views(file: np.ndarray, placed: Mapping[str, Placed]) -> Iterator[tuple[str, RawTensor]]:
    for name, item in placed.items():
        if not item.layout.nbytes:
            yield name, RawTensor.empty(item.layout)
            continue
        data = file[item.start : item.start + item.layout.nbytes]
        if item.start % item.layout.dtype.itemsize:
            data = data.copy()  # a foreign writer's alignment
        yield name, RawTensor(item.layout, data.view(item.layout.dtype.bits))
