# mypy: disable-error-code="no-untyped-def, assignment, operator, arg-type"
"""The inner loops of the gradient codec, compiled; `arrays` has the same functions in NumPy, with equal results.

Arguments shared by all: tensors are flat, cut in chunks of `chunk` elements of which `kept` are sent (of a shorter last one
its share, at least one); `places` count within a chunk. Bits are written most significant first. Nothing here multiplies and
adds floats in one expression, so that no compiler can fuse them; all loops release the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_INFINITY = np.int32(0x7F800000)
_LEAD = np.array([8 - byte.bit_length() for byte in range(256)], np.uint8)  # zeros before the first one of a byte

INSIDE, MORE, FEWER, TRAILING = 1, 2, 3, 4  # what `unpack_gaps` finds wrong


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, boundscheck=False)(function)
    return compiled


@_compiled
def select(bits, chunk, kept, places):
    """Places of the `kept` greatest magnitudes of each chunk, increasing; ties go to the lower place.

    `bits` are float32 as int32 patterns: without the sign bit they are ordered as magnitudes are. Returns −1, or the first
    chunk that holds a number that is not finite. The threshold is found by halving: counting is what processors do best.
    """
    magnitudes = np.empty(chunk, np.int32)
    used = 0
    for first in range(0, bits.size, chunk):
        size = min(chunk, bits.size - first)
        room = max(1, kept * size // chunk)
        largest = np.int32(0)
        for i in range(size):
            magnitudes[i] = bits[first + i] & np.int32(0x7FFFFFFF)
            largest = max(largest, magnitudes[i])
        if largest >= _INFINITY:
            return first // chunk
        low, high = np.int64(0), np.int64(largest) + 1  # so many are at least low, too few at least high
        while high - low > 1:
            middle = (low + high) >> 1
            border = np.int32(middle)
            count = np.int32(0)
            for i in range(size):
                count += np.int32(magnitudes[i] >= border)
            if count < room:
                high = middle
            else:
                low = middle
                if count == room:
                    break
        threshold = np.int32(low)
        above = np.int32(0)
        for i in range(size):
            above += np.int32(magnitudes[i] > threshold)
        ties = room - above
        for i in range(size):
            if magnitudes[i] >= threshold:
                tie = magnitudes[i] == threshold
                if not tie or ties > 0:
                    ties -= np.int64(tie)
                    places[used] = i
                    used += 1
    return -1


@_compiled
def gather(values, chunk, kept, places, means, negative):
    """Per chunk the mean magnitude of the chosen values (summed in order in float64), per value whether it is below 0."""
    used = 0
    for c in range(means.size):
        first = c * chunk
        count = max(1, kept * min(chunk, values.size - first) // chunk)
        total = 0.0
        for k in range(used, used + count):
            value = np.float64(values[first + np.int64(places[k])])
            total += abs(value)
            negative[k] = value < 0.0
        means[c] = total / count
        used += count


@_compiled
def pack_gaps(places, size, chunk, kept, r, remainders, unary):
    """Gaps between places: `r` low bits each to `remainders`, the rest in unary; both zeroed. Returns the unary bytes."""
    used, written, held, have, at = 0, 0, np.int64(0), np.int64(0), np.int64(0)
    mask = (np.int64(1) << r) - 1
    for first in range(0, size, chunk):
        last = np.int64(-1)
        for _ in range(max(1, kept * min(chunk, size - first) // chunk)):
            place = np.int64(places[used])
            used += 1
            gap = place - last - 1
            last = place
            held = (held << r) | (gap & mask)
            have += r
            while have >= 8:
                have -= 8
                remainders[written] = held >> have
                written += 1
                held &= (np.int64(1) << have) - 1
            at += gap >> r
            unary[at >> 3] |= np.uint8(128 >> (at & 7))
            at += 1
    if have:
        remainders[written] = held << (8 - have)
    return (at + 7) >> 3


@_compiled
def unpack_gaps(remainders, unary, size, chunk, kept, r, places):
    """Inverse of `pack_gaps`; returns 0 and all of `places`, or what is wrong and at which value.

    The lengths of `remainders` and `places` are the layout's; only the unary part can be wrong.
    """
    used, read, held, have = 0, 0, np.int64(0), np.int64(0)
    mask = (np.int64(1) << r) - 1
    first, inside, left, last, quotient = np.int64(0), np.int64(0), np.int64(0), np.int64(-1), np.int64(0)
    for w in range(unary.size):
        byte = np.int64(unary[w])
        at = np.int64(0)
        while byte:
            lead = np.int64(_LEAD[byte])
            byte ^= 128 >> lead
            quotient += lead - at
            at = lead + 1
            if left == 0:
                if used == places.size:
                    return MORE, used
                inside = min(chunk, size - first)
                left = max(1, kept * inside // chunk)
                first += chunk
                last = np.int64(-1)
            while have < r:
                held = (held << 8) | np.int64(remainders[read])
                read += 1
                have += 8
            have -= r
            last += ((quotient << r) | ((held >> have) & mask)) + 1
            held &= (np.int64(1) << have) - 1
            if last >= inside:
                return INSIDE, used
            places[used] = last
            used += 1
            left -= 1
            quotient = np.int64(0)
        quotient += 8 - at
    if used < places.size:
        return FEWER, used
    if quotient >= 8:
        return TRAILING, used
    return 0, used


@_compiled
def add(places, negative, plus, minus, chunk, kept, total):
    """Add to `total` (int64, some whole chunks of a tensor) what one update sends of them: `plus` or `minus` of its chunk."""
    used = 0
    for c in range(plus.size):
        first = c * chunk
        up, down = plus[c], minus[c]
        for _ in range(max(1, kept * min(chunk, total.size - first) // chunk)):
            total[first + np.int64(places[used])] += down if negative[used] else up
            used += 1
