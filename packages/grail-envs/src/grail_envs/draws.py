"""Draws that depend on a seed and nothing else: the one source of randomness of every generated problem.

A `Draws` is an endless stream of 64-bit words from SHAKE-256 over an environment's tag, its version and the seed. Python's
`random`, hash order, the process and library versions have no part in it, so a problem has the same bytes everywhere.
Bounded draws reject instead of reducing, so they are exactly uniform.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_WORDS_A_BLOCK = 128


def checked_seed(seed: int) -> int:
    """The seed itself.

    Raises:
        ValueError: a seed outside 0 … 2⁶⁴ − 1.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed is a 64-bit unsigned integer, not {seed}")
    return seed


class Draws:
    """An endless, reproducible stream of draws for (tag, version, seed)."""

    def __init__(self, tag: str, version: int, seed: int) -> None:
        self._prefix = b"grail-envs/" + tag.encode() + struct.pack(">IQ", version, checked_seed(seed))
        self._block = 0
        self._words: list[int] = []

    def word(self) -> int:
        """The next 64-bit word."""
        if not self._words:
            raw = hashlib.shake_256(self._prefix + struct.pack(">I", self._block)).digest(8 * _WORDS_A_BLOCK)
            self._words = list(struct.unpack(f">{_WORDS_A_BLOCK}Q", raw))
            self._words.reverse()
            self._block += 1
        return self._words.pop()

    def below(self, bound: int) -> int:
        """Uniform in 0 … bound − 1; `bound` at least 1, at most 2⁶⁴."""
        limit = 2**64 // bound * bound
        while True:
            word = self.word()
            if word < limit:
                return word % bound

    def between(self, low: int, high: int) -> int:
        """Uniform in low … high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, numerator: int, denominator: int) -> bool:
        """True with probability numerator / denominator."""
        return self.below(denominator) < numerator

    def choice(self, items: Sequence[T]) -> T:
        """One item, uniformly."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` distinct places of `items`, in drawn order (partial Fisher–Yates)."""
        pool = list(items)
        for place in range(count):
            other = place + self.below(len(pool) - place)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in a uniformly drawn order."""
        return self.sample(items, len(items))
