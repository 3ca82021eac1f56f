"""Sections 2, 3 and 5: every seed of the protocol, and the one way to draw from a seed.

`Randomness` is bound to a network; each seed is a function of public values that were unknown until their time. `draw`
takes no network id, because the seeds it draws from carry one already. Who may know which value when is said in
`docs/protocol.md`, section 2; nothing here reads a chain or a beacon.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

import numpy as np
import numpy.typing as npt

from grail_core.protocol.encoding import encode_part, tagged_hash, tagged_stream
from grail_core.protocol.types import Digest

DRAW_MINERS = "grail/draw/miners"
DRAW_GROUPS = "grail/draw/groups"
DRAW_SINGLES = "grail/draw/singles"
DRAW_ALTERNATIVES = "grail/draw/alternatives"
DRAW_POSITIONS = "grail/draw/positions"
COIN_FLOAT32 = "grail/coin/float32"

_WORDS = 2**64
_FIRST_STREAM_BYTES = 512


class Randomness:
    """The seeds of one network. All arguments named hash, seed, digest, randomness or hotkey are 32 raw bytes."""

    __slots__ = ("network_id",)

    def __init__(self, network_id: bytes) -> None:
        self.network_id = Digest(_bytes32("network id", network_id))

    def window_seed(self, block_hash: bytes, beacon_randomness: bytes) -> Digest:
        """Section 2: from block_hash(T) and the first round at or after the time of block T + 1 (32 zero bytes where the
        network's beacon policy is `off`)."""
        return tagged_hash(
            self.network_id,
            "grail/window",
            _bytes32("block hash", block_hash),
            _bytes32("beacon randomness", beacon_randomness),
        )

    def select_seed(self, block_hash: bytes, beacon_randomness: bytes) -> Digest:
        """Section 2: which miners are checked. `block_hash` is that of the last block of first sight."""
        return tagged_hash(
            self.network_id,
            "grail/select",
            _bytes32("block hash", block_hash),
            _bytes32("beacon randomness", beacon_randomness),
        )

    def challenge_seed(self, block_hash: bytes, beacon_randomness: bytes, content_digest: bytes) -> Digest:
        """Section 2: what is checked of one file, bound to the file's SHA-256."""
        return tagged_hash(
            self.network_id,
            "grail/challenge",
            _bytes32("block hash", block_hash),
            _bytes32("beacon randomness", beacon_randomness),
            _bytes32("content digest", content_digest),
        )

    def problem_seed(self, window_seed: bytes, hotkey: bytes, env_digest: bytes, group: int) -> int:
        """Section 3: the 64-bit unsigned seed of a miner's group-th problem."""
        stream = tagged_stream(
            self.network_id,
            "grail/problem",
            _bytes32("window seed", window_seed),
            _bytes32("hotkey", hotkey),
            _bytes32("environment digest", env_digest),
            _count("group", group),
            length=8,
        )
        return int.from_bytes(stream, "big")

    def sampling_seed(
        self, window_seed: bytes, hotkey: bytes, checkpoint_digest: bytes, env_digest: bytes, group: int, rollout: int
    ) -> int:
        """Section 3: the seed of one rollout, 64 bits with the top bit cleared (engines take signed 64-bit seeds)."""
        stream = tagged_stream(
            self.network_id,
            "grail/sample",
            _bytes32("window seed", window_seed),
            _bytes32("hotkey", hotkey),
            _bytes32("checkpoint digest", checkpoint_digest),
            _bytes32("environment digest", env_digest),
            _count("group", group),
            _count("rollout", rollout),
            length=8,
        )
        return int.from_bytes(stream, "big") & (2**63 - 1)

    def sketch_bits(self, window_seed: bytes, j: int, d: int) -> npt.NDArray[np.int8]:
        """Section 5: projection w_j as int8[d] of −1 and +1; bits of the stream, most significant first, 1 → +1."""
        if d < 1:
            raise ValueError(f"a projection has at least one dimension, not {d}")
        seed = _bytes32("window seed", window_seed)
        stream = tagged_stream(self.network_id, "grail/sketch", seed, _count("projection", j), length=(d + 7) // 8)
        bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=d, bitorder="big")
        return (bits.astype(np.int8) << 1) - np.int8(1)


def draw(seed: bytes, tag: str, n: int, k: int) -> list[int]:
    """Section 2: the first `k` of a random order of 0 … n−1, in drawn order.

    Partial Fisher–Yates in O(k) time and memory. Step i has n' = n − i values left and takes the next 8-byte big-endian
    word w of SHAKE-256 over (tag, seed), each with its length in front; w ≥ ⌊2⁶⁴/n'⌋·n' is skipped; the value at
    i + (w mod n') changes places with the one at i.

    Raises:
        ValueError: k is negative or greater than n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} cannot be drawn")
    return list(islice(drawn(seed, tag, n), k))


def coin_falls(seed: bytes, tag: str, chance: Fraction) -> bool:
    """One coin of a seed: true with this chance, by the first 8-byte word that `draw` would take."""
    return next(stream_words(seed, tag)) * chance.denominator < chance.numerator * _WORDS


def drawn(seed: bytes, tag: str, n: int) -> Iterator[int]:
    """All of 0 … n−1 in the order of `draw`, computed as far as it is consumed."""
    words = stream_words(seed, tag)
    moved: dict[int, int] = {}  # what stands at an index that no longer holds itself
    for i in range(n):
        left = n - i
        limit = _WORDS - _WORDS % left
        word = next(words)
        while word >= limit:
            word = next(words)
        at = i + word % left
        value = moved.get(at, at)
        moved[at] = moved.pop(i, i)
        yield value


def stream_words(seed: bytes, tag: str, *more: bytes) -> Iterator[int]:
    """The 8-byte big-endian words of SHAKE-256 over (tag, seed, more…), each part with its length in front. Endless."""
    stream = hashlib.shake_256(encode_part(tag) + b"".join(map(encode_part, (seed, *more))))
    begin, end = 0, _FIRST_STREAM_BYTES
    while True:
        # SHAKE cannot be squeezed further in hashlib: a longer digest repeats the shorter one, so doubling stays linear.
        digest = stream.digest(end)
        for at in range(begin, end, 8):
            yield int.from_bytes(digest[at : at + 8], "big")
        begin, end = end, 2 * end


def _bytes32(name: str, value: bytes) -> bytes:
    if len(value) != 32 or not isinstance(value, bytes):
        raise ValueError(f"{name}: 32 raw bytes are expected, not {len(value)} of {type(value).__name__}")
    return value


def _count(name: str, value: int) -> int:
    if value < 0:
        raise ValueError(f"{name}: {value} is negative")
    return int(value)
