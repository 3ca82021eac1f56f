"""The inner loops of the gradient codec in NumPy: what runs where numba is not installed.

The same functions, arguments and results as `kernels`, which says what they mean, three to seven times slower. Work goes
over a bounded number of chunks at a time where temporary arrays would be larger than the tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

INSIDE, MORE, FEWER, TRAILING = 1, 2, 3, 4

_ROWS = 64  # chunks worked on at a time

Integers = npt.NDArray[Any]


def select(bits: npt.NDArray[np.int32], chunk: int, kept: int, places: npt.NDArray[np.uint16]) -> int:
    """`kernels.select`."""
    used = 0
    for first, rows in _blocks(bits, chunk):
        size = rows.shape[1]
        room = max(1, kept * size // chunk)
        magnitudes = rows & np.int32(0x7FFFFFFF)
        wrong = np.flatnonzero((magnitudes >= 0x7F800000).any(axis=1))
        if wrong.size:
            return first + int(wrong[0])
        threshold = np.partition(magnitudes, size - room, axis=1)[:, size - room, None]
        above, ties = magnitudes > threshold, magnitudes == threshold
        chosen = above | (ties & (ties.cumsum(axis=1) <= room - above.sum(axis=1, keepdims=True)))
        places[used : used + len(rows) * room] = np.nonzero(chosen)[1]
        used += len(rows) * room
    return -1


def gather(
    values: npt.NDArray[np.float32],
    chunk: int,
    kept: int,
    places: npt.NDArray[np.uint16],
    means: npt.NDArray[np.float64],
    negative: npt.NDArray[np.uint8],
) -> None:
    """`kernels.gather`."""
    used = 0
    for first, rows in _blocks(values, chunk):
        room = max(1, kept * rows.shape[1] // chunk)
        span = slice(used, used + len(rows) * room)
        chosen = np.take_along_axis(rows, places[span].reshape(-1, room).astype(np.intp), 1).astype(np.float64)
        negative[span] = (chosen < 0).reshape(-1)
        # `accumulate` adds from left to right; `sum` adds in pairs, in an order of its own.
        means[first : first + len(rows)] = np.add.accumulate(np.abs(chosen), axis=1)[:, -1] / room
        used = span.stop


def pack_gaps(
    places: npt.NDArray[np.uint16],
    size: int,
    chunk: int,
    kept: int,
    r: int,
    remainders: npt.NDArray[np.uint8],
    unary: npt.NDArray[np.uint8],
) -> int:
    """`kernels.pack_gaps`."""
    if not places.size:
        return 0
    gaps: Integers = np.diff(places.astype(np.int32), prepend=np.int32(-1)) - 1
    starts = _starts(size, chunk, kept)
    gaps[starts] = places[starts]
    if r:
        bits = ((gaps[:, None] >> np.arange(r - 1, -1, -1)) & 1).astype(np.uint8)
        remainders[:] = np.packbits(bits.reshape(-1))
    ones = np.cumsum((gaps >> r).astype(np.int64) + 1) - 1
    bits = np.zeros(int(ones[-1]) + 1, np.uint8)
    bits[ones] = 1
    used = (bits.size + 7) // 8
    unary[:used] = np.packbits(bits)
    return used


def unpack_gaps(
    remainders: npt.NDArray[np.uint8],
    unary: npt.NDArray[np.uint8],
    size: int,
    chunk: int,
    kept: int,
    r: int,
    places: npt.NDArray[np.uint16],
) -> tuple[int, int]:
    """`kernels.unpack_gaps`."""
    count = places.size
    ones = np.flatnonzero(np.unpackbits(unary))
    there = min(count, ones.size)
    gaps = (np.diff(ones[:there], prepend=-1) - 1) << r
    if r:
        bits = np.unpackbits(remainders, count=there * r).reshape(there, r)
        gaps |= bits @ (1 << np.arange(r - 1, -1, -1))
    starts = _starts(size, chunk, kept)
    starts = starts[starts < there]
    found = np.cumsum(gaps + 1)
    lengths = np.diff(np.append(starts, there))
    before = np.append(0, found)[starts]  # what the chunks before have run up
    found -= np.repeat(before, lengths) + 1
    sizes = np.full(starts.size, chunk)
    if sizes.size == -(-size // chunk) and size:
        sizes[-1] = size - (sizes.size - 1) * chunk
    outside = np.flatnonzero(found >= np.repeat(sizes, lengths))
    if outside.size:
        return INSIDE, int(outside[0])
    if ones.size != count:
        return (MORE, count) if ones.size > count else (FEWER, there)
    if unary.size and not unary[-1]:
        return TRAILING, count
    places[:] = found
    return 0, count


def add(
    places: npt.NDArray[np.uint16],
    negative: npt.NDArray[np.uint8],
    plus: npt.NDArray[np.int64],
    minus: npt.NDArray[np.int64],
    chunk: int,
    kept: int,
    total: npt.NDArray[np.int64],
) -> None:
    """`kernels.add`."""
    number = np.repeat(np.arange(plus.size), np.diff(np.append(_starts(total.size, chunk, kept), places.size)))
    # Places of one update are distinct, so that plain indexing loses none.
    total[number * chunk + places] += np.where(negative != 0, minus[number], plus[number])


def _blocks(values: Integers, chunk: int) -> list[tuple[int, Integers]]:
    """(number of the first chunk, chunks as rows), the shorter last chunk by itself."""
    full = values.size // chunk
    rows = values[: full * chunk].reshape(full, chunk)
    blocks = [(first, rows[first : first + _ROWS]) for first in range(0, full, _ROWS)]
    return blocks + ([(full, values[full * chunk :][None])] if values.size % chunk else [])


def _starts(size: int, chunk: int, kept: int) -> Integers:
    """Which value is the first of each chunk."""
    return np.arange(-(-size // chunk)) * kept
