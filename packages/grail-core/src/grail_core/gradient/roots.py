"""Section 8: what commits to a float32 vector, and what shows a chunk of it.

The root of a vector is the Merkle root over the SHA-256 of its chunks' little-endian bytes, in layout order; −0.0 counts as
0.0, and a vector with a number that is not finite has no root. The vector of zeros has 32 zero bytes for a root, so that what
is zero at every start of a round needs no tree, and its chunks need no path. A chunk that is shown travels in the very bytes
that were hashed: one with −0.0 in it is under no root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from grail_core.gradient.layout import Floats, Layout, StateArrays
from grail_core.protocol.merkle import merkle_path_length, merkle_paths, merkle_root, verify_merkle_path

ZERO_ROOT: Final = bytes(32)
"""The root of the vector of zeros."""


@dataclass(frozen=True)
class Digests:
    """The digests of all chunks of one vector; none where it is the vector of zeros."""

    chunks: tuple[bytes, ...]

    @property
    def root(self) -> bytes:
        return merkle_root(self.chunks) if self.chunks else ZERO_ROOT

    def paths(self, numbers: Sequence[int]) -> tuple[tuple[bytes, ...], ...]:
        """The path of each of these chunks; an empty one where the vector is zero."""
        return merkle_paths(self.chunks, numbers) if self.chunks else tuple(() for _ in numbers)


def digests(layout: Layout, state: StateArrays) -> Digests:
    """The digests of a whole vector. Errors: ValueError for another layout's tensors, or a number that is not finite."""
    layout.require(state)
    found: list[bytes] = []
    zero = True
    for tensor in layout.tensors:
        values = tensor.flat(state[tensor.name])
        for first in range(0, tensor.size, tensor.chunk):
            chunk = canonical(values[first : first + tensor.chunk])
            if not np.isfinite(chunk).all():
                raise ValueError(f"{tensor.name}: a number of chunk {first // tensor.chunk} is not finite: it has no root")
            zero = zero and not chunk.any()
            found.append(hashlib.sha256(chunk.data).digest())
    return Digests(() if zero else tuple(found))


def root_of(layout: Layout, state: StateArrays) -> bytes:
    """The root of a whole vector: 32 bytes. Errors: as `digests`."""
    return digests(layout, state).root


def step_root(theta: bytes, first_moment: bytes, second_moment: bytes) -> bytes:
    """The entry of `step_roots` for a state: the Merkle root of the roots of θ_j, m_j, v_j."""
    return merkle_root((theta, first_moment, second_moment))


def canonical(chunk: Floats) -> Floats:
    """The little-endian numbers that are hashed: −0.0 turned into 0.0. New memory."""
    return (chunk + np.float32(0)).astype("<f4", copy=False)


def chunk_digest(chunk: Floats) -> bytes:
    """SHA-256 of a chunk's canonical bytes."""
    return hashlib.sha256(canonical(chunk).data).digest()


def path_bytes(layout: Layout, root: bytes, number: int) -> int:
    """Length of the path of a chunk under a root."""
    return 0 if root == ZERO_ROOT else 32 * merkle_path_length(number, layout.chunks)


def is_under(root: bytes, digest: bytes, number: int, layout: Layout, path: Sequence[bytes]) -> bool:
    """Is this the digest of chunk `number` of the vector with this root? Of the vector of zeros nothing needs to be shown."""
    return root != ZERO_ROOT and verify_merkle_path(root, digest, number, layout.chunks, path)
