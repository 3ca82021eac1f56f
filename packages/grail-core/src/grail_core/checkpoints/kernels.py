"""The inner loops of the delta codec, compiled: find changed weights, code and decode their places and steps.

Weights are bit patterns. A change is coded as a step between *ordered* patterns (for floats: sign-magnitude turned into one
increasing line, −0.0 just below 0.0), modulo the word size, so every pattern reaches every other. The small profile walks the
weights once and keeps, for each exponent of the base value, how many weights of that exponent are passed until the next
changed one; these counts and the steps go through an adaptive binary arithmetic coder. Nothing here allocates per weight,
and all loops release the GIL.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

NEVER = np.int64(1) << np.int64(60)

# Layout of the coder's contexts, per exponent group: a bit tree for the length of the gap, one for the length of the step,
# their leading mantissa bits, and the step's sign given the base value's sign.
_TREE = 64
_LEAD = 3  # mantissa bits coded with contexts; the rest is coded at one half
_MANTISSA = 34 * (1 << _LEAD)
_NUMBER = _TREE + _MANTISSA
CONTEXTS = 2 * _NUMBER + 2
_STEP = _NUMBER
_SIGN = 2 * _NUMBER

_LIMIT = 250  # adaptation slows down to 1 / (this + 1.6)
RECIPROCALS = np.array([round(65536 / (n + 1.6)) for n in range(_LIMIT + 1)], np.int64)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, boundscheck=False)(function)
    return compiled


@_compiled
def _ordered(bits, sign):
    """Increasing integers for sign-magnitude patterns; `sign` is the sign bit, 0 for integers (left as they are)."""
    if sign == 0:
        return bits
    return (2 * sign - 1) ^ bits if bits & sign else bits | sign


@_compiled
def _pattern(order, sign):
    """Inverse of `_ordered`."""
    if sign == 0:
        return order
    return order ^ sign if order & sign else (2 * sign - 1) ^ order


@_compiled
def find_changes(base, new, offset, sign, mask, places, steps, count):
    """Append the places (offset + index) and steps of changed weights; returns the new count, −1 − count if out of room.

    `mask` is 2^bits − 1; steps are unsigned, modulo 2^bits.
    """
    n = base.size
    room = places.size
    i = 0
    while i < n:
        if i + 16 <= n:
            difference = base[i] ^ new[i]
            for k in range(1, 16):
                difference |= base[i + k] ^ new[i + k]
            if difference == 0:
                i += 16
                continue
            stop = i + 16
        else:
            stop = n
        while i < stop:
            if base[i] != new[i]:
                if count == room:
                    return -1 - count
                places[count] = offset + i
                a = _ordered(np.int64(base[i]), sign)
                b = _ordered(np.int64(new[i]), sign)
                steps[count] = (b - a) & mask
                count += 1
            i += 1
    return count


@_compiled
def pack_gaps(places, count, out):
    """Gaps between places as bytes, 255 standing for "255 further on"; returns the bytes used."""
    last = np.int64(-1)
    used = 0
    for k in range(count):
        gap = np.int64(places[k]) - last - 1
        last = np.int64(places[k])
        while gap >= 255:
            out[used] = 255
            used += 1
            gap -= 255
        out[used] = gap
        used += 1
    return used


@_compiled
def unpack_gaps(data, count, limit, places):
    """Inverse of `pack_gaps`: True iff exactly `count` places below `limit` use all of `data`."""
    place = np.int64(-1)
    k = 0
    for byte in data:
        if byte == 255:
            place += 255
            continue
        place += np.int64(byte) + 1
        if k == count or place >= limit:
            return False
        places[k] = place
        k += 1
    return k == count


@_compiled
def pack_steps(steps, count, mask, codes, rest):
    """Two bits a step (0: +1, 1: −1, 2: other up, 3: other down), four to a byte; other steps' |step| − 2 go to `rest`."""
    half = (mask >> 1) + 1
    used = 0
    for k in range(count):
        step = np.int64(steps[k])
        down = step >= half
        size = (mask + 1 - step) if down else step
        code = 1 if down else 0
        if size != 1:
            code += 2
            rest[used] = size - 2
            used += 1
        codes[k >> 2] |= np.uint8(code << (2 * (k & 3)))
    return used


