"""Sections 6 to 8 and 12 of gradient work once more, in plain Python: lists of floats, integers and texts of bits, no NumPy.

Slow, and written from the specification's words rather than from `grail_core.gradient`: what the vectors are derived with, and
what tests hold the shipped code against. A float32 is a Python float that float32 holds; products and sums of two of them are
rounded to float32 through float64, which gives the same bits (53 ≥ 2·24 + 2).
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from math import isqrt, log2

SCALES = [0, *((2048 + c % 2048) * 2 ** (c // 2048) for c in range(1, 65536))]
"""What each scale code stands for, in units of 2⁻⁴⁰; rising."""


def float32(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def scale_code(value: float) -> int:
    """The nearest code, ties to the even one."""
    units = Fraction(value) * 2**40
    at = min(bisect_left(SCALES, units), 65535)
    if at == 0 or units >= SCALES[65535]:
        return at
    below, above = units - SCALES[at - 1], SCALES[at] - units
    return at if above < below or (above == below and at % 2 == 0) else at - 1


def chunks_of(size: int, chunk: int, kept: int) -> list[tuple[int, int, int]]:
    """(first element, elements, values sent) of each chunk."""
    cut = [(first, min(chunk, size - first)) for first in range(0, size, chunk)]
    return [(first, count, max(1, kept * count // chunk)) for first, count in cut]


def accumulated(delta: Sequence[float], feedback: Sequence[float], beta: int) -> list[float]:
    factor = float32(beta / 10**6)
    return [float32(float32(factor * e) + d) for e, d in zip(feedback, delta, strict=True)]


def selected(values: Sequence[float], chunk: int, kept: int) -> list[list[int]]:
    """Places of each chunk."""
    found = []
    for first, count, room in chunks_of(len(values), chunk, kept):
        order = sorted(range(count), key=lambda i: (-abs(values[first + i]), i))
        found.append(sorted(order[:room]))
    return found


def as_bytes(bits: str) -> bytes:
    """Most significant first, padded with zeros."""
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def encoded(values: Sequence[float], chunk: int, kept: int) -> bytes:
    """The stream of a tensor."""
    r = max(0, int(log2(chunk / kept)) - 1)
    scales, signs, remainders, unary = b"", "", "", ""
    for (first, _, room), places in zip(chunks_of(len(values), chunk, kept), selected(values, chunk, kept), strict=True):
        total = 0.0
        for place in places:
            total = total + abs(values[first + place])
        scales += scale_code(total / room).to_bytes(2, "little")
        previous = -1
        for place in places:
            signs += "1" if values[first + place] < 0 else "0"
            gap, previous = place - previous - 1, place
            remainders += format(gap % 2**r, f"0{r}b") if r else ""
            unary += "0" * (gap // 2**r) + "1"
    tail = as_bytes(unary)
    return scales + as_bytes(signs) + len(tail).to_bytes(4, "little") + as_bytes(remainders) + tail


def decoded(stream: bytes, size: int, chunk: int, kept: int) -> list[int]:
    """A value for every element, in units of 2⁻⁴⁰. The stream is taken to be well formed."""
    r = max(0, int(log2(chunk / kept)) - 1)
    cut = chunks_of(size, chunk, kept)
    count = sum(room for _, _, room in cut)
    at = 2 * len(cut)
    scales = [SCALES[int.from_bytes(stream[2 * i : 2 * i + 2], "little")] for i in range(len(cut))]
    signs = _bits(stream[at : at + (count + 7) // 8])
    at += (count + 7) // 8 + 4
    remainders = _bits(stream[at : at + (count * r + 7) // 8])
    unary = _bits(stream[at + (count * r + 7) // 8 :])
    values, n, u = [0] * size, 0, 0
    for (first, _, room), scale in zip(cut, scales, strict=True):
        place = -1
        for _ in range(room):
            zeros = unary.index("1", u) - u
            u += zeros + 1
            place += 1 + zeros * 2**r + int("0" + remainders[n * r : (n + 1) * r], 2)
            values[first + place] = -scale if signs[n] == "1" else scale
            n += 1
    return values


def rest(values: Sequence[float], sent: Sequence[int]) -> list[float]:
    return [float32(value - units * 2.0**-40) for value, units in zip(values, sent, strict=True)]


def merged(theta: Sequence[float], updates: Sequence[Sequence[int]], rate: int) -> list[float]:
    """One tensor of the next checkpoint, from decoded updates."""
    total = [0] * len(theta)
    for update, c in zip(updates, clips(updates), strict=True):
        total = [t + ((v * c + 2**15) >> 16) for t, v in zip(total, update, strict=True)]
    factor = min(1.0, rate / (10**6 * len(updates))) * 2.0**-40
    return [float32(old - float(t) * factor) for old, t in zip(theta, total, strict=True)]


def clips(updates: Sequence[Sequence[int]]) -> list[int]:
    norms = [sum(v * v for v in update) for update in updates]
    median = sorted(norms)[(len(norms) - 1) // 2]
    return [isqrt((median << 32) // norm) if norm > median else 1 << 16 for norm in norms]


def scored(theta: Sequence[float], update: Sequence[int], most: int, step: int) -> list[float]:
    """θ_0 − u of one tensor; `most` is the median norm², `step` in permille."""
    norm = sum(v * v for v in update)
    c = isqrt((most << 32) // norm) if norm > most else 1 << 16
    factor = step / 1000 * 2.0**-40
    return [float32(old - float((v * c + 2**15) >> 16) * factor) for old, v in zip(theta, update, strict=True)]


def leaves(tensors: Sequence[Sequence[float]], chunk: int) -> list[bytes]:
    """SHA-256 of each chunk, −0.0 as 0.0."""
    return [
        hashlib.sha256(b"".join(struct.pack("<f", v if v else 0.0) for v in values[first : first + chunk])).digest()
        for values in tensors
        for first in range(0, len(values), chunk)
    ]


def root(tensors: Sequence[Sequence[float]], chunk: int) -> bytes:
    if not any(any(values) for values in tensors):
        return bytes(32)
    return tree(leaves(tensors, chunk))


def tree(digests: Sequence[bytes]) -> bytes:
    """The Merkle root: the left half is the largest power of two below the number of leaves."""

    def part(raw: bytes) -> bytes:
        return len(raw).to_bytes(4, "big") + raw

    def below(some: Sequence[bytes]) -> bytes:
        if len(some) == 1:
            return hashlib.sha256(part(b"grail/merkle/leaf") + part(some[0])).digest()
        half = 1 << (len(some) - 1).bit_length() - 1
        return hashlib.sha256(part(b"grail/merkle/node") + part(below(some[:half])) + part(below(some[half:]))).digest()

    return below(digests)


def _bits(raw: bytes) -> str:
    return "".join(format(byte, "08b") for byte in raw)
