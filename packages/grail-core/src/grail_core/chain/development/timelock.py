"""Weights that a development chain hides until a block: what drand's timelock is on a real subnet.

A commit is made for one reveal block, and opens with that block's hash alone, so nobody has to come back for it: the chain
opens it itself when the block comes. That block hashes of this chain can be computed by who holds its file is its own
weakness (`local`), not one of this form. Whoever commits to nonsense is found out at the reveal, where it is dropped.
"""

from __future__ import annotations

import hashlib
import json

from grail_core.protocol.encoding import canonical_json, message
from grail_core.protocol.types import Hotkey

MAX_COMMIT_BYTES = 64 * 1024
"""Of ciphertext: 256 UIDs take some three thousand."""
_DIGEST_BYTES = 32


def close_weights(weights: list[list[int]], block_hash: bytes, hotkey: Hotkey) -> bytes:
    """Digest and ciphertext of `[[uid, u16], …]`, for the block of this hash."""
    plain = canonical_json([list(pair) for pair in weights])
    return hashlib.sha256(plain).digest() + _mask(plain, block_hash, hotkey)


def open_weights(commit: bytes, block_hash: bytes, hotkey: Hotkey) -> object:
    """What was committed, whatever it is; None where the bytes are not of this hotkey for this block."""
    digest, hidden = commit[:_DIGEST_BYTES], commit[_DIGEST_BYTES:]
    plain = _mask(hidden, block_hash, hotkey)
    if hashlib.sha256(plain).digest() != digest:
        return None
    try:
        return json.loads(plain)
    except (ValueError, RecursionError):
        return None


def _mask(data: bytes, block_hash: bytes, hotkey: Hotkey) -> bytes:
    stream = hashlib.shake_256(message(block_hash, "grail/local-chain/timelock", hotkey)).digest(len(data))
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))
