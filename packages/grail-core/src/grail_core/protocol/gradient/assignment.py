"""Gradient work, section 4: which sequences of the corpus are whose, in which step.

A permutation of the corpus that nobody knows before the seed beacon; UID u owns A = H · b_most of its places, so slices are
disjoint by construction. Places beyond everybody's are common data. Whether an index belongs to a UID costs one inverse.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any

from grail_core.protocol.encoding import encode_part, message
from grail_core.protocol.gradient.spec import GradientSpec

PERMUTATION = "grail/gradient/permutation"
ROUNDS = 6


class Permutation:
    """π of section 4 over 0 … n − 1: six rounds on a grid of at least n cells, walking on while outside.

    Args:
        network_id, window_seed: 32 bytes each.
        n: at least 1.
    """

    def __init__(self, network_id: bytes, window_seed: bytes, n: int) -> None:
        if n < 1:
            raise ValueError(f"a permutation of {n} numbers")
        self.n = n
        self.rows = isqrt(n - 1) + 1  # a = ⌈√n⌉
        self.columns = -(-n // self.rows)  # c
        # What all hashes of one of the six rounds begin with is hashed once.
        self._begun: list[Any] = [hashlib.sha256(message(network_id, PERMUTATION, window_seed, i)) for i in range(ROUNDS)]

    def __call__(self, x: int) -> int:
        """π(x)."""
        self._require(x)
        while True:
            x = self._forward(x)
            if x < self.n:
                return x

    def inverse(self, y: int) -> int:
        """The x of which π(x) = y."""
        self._require(y)
        while True:
            y = self._backward(y)
            if y < self.n:
                return y

    def _require(self, x: int) -> None:
        if not 0 <= x < self.n:
            raise ValueError(f"{x} is outside 0 … {self.n - 1}")

    def _word(self, i: int, y: int) -> int:
        """F(i, y): the first 16 bytes of H(tag, window_seed, i, y) as an integer, big-endian."""
        state = self._begun[i].copy()
        state.update(encode_part(y))
        return int.from_bytes(state.digest()[:16], "big")

    def _forward(self, x: int) -> int:
        left, right = divmod(x, self.columns)
        for i in range(0, ROUNDS, 2):
            left = (left + self._word(i, right)) % self.rows
            right = (right + self._word(i + 1, left)) % self.columns
        return left * self.columns + right

    def _backward(self, y: int) -> int:
        left, right = divmod(y, self.columns)
        for i in range(ROUNDS - 2, -1, -2):
            right = (right - self._word(i + 1, left)) % self.columns
            left = (left - self._word(i, right)) % self.rows
        return left * self.columns + right


@dataclass(frozen=True)
class Place:
    """Where in the round's work a sequence stands: row r of step j of a UID's slice."""

    uid: int
    step: int
    row: int


@dataclass(frozen=True)
class Assignment:
    """Who trains on what in one round."""

    spec: GradientSpec
    network_id: bytes
    window_seed: bytes

    @cached_property
    def permutation(self) -> Permutation:
        return Permutation(self.network_id, self.window_seed, self.spec.sequences)

    def assigned(self, uid: int, step: int, row: int) -> int:
        """The index of the sequence that is row r of step j of a UID: π(u·A + j·b_most + r).

        Raises:
            ValueError: a step or row that the spec does not have, or a UID beyond the corpus.
        """
        return self.permutation(place_number(self.spec, Place(uid, step, row)))

    def batch(self, uid: int, step: int, size: int) -> list[int]:
        """The indices that a miner of batch size b trains on in one step, in their order."""
        if not self.spec.batch_least <= size <= self.spec.batch_most:
            raise ValueError(f"a batch of {size}: {self.spec.batch_least} … {self.spec.batch_most} are allowed")
        return [self.assigned(uid, step, row) for row in range(size)]

    def place_of(self, index: int) -> Place:
        """Whose an index is in this round, whether or not anybody holds that UID. One inverse of π."""
        uid, at = divmod(self.permutation.inverse(index), self.spec.assigned)
        return Place(uid, *divmod(at, self.spec.batch_most))

    def common(self, place: int) -> int:
        """The index at a place of the common data."""
        return self.permutation(place)


def place_number(spec: GradientSpec, place: Place) -> int:
    """u·A + j·b_most + r. Errors: ValueError for a step or row that the spec does not have, or a UID below 0."""
    if place.uid < 0 or not 0 <= place.step < spec.inner_steps or not 0 <= place.row < spec.batch_most:
        raise ValueError(
            f"UID {place.uid}, step {place.step}, row {place.row}: there are {spec.inner_steps} steps of {spec.batch_most} rows"
        )
    return place.uid * spec.assigned + place.step * spec.batch_most + place.row


def first_common_place(spec: GradientSpec, highest_uid: int) -> int:
    """Places from here on are nobody's: A · (1 + highest UID at block T); −1 where nobody is registered."""
    return spec.assigned * (1 + highest_uid)


def require_sequences(spec: GradientSpec, highest_uid: int) -> None:
    """Is at least half of the corpus left as common data? Checked when a round opens.

    Raises:
        ValueError: N < 2 · A · (1 + highest UID): there is no work in this round.
    """
    taken = first_common_place(spec, highest_uid)
    if spec.sequences < 2 * taken:
        raise ValueError(
            f"sequences: {spec.sequences} of the corpus, UIDs up to {highest_uid} with {spec.assigned} each take {taken}, and "
            f"as many must be left; there is no work in this round"
        )