@_compiled
def apply_changes(out, offset, sign, mask, places, first, last, codes, rest, used):
    """Step the weights at places[first:last] of this block in place; returns the use of `rest`, −1 if too little."""
    for k in range(first, last):
        code = (codes[k >> 2] >> (2 * (k & 3))) & 3
        size = np.int64(1)
        if code & 2:
            if used == rest.size:
                return np.int64(-1)
            size = np.int64(rest[used]) + 2
            used += 1
        step = -size if code & 1 else size
        i = np.int64(places[k]) - offset
        out[i] = _pattern((_ordered(np.int64(out[i]), sign) + step) & mask, sign)
    return np.int64(used)


# --- arithmetic coder: 32-bit interval, 16-bit probabilities of a 1 --------------------------------------------------


@_compiled
def _adapt(probabilities, seen, context, bit, reciprocals):
    p = np.int64(probabilities[context])
    n = seen[context]
    if bit:
        p += ((65535 - p) * reciprocals[n]) >> 16
    else:
        p -= (p * reciprocals[n]) >> 16
    probabilities[context] = min(max(p, 24), 65535 - 24)
    if n < reciprocals.size - 1:
        seen[context] = n + 1


@_compiled
def _encode_bit(coder, out, p, bit):
    """`coder` = [low, high, bytes written]."""
    low, high = coder[0], coder[1]
    middle = low + (((high - low) * p) >> 16)
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) & 0xFF000000 == 0:
        out[coder[2]] = high >> 24
        coder[2] += 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    coder[0], coder[1] = low, high


@_compiled
def _decode_bit(coder, data, p):
    """`coder` = [low, high, bytes read, value]; beyond the end of `data` zeros are read, and counted."""
    low, high = coder[0], coder[1]
    middle = low + (((high - low) * p) >> 16)
    if coder[3] <= middle:
        bit = 1
        high = middle
    else:
        bit = 0
        low = middle + 1
    while (low ^ high) & 0xFF000000 == 0:
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
        byte = np.int64(data[coder[2]]) if coder[2] < data.size else np.int64(0)
        coder[3] = ((coder[3] << 8) & 0xFFFFFFFF) | byte
        coder[2] += 1
    coder[0], coder[1] = low, high
    return bit


@_compiled
def _encode_number(coder, out, probabilities, seen, base, depth, value, reciprocals):
    """Number ≥ 0 as its bit length (a tree of `depth` adaptive decisions), then its bits below the top one."""
    length = 0
    while value >> length:
        length += 1
    node = 1
    for shift in range(depth - 1, -1, -1):
        bit = (length >> shift) & 1
        _encode_bit(coder, out, np.int64(probabilities[base + node]), bit)
        _adapt(probabilities, seen, base + node, bit, reciprocals)
        node = 2 * node + bit
    mantissa = base + _TREE + length * (1 << _LEAD)
    node = 1
    for position in range(length - 2, -1, -1):
        bit = (value >> position) & 1
        if node < (1 << _LEAD):
            _encode_bit(coder, out, np.int64(probabilities[mantissa + node]), bit)
            _adapt(probabilities, seen, mantissa + node, bit, reciprocals)
            node = 2 * node + bit
        else:
            _encode_bit(coder, out, np.int64(32768), bit)


@_compiled
def _decode_number(coder, data, probabilities, seen, base, depth, most, reciprocals):
    """Inverse of `_encode_number`; −1 for a bit length above `most`."""
    node = 1
    for _ in range(depth):
        bit = _decode_bit(coder, data, np.int64(probabilities[base + node]))
        _adapt(probabilities, seen, base + node, bit, reciprocals)
        node = 2 * node + bit
    length = node - (1 << depth)
    if length > most:
        return np.int64(-1)
    if length == 0:
        return np.int64(0)
    mantissa = base + _TREE + length * (1 << _LEAD)
    value = np.int64(1)
    node = 1
    for _ in range(length - 1):
        if node < (1 << _LEAD):
            bit = _decode_bit(coder, data, np.int64(probabilities[mantissa + node]))
            _adapt(probabilities, seen, mantissa + node, bit, reciprocals)
            node = 2 * node + bit
        else:
            bit = _decode_bit(coder, data, np.int64(32768))
        value = 2 * value + bit
    return value


