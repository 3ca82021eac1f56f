# mypy: disable-error-code="no-untyped-def, assignment, operator"
"""The inner loops of the delta codec, compiled: find changed weights, code and decode their places and steps.

Weights are bit patterns. A change is coded as a step between *ordered* patterns (for floats: sign-magnitude turned into one
increasing line, −0.0 just below 0.0), modulo the word size, so every pattern reaches every other. The small profile walks the
weights once and keeps, for each exponent of the base value, how many weights of that exponent are passed until the next
changed one; these counts and the steps go through an adaptive binary arithmetic coder. Nothing here allocates per weight,
and all loops release the GIL.

Arguments shared by many: `sign` is the sign bit of a float pattern, 0 for integers; `mask` is 2^bits − 1; `shift` and
`group_mask` cut the exponent group out of a pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

NEVER = np.int64(1) << np.int64(60)
CHUNK = 1 << 15  # weights worked on at a time

# Contexts of the arithmetic coder, per exponent group: two numbers (the gap; the step's size less 2), each a bit tree for its
# length and, per length, a tree over its leading bits; and whether the size is 1.
_TREE = 64
_LEAD = 2  # leading bits coded with contexts; the rest is stored as plain bits
_NUMBER = _TREE + 34 * (1 << _LEAD)
CONTEXTS = 2 * _NUMBER + 1
_SIZE = _NUMBER
_UNIT = 2 * _NUMBER

_LIMIT = 250  # adaptation slows down to 1 / (this + 1.6)
RECIPROCALS = np.array([round(65536 / (n + 1.6)) for n in range(_LIMIT + 1)], np.int64)
LEAST = 24  # probabilities stay within LEAST … 65535 − LEAST, of 65536

_GATHER = np.uint64(0x0102040810204080)  # times eight bytes of 0 or 1: their bits side by side in the top byte, byte 0 lowest
_LOWEST = np.array([max(0, (byte & -byte).bit_length() - 1) for byte in range(256)], np.uint8)  # place of the lowest bit set


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, boundscheck=False)(function)
    return compiled


@_compiled
def _ordered(bits, sign):
    """Increasing integers for sign-magnitude patterns: negative ones with all bits flipped, others with the sign bit set."""
    flip = sign - np.int64(sign != 0)
    return bits ^ (sign | (flip * np.int64((bits & sign) != 0)))


@_compiled
def _pattern(order, sign):
    """Inverse of `_ordered`."""
    flip = sign - np.int64(sign != 0)
    return order ^ (sign | (flip * np.int64((order & sign) == 0)))


@_compiled
def find_changes(base, new, offset, sign, mask, places, steps, count, flags, words):
    """Append the places (offset + index) and steps (unsigned, modulo 2^bits) of changed weights; returns the new count.

    Works through pieces that stay in the processor's cache. `places` and `steps` have room for every weight and eight more;
    `flags` (CHUNK bytes) and `words` are the same scratch memory as bytes and as 8-byte words.
    """
    found = np.empty(words.size, np.uint32)
    for start in range(0, base.size, CHUNK):
        size = min(CHUNK, base.size - start)
        used = (size + 7) >> 3
        words[used - 1] = 0
        old, now = base[start : start + size], new[start : start + size]
        for i in range(old.size):
            flags[i] = old[i] != now[i]
        n = 0
        for w in range(used):
            found[n] = w
            n += words[w] != 0
        for k in range(n):
            at = 8 * np.int64(found[k])
            left = (words[found[k]] * _GATHER) >> np.uint64(56)  # one bit a weight; mostly one is set
            while left != np.uint64(0):
                i = at + np.int64(_LOWEST[left])
                left &= left - np.uint64(1)
                places[count] = offset + start + i
                steps[count] = (_ordered(np.int64(now[i]), sign) - _ordered(np.int64(old[i]), sign)) & mask
                count += 1
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
    """Inverse of `pack_gaps`: True iff exactly `count` places below `limit` use all of `data`. `places` has one spare item."""
    place = np.int64(-1)
    k = np.int64(0)
    for i in range(data.size):
        last = np.int64(data[i] != 255)
        place += np.int64(data[i]) + last
        places[k] = place
        k += last
        if k > count:
            return False
    return k == count and place < limit and (data.size == 0 or data[data.size - 1] != 255)


@_compiled
def pack_steps(steps, count, mask, codes, rest):
    """Two bits a step (0: +1, 1: −1, 2: other up, 3: other down), four to a byte; other steps' |step| − 2 go to `rest`.

    `rest` has one spare item; returns how many are used.
    """
    half = (mask >> 1) + 1
    used = np.int64(0)
    for k in range(count):
        step = np.int64(steps[k])
        down = np.int64(step >= half)
        size = (step ^ (mask * down)) + down
        other = np.int64(size != 1)
        rest[used] = (size - 2) & 0xFFFFFFFF
        used += other
        codes[k >> 2] |= np.uint8((down + 2 * other) << (2 * (k & 3)))
    return used


@_compiled
def apply_changes(base, out, offset, sign, mask, places, first, last, codes, rest, used):
    """Set `out` to `base` with the weights at places[first:last] of this block stepped (`base` may be `out`).

    Returns the use of `rest`, which has one spare item; −1 if it is too short.
    """
    room = rest.size - 1
    k = first
    for start in range(0, out.size, CHUNK):
        stop = min(start + CHUNK, out.size)
        source, target = base[start:stop], out[start:stop]
        for i in range(target.size):
            target[i] = source[i]
        while k < last and np.int64(places[k]) < offset + stop:
            code = np.int64((codes[k >> 2] >> (2 * (k & 3))) & 3)
            other = code >> 1
            if used + other > room:
                return np.int64(-1)
            size = 1 + other * (np.int64(rest[used]) + 1)
            used += other
            step = size * (1 - 2 * (code & 1))
            i = np.int64(places[k]) - offset
            out[i] = _pattern((_ordered(np.int64(base[i]), sign) + step) & mask, sign)
            k += 1
    return np.int64(used)


# --- arithmetic coder: 32-bit interval, 16-bit probabilities of a 1; plain bits go to a stream of their own -----------


@_compiled
def _adapt(probabilities, seen, context, bit, reciprocals):
    p = np.int64(probabilities[context])
    n = np.int64(seen[context])
    p += ((65535 * np.int64(bit) - p) * reciprocals[n]) >> 16
    probabilities[context] = min(max(p, LEAST), 65535 - LEAST)
    seen[context] = n + np.int64(n < reciprocals.size - 1)


@_compiled
def _encode_bit(coder, out, probabilities, seen, context, bit, reciprocals):
    """`coder` = [low, high, bytes written, plain bits held, how many, plain bytes written]."""
    low, high = coder[0], coder[1]
    middle = low + (((high - low) * np.int64(probabilities[context])) >> 16)
    _adapt(probabilities, seen, context, bit, reciprocals)
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
def _decode_bit(coder, data, probabilities, seen, context, reciprocals):
    """`coder` = [low, high, bytes read, value, plain bits held, how many, plain bytes read]; past the end zeros are read."""
    low, high = coder[0], coder[1]
    middle = low + (((high - low) * np.int64(probabilities[context])) >> 16)
    bit = np.int64(coder[3] <= middle)
    _adapt(probabilities, seen, context, bit, reciprocals)
    if bit:
        high = middle
    else:
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
def _put_plain(coder, plain, value, bits):
    """Append the low `bits` (at most 32) of value, least significant first."""
    coder[3] |= value << coder[4]
    coder[4] += bits
    while coder[4] >= 8:
        plain[coder[5]] = coder[3] & 255
        coder[5] += 1
        coder[3] >>= 8
        coder[4] -= 8


@_compiled
def _get_plain(coder, plain, bits):
    while coder[5] < bits:
        byte = np.int64(plain[coder[6]]) if coder[6] < plain.size else np.int64(0)
        coder[4] |= byte << coder[5]
        coder[5] += 8
        coder[6] += 1
    value = coder[4] & ((np.int64(1) << bits) - 1)
    coder[4] >>= bits
    coder[5] -= bits
    return value


@_compiled
def _encode_number(coder, out, plain, probabilities, seen, base, depth, value, reciprocals):
    """Number ≥ 0 as its bit length (a tree of `depth` decisions), the leading bits below the top one, and plain bits."""
    length = np.int64(0)
    while value >> length:
        length += 1
    node = 1
    for shift in range(depth - 1, -1, -1):
        bit = (length >> shift) & 1
        _encode_bit(coder, out, probabilities, seen, base + node, bit, reciprocals)
        node = 2 * node + bit
    below = max(length - 1, 0)
    lead = min(below, _LEAD)
    context = base + _TREE + length * (1 << _LEAD)
    node = 1
    for position in range(below - 1, below - 1 - lead, -1):
        bit = (value >> position) & 1
        _encode_bit(coder, out, probabilities, seen, context + node, bit, reciprocals)
        node = 2 * node + bit
    if below > lead:
        _put_plain(coder, plain, value & ((np.int64(1) << (below - lead)) - 1), below - lead)


@_compiled
def _decode_number(coder, data, plain, probabilities, seen, base, depth, most, reciprocals):
    """Inverse of `_encode_number`; −1 for a bit length above `most`."""
    node = 1
    for _ in range(depth):
        node = 2 * node + _decode_bit(coder, data, probabilities, seen, base + node, reciprocals)
    length = node - (1 << depth)
    if length > most:
        return np.int64(-1)
    if length == 0:
        return np.int64(0)
    below = length - 1
    lead = min(below, _LEAD)
    context = base + _TREE + length * (1 << _LEAD)
    node = np.int64(1)
    for _ in range(lead):
        node = 2 * node + _decode_bit(coder, data, probabilities, seen, context + node, reciprocals)
    if below > lead:
        node = (node << (below - lead)) | _get_plain(coder, plain, below - lead)
    return node


@_compiled
def count_groups(base, offset, shift, group_mask, passed, last, places, first, stop, groups, gaps):
    """For the small profile: per change its exponent group and its rank in the group less that of the change before it there.

    `passed` (two counters a group, to be summed) and `last` carry over between blocks.
    """
    begin = np.int64(0)
    even, odd = passed[0], passed[1]
    for k in range(first, stop + 1):
        end = np.int64(places[k]) - offset + 1 if k < stop else np.int64(base.size)
        part = base[begin:end]
        for i in range(part.size >> 1):
            even[(part[2 * i] >> shift) & group_mask] += 1
            odd[(part[2 * i + 1] >> shift) & group_mask] += 1
        if part.size & 1:
            even[(part[part.size - 1] >> shift) & group_mask] += 1
        if k < stop:
            group = (part[part.size - 1] >> shift) & group_mask
            now = even[group] + odd[group]
            groups[k] = group
            gaps[k] = now - last[group]
            last[group] = now
        begin = end


@_compiled
def encode_grouped(groups, gaps, steps, count, mask, group_mask, probabilities, seen, reciprocals, out, plain):
    """Code the changes of a frame in the order the decoder asks for them; returns the bytes written to `out` and `plain`.

    First every group's first gap (0: none), then for each change its step and the gap to the next change of its group.
    """
    pending = np.zeros(group_mask + 1, np.int64)
    following = np.empty(count, np.int64)
    for k in range(count - 1, -1, -1):
        following[k] = pending[groups[k]]
        pending[groups[k]] = gaps[k]
    coder = np.array([0, 0xFFFFFFFF, 0, 0, 0, 0], np.int64)
    half = (mask >> 1) + 1
    depth = 5 if mask == 0xFFFF else 6
    for group in range(group_mask + 1):
        _encode_number(coder, out, plain, probabilities, seen, group * CONTEXTS, 5, pending[group], reciprocals)
    for k in range(count):
        context = np.int64(groups[k]) * CONTEXTS
        step = np.int64(steps[k])
        down = np.int64(step >= half)
        size = (step ^ (mask * down)) + down
        _put_plain(coder, plain, down, 1)
        _encode_bit(coder, out, probabilities, seen, context + _UNIT, np.int64(size == 1), reciprocals)
        if size != 1:
            _encode_number(coder, out, plain, probabilities, seen, context + _SIZE, depth, size - 2, reciprocals)
        _encode_number(coder, out, plain, probabilities, seen, context, 5, following[k], reciprocals)
    out[coder[2]] = coder[0] >> 24
    out[coder[2] + 1 : coder[2] + 4] = 255
    _put_plain(coder, plain, np.int64(0), 7)
    return coder[2] + 4, coder[5]


@_compiled
def start_grouped(data, plain, group_mask, probabilities, seen, reciprocals, coder, remaining):
    """Read the coder's first word and every group's first gap. False if the bytes are not of this form."""
    coder[:] = 0
    coder[1] = 0xFFFFFFFF
    coder[2] = 4
    if data.size < 4:
        return False
    for k in range(4):
        coder[3] = (coder[3] << 8) | np.int64(data[k])
    for group in range(group_mask + 1):
        gap = _decode_number(coder, data, plain, probabilities, seen, group * CONTEXTS, 5, 24, reciprocals)
        if gap < 0:
            return False
        remaining[group] = gap if gap else NEVER
    return True


@_compiled
def decode_grouped(
    base, out, sign, mask, shift, group_mask, data, plain, probabilities, seen, reciprocals, coder, remaining, left
):
    """Set `out` to `base` with the changed weights of one block stepped (`base` may be `out`).

    Returns the changes left, −1 if the bytes are not of this form.
    """
    depth = 5 if mask == 0xFFFF else 6
    most = 16 if mask == 0xFFFF else 32
    for i in range(out.size):
        b = np.int64(base[i])
        out[i] = base[i]
        group = (b >> shift) & group_mask
        now = remaining[group] - 1
        remaining[group] = now
        if now == 0:
            if left == 0:
                return np.int64(-1)
            left -= 1
            context = group * CONTEXTS
            down = _get_plain(coder, plain, 1)
            size = np.int64(1)
            if not _decode_bit(coder, data, probabilities, seen, context + _UNIT, reciprocals):
                more = _decode_number(coder, data, plain, probabilities, seen, context + _SIZE, depth, most, reciprocals)
                if more < 0:
                    return np.int64(-1)
                size = more + 2
            gap = _decode_number(coder, data, plain, probabilities, seen, context, 5, 24, reciprocals)
            if gap < 0:
                return np.int64(-1)
            remaining[group] = gap if gap else NEVER
            step = size * (1 - 2 * down)
            out[i] = _pattern((_ordered(b, sign) + step) & mask, sign)
    return np.int64(left)
