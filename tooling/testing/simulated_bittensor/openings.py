"""What weights were committed under drand's timelock in this process: a test's way to open them without the future round.

The SDK encrypts to a round that is not out yet, and nobody can decrypt that offline. So the SDK's own function is wrapped: it
encrypts as ever, and what it encrypted is remembered by the ciphertext's digest until the commit reaches the chain. What this
leaves unexercised is the decryption itself, which on a real network is the chain's work and not a validator's.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from typing import Any

import bittensor_core

_KEPT = 64
_opened: OrderedDict[bytes, dict[int, int]] = OrderedDict()
_original = bittensor_core.get_encrypted_commit_v2


def install() -> None:
    """From now on remember what is committed. May be called again."""
    if bittensor_core.get_encrypted_commit_v2 is _original:
        bittensor_core.get_encrypted_commit_v2 = _remembering


def opening_of(commit: bytes) -> dict[int, int] | None:
    """Weights by UID; None of a commit that this process did not make."""
    return _opened.get(hashlib.sha256(commit).digest())


@functools.wraps(_original)
def _remembering(*, uids: list[int], weights: list[int], **options: Any) -> Any:
    commit, reveal_round = _original(uids=uids, weights=weights, **options)
    _opened[hashlib.sha256(bytes(commit)).digest()] = dict(zip(uids, weights, strict=True))
    while len(_opened) > _KEPT:
        _opened.popitem(last=False)
    return commit, reveal_round
