"""Section 8: the Merkle tree over row digests.

Leaves and inner nodes are hashed under different tags, so that neither can pass for the other. A node without a sibling
moves up unchanged; it is never paired with itself, which would give two lists of leaves one root. The number of leaves is
not in the root: whoever verifies a path takes it from the signed header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from grail_core.protocol.encoding import encode_part
from grail_core.protocol.types import Digest

_LENGTH = (32).to_bytes(4, "big")
_LEAF = encode_part("grail/merkle/leaf") + _LENGTH
_NODE = encode_part("grail/merkle/node") + _LENGTH


def leaf_hash(digest: bytes) -> Digest:
    """SHA-256 over ("grail/merkle/leaf", digest), each with its length in front."""
    if len(digest) != 32:
        raise ValueError(f"a leaf is a digest of 32 bytes, not {len(digest)}")
    return Digest(hashlib.sha256(_LEAF + digest).digest())


def node_hash(left: bytes, right: bytes) -> Digest:
    """SHA-256 over ("grail/merkle/node", left, right), each with its length in front."""
    return Digest(hashlib.sha256(_NODE + left + _LENGTH + right).digest())


def merkle_root(digests: Sequence[bytes]) -> Digest:
    """Root over 32-byte digests in order. Errors: ValueError for none, or one of another size."""
    level = _leaves(digests)
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def merkle_path(digests: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Siblings from leaf `index` up to the root; levels where the node has none are left out."""
    return merkle_paths(digests, (index,))[0]


def merkle_paths(digests: Sequence[bytes], indexes: Sequence[int]) -> tuple[tuple[Digest, ...], ...]:
    """`merkle_path` of each of several leaves, with the tree computed once. Errors: ValueError for an index out of range."""
    for index in indexes:
        if not 0 <= index < len(digests):
            raise ValueError(f"no leaf {index} among {len(digests)}")
    if not indexes:
        return ()
    level, paths, at = _leaves(digests), [list[Digest]() for _ in indexes], list(indexes)
    while len(level) > 1:
        for path, index in zip(paths, at, strict=True):
            if index ^ 1 < len(level):
                path.append(level[index ^ 1])
        level, at = _parents(level), [index // 2 for index in at]
    return tuple(map(tuple, paths))


def merkle_path_length(index: int, count: int) -> int:
    """Nodes of the path of leaf `index` of `count`."""
    length = 0
    while count > 1:
        length += index ^ 1 < count
        index, count = index // 2, (count + 1) // 2
    return length


def verify_merkle_path(root: bytes, digest: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """Is `digest` the `index`-th of `count` leaves under `root`? False for anything malformed."""
    if not 0 <= index < count or len(digest) != 32 or any(len(node) != 32 for node in path):
        return False
    node, used = leaf_hash(digest), 0
    while count > 1:
        if index ^ 1 < count:
            if used == len(path):
                return False
            sibling = path[used]
            used += 1
            node = node_hash(sibling, node) if index & 1 else node_hash(node, sibling)
        index, count = index // 2, (count + 1) // 2
    return used == len(path) and node == root


def _leaves(digests: Sequence[bytes]) -> list[Digest]:
    if not digests:
        raise ValueError("a Merkle tree has at least one leaf")
    return [leaf_hash(digest) for digest in digests]


def _parents(level: list[Digest]) -> list[Digest]:
    parents = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        parents.append(level[-1])
    return parents
