"""Section 6, indices `rice`: the gaps between the places of a chunk, r bits of each as they are and the rest in unary.

A gap is place − previous − 1, and the first place itself. On the wire stand the number of bytes of the unary part, u32
little-endian, the remainders, and the unary part: (gap >> r) zeros and a one. r follows from the spec. So one list of places
has one form: places increase by construction, and whatever leaves its chunk, is too many or too few, or ends in other bits
than it should is refused.
"""

from __future__ import annotations

import struct

import numpy as np

from grail_core.gradient import loops
from grail_core.gradient.layout import TensorLayout
from grail_core.gradient.values import Places, require_padding

_WRONG = {
    loops.INSIDE: "value {0} lies outside its chunk",
    loops.MORE: "more than {0} values",
    loops.FEWER: "{0} values, of the layout's {1}",
    loops.TRAILING: "bytes behind the last value",
}


def pack_indices(places: Places, tensor: TensorLayout) -> bytes:
    """The wire form of a tensor's places."""
    r = tensor.remainder_bits
    remainders = np.zeros((tensor.values * r + 7) // 8, np.uint8)
    unary = np.zeros(tensor.unary_most, np.uint8)
    used = loops.pack_gaps(places, tensor.size, tensor.chunk, tensor.kept, r, remainders, unary)
    return struct.pack("<I", used) + remainders.tobytes() + unary[:used].tobytes()


def unpack_indices(raw: memoryview, tensor: TensorLayout, path: str) -> Places:
    """Inverse of `pack_indices`.

    Raises:
        ValueError: a length, a place, a count or padding is wrong; no more memory was taken than the layout asks for.
    """
    r = tensor.remainder_bits
    ends = 4 + (tensor.values * r + 7) // 8
    if len(raw) < ends:
        raise ValueError(f"{path}: {len(raw)} bytes, at least {ends} are expected")
    (length,) = struct.unpack("<I", raw[:4])
    if length != len(raw) - ends or length > tensor.unary_most:
        raise ValueError(f"{path}: a unary part of {length} bytes is announced, {len(raw) - ends} are there")
    require_padding(raw[:ends], tensor.values * r, path)
    remainders, unary = np.frombuffer(raw[4:ends], np.uint8), np.frombuffer(raw[ends:], np.uint8)
    places = np.empty(tensor.values, np.uint16)
    wrong, at = loops.unpack_gaps(remainders, unary, tensor.size, tensor.chunk, tensor.kept, r, places)
    if wrong:
        raise ValueError(f"{path}: {_WRONG[wrong].format(at, tensor.values)}")
    return places