@_compiled
def find_grouped(base, new, sign, mask, shift, group_mask, passed, last, groups, gaps, steps, count):
    """Like `find_changes`, for the small profile: per change its exponent group (sign of the base in bit 8), its rank in
    the group less that of the change before it there, and its step. `passed` and `last` carry over between blocks."""
    room = groups.size
    for i in range(base.size):
        b = np.int64(base[i])
        group = (b >> shift) & group_mask
        passed[group] += 1
        if base[i] != new[i]:
            if count == room:
                return -1 - count
            groups[count] = group | (256 if sign and b & sign else 0)
            gaps[count] = passed[group] - last[group]
            last[group] = passed[group]
            steps[count] = (_ordered(np.int64(new[i]), sign) - _ordered(b, sign)) & mask
            count += 1
    return count


@_compiled
def encode_grouped(groups, gaps, steps, count, mask, group_mask, probabilities, seen, reciprocals, out):
    """Code the changes of a frame in the order the decoder asks for them; returns the bytes written.

    First every group's first gap (0: none), then for each change its step and the gap to the next change of its group.
    """
    pending = np.zeros(group_mask + 1, np.int64)
    following = np.empty(count, np.int64)
    for k in range(count - 1, -1, -1):
        group = groups[k] & 255
        following[k] = pending[group]
        pending[group] = gaps[k]
    coder = np.array([0, 0xFFFFFFFF, 0], np.int64)
    half = (mask >> 1) + 1
    depth = 5 if mask == 0xFFFF else 6
    for group in range(group_mask + 1):
        _encode_number(coder, out, probabilities, seen, group * CONTEXTS, 5, pending[group], reciprocals)
    for k in range(count):
        group = groups[k] & 255
        context = group * CONTEXTS
        step = np.int64(steps[k])
        down = 1 if step >= half else 0
        size = (mask + 1 - step) if down else step
        where = context + _SIGN + (groups[k] >> 8)
        _encode_bit(coder, out, np.int64(probabilities[where]), down)
        _adapt(probabilities, seen, where, down, reciprocals)
        _encode_number(coder, out, probabilities, seen, context + _STEP, depth, size, reciprocals)
        _encode_number(coder, out, probabilities, seen, context, 5, following[k], reciprocals)
    for shift in (24, 16, 8, 0):
        out[coder[2]] = (coder[0] >> shift) & 255 if shift == 24 else 255
        coder[2] += 1
    return coder[2]


@_compiled
def start_grouped(data, group_mask, probabilities, seen, reciprocals, coder, remaining):
    """Read the coder's first word and every group's first gap. False if the bytes are not of this form."""
    coder[0], coder[1], coder[2], coder[3] = 0, 0xFFFFFFFF, 4, 0
    if data.size < 4:
        return False
    for k in range(4):
        coder[3] = (coder[3] << 8) | np.int64(data[k])
    for group in range(group_mask + 1):
        gap = _decode_number(coder, data, probabilities, seen, group * CONTEXTS, 5, 24, reciprocals)
        if gap < 0:
            return False
        remaining[group] = gap if gap else NEVER
    return True


@_compiled
def decode_grouped(out, sign, mask, shift, group_mask, data, probabilities, seen, reciprocals, coder, remaining, left):
    """Step the changed weights of one block in place; returns the changes left, −1 if the bytes are not of this form."""
    depth = 5 if mask == 0xFFFF else 6
    most = 17 if mask == 0xFFFF else 33
    for i in range(out.size):
        b = np.int64(out[i])
        group = (b >> shift) & group_mask
        now = remaining[group] - 1
        remaining[group] = now
        if now == 0:
            if left == 0:
                return np.int64(-1)
            left -= 1
            context = group * CONTEXTS
            where = context + _SIGN + (1 if sign and b & sign else 0)
            down = _decode_bit(coder, data, np.int64(probabilities[where]))
            _adapt(probabilities, seen, where, down, reciprocals)
            size = _decode_number(coder, data, probabilities, seen, context + _STEP, depth, most, reciprocals)
            gap = _decode_number(coder, data, probabilities, seen, context, 5, 24, reciprocals)
            if size <= 0 or gap < 0:
                return np.int64(-1)
            remaining[group] = gap if gap else NEVER
            step = -size if down else size
            out[i] = _pattern((_ordered(b, sign) + step) & mask, sign)
    return np.int64(left)
