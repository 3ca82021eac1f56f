"""A simulation's randomness: the protocol's own coins and samples, from seeds that are hashed out of the run's seed."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from grail_core.protocol.encoding import encode_part
from grail_core.protocol.rollouts.sample import sample_rollouts
from grail_core.protocol.selection import miner_coin
from grail_core.protocol.types import Hotkey


def window_seed(seed: int, t: int, what: str = "select") -> bytes:
    """32 bytes that stand for a window's select seed or challenge seed."""
    return hashlib.sha256(f"{what}/{seed}/{t}".encode()).digest()


def hotkey(number: int) -> Hotkey:
    return Hotkey(number.to_bytes(32, "big"))


@lru_cache(maxsize=8)
def coin_table(seed: int, windows: int, replicas: int) -> npt.NDArray[np.uint64]:
    """`miner_coin` of every replica in every window: uint64[windows, replicas]."""
    rows = [[miner_coin(window_seed(seed, t), hotkey(r)) for r in range(replicas)] for t in range(windows)]
    return np.array(rows, dtype=np.uint64)


def sample_touches(seed: int, t: int, replica: int, groups: int, junk: int) -> bool:
    """Does the protocol's sample of a file look at one of its junk groups? They are the first, which nobody can foresee."""
    if junk >= groups:
        return True
    challenge = hashlib.sha256(encode_part(window_seed(seed, t, "challenge")) + hotkey(replica)).digest()
    sample = sample_rollouts(challenge, range(groups))
    return any(group < junk for group in sample.whole_groups) or any(group < junk for group, _ in sample.singles)
