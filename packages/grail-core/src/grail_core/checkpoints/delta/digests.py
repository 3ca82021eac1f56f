"""Digests of weights: 4 MiB blocks, tensors, and the Merkle root of a whole state.

A block's digest is SHA-256 of its bytes; a tensor's binds name, dtype, shape and the Merkle root over its blocks; the
`weights_root` is the Merkle root over the tensors' digests in name order. No network id is in them: the same weights have
the same root everywhere, and the manifest that names a root is what binds it to a network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from grail_core.checkpoints.delta.tensors import (
    MAX_TENSOR_TOKENS,
    Bits,
    Layout,
    RawState,
    RawTensor,
    check_layout,
    check_name,
    name_order,
)
from grail_core.errors import CheckpointError
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.merkle import merkle_root
from grail_core.protocol.reading import parse_json
from grail_core.protocol.types import Digest

BLOCK_BYTES = 4 << 20
MAX_INDEX_BYTES = 64 << 20
_NO_NETWORK = b""


def worker_threads() -> int:
    """Threads for hashing and coding: the CPUs this process may use, at most 8."""
    return max(1, min(8, len(os.sched_getaffinity(0))))


def block_count(layout: Layout) -> int:
    """Blocks of a tensor; an empty one has none."""
    return -(-layout.nbytes // BLOCK_BYTES)


def block(tensor: RawTensor, index: int) -> Bits:
    """View of block `index`."""
    step = BLOCK_BYTES // tensor.layout.dtype.itemsize
    return tensor.bits[index * step : (index + 1) * step]


def block_digest(data: Bits) -> Digest:
    return Digest(hashlib.sha256(data.data if data.size else b"").digest())


def blocks_root(blocks: Sequence[Digest]) -> Digest:
    """Merkle root over a tensor's blocks; 32 zero bytes for an empty tensor."""
    return merkle_root(blocks) if blocks else Digest(bytes(32))


def tensor_digest(name: str, layout: Layout, root: Digest) -> Digest:
    """H("grail/tensor", name, dtype, count of dimensions, dimensions…, root over the blocks)."""
    return tagged_hash(_NO_NETWORK, "grail/tensor", name, layout.dtype.name, len(layout.shape), *layout.shape, root)


@dataclass(frozen=True)
class TensorEntry:
    layout: Layout
    blocks_root: Digest


@dataclass(frozen=True)
class WeightsIndex:
    """Names, layouts and block roots of a state's tensors, in name order: the object `index` of a manifest."""

    tensors: Mapping[str, TensorEntry]

    @property
    def root(self) -> Digest:
        """`weights_root`; of no tensors at all, 32 zero bytes."""
        digests = [tensor_digest(name, entry.layout, entry.blocks_root) for name, entry in self.tensors.items()]
        return merkle_root(digests) if digests else Digest(bytes(32))

    def to_bytes(self) -> bytes:
        """Canonical JSON: a list of [name, dtype, shape, root over its blocks]."""
        rows = [[n, e.layout.dtype.name, list(e.layout.shape), e.blocks_root.hex()] for n, e in self.tensors.items()]
        return canonical_json({"tensors": rows, "version": 1})

    @classmethod
    def from_bytes(cls, raw: bytes, *, expected_root: Digest, where: str) -> WeightsIndex:
        """Read an index and check it against the root that a manifest names.

        Raises:
            CheckpointError: malformed, or of another root.
        """
        try:
            top = parse_json(raw, most=MAX_INDEX_BYTES, tokens=MAX_TENSOR_TOKENS).entries(16)
            if "version" not in top or top["version"].integer() != 1 or "tensors" not in top:
                raise ValueError("this version of the index is not known here")
            tensors = {}
            for row in top["tensors"].items(1 << 20):
                name, dtype, shape, root = row.items(4)
                text = name.text(512)
                check_name(text)
                layout = check_layout(text, dtype.text(16), [d.integer() for d in shape.items(16)])
                tensors[text] = TensorEntry(layout, Digest(root.raw(32)))
            if list(tensors) != sorted(tensors, key=name_order) or len(tensors) != len(top["tensors"].items(1 << 20)):
                raise ValueError("names are not distinct and in order")
        except ValueError as error:
            raise CheckpointError(f"this is no index of weights: {error}", where=where) from error
        index = cls(tensors)
        if index.root != expected_root:
            raise CheckpointError("the index does not have the manifest's weights root", where=where)
        return index


@dataclass(frozen=True)
class StateDigests:
    """Block digests of every tensor of a state. `names` are in name order; tied names share one tuple."""

    layouts: Mapping[str, Layout]
    blocks: Mapping[str, tuple[Digest, ...]]

    @property
    def index(self) -> WeightsIndex:
        return WeightsIndex({n: TensorEntry(layout, blocks_root(self.blocks[n])) for n, layout in self.layouts.items()})

    @property
    def root(self) -> Digest:
        return self.index.root


def digest_state(state: RawState, *, threads: int | None = None) -> StateDigests:
    """Hash every block once, in parallel; tied tensors once in all."""
    names = sorted(state, key=name_order)
    distinct = {id(state[name]): state[name] for name in names}
    work = [(key, tensor, i) for key, tensor in distinct.items() for i in range(block_count(tensor.layout))]
    with ThreadPoolExecutor(threads or worker_threads()) as pool:
        hashed = list(pool.map(lambda item: block_digest(block(item[1], item[2])), work))
    blocks: dict[int, list[Digest]] = {key: [] for key in distinct}
    for (key, _, _), digest in zip(work, hashed, strict=True):
        blocks[key].append(digest)
    frozen = {key: tuple(digests) for key, digests in blocks.items()}
    return StateDigests({n: state[n].layout for n in names}, {n: frozen[id(state[n])] for n in names})
