"""Coding of one frame's blocks: from two lists of equal-sized blocks to a payload, and back in place.

Which mode is used is the encoder's choice by what the profile asks and how many weights changed; the decoder follows the
frame. A decoder that meets bytes of another form raises before or while it works on memory that the caller can throw away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grail_core.checkpoints import kernels
from grail_core.checkpoints.frames import Frame, Mode, Profile, pack_streams, unpack_streams
from grail_core.checkpoints.tensors import Bits, DType
from grail_core.errors import CheckpointError

_DENSE_SHARE = 4  # from a quarter of changed weights on, planes are smaller or faster than places
_FLOATS = {"BF16", "F16", "F32"}


def sign_bit(dtype: DType) -> int:
    return 1 << (8 * dtype.itemsize - 1) if dtype.name in _FLOATS else 0


def _mask(dtype: DType) -> int:
    return (1 << (8 * dtype.itemsize)) - 1


def encode_blocks(dtype: DType, base: Sequence[Bits], new: Sequence[Bits], profile: Profile) -> tuple[Mode, int, bytes]:
    """Mode, number of coded changes and payload for blocks that go from `base` to `new` (same sizes)."""
    if dtype.itemsize in (2, 4):
        coded = _sparse(dtype, base, new) if profile is Profile.FAST else _grouped(dtype, base, new)
        if coded is not None:
            return coded
    return Mode.PLANES, 0, _planes(dtype, base, new)


def decode_blocks(frame: Frame, dtype: DType, blocks: Sequence[Bits], *, where: str) -> None:
    """Turn the base's blocks into the result's, in place.

    Raises:
        CheckpointError: the payload is not of the frame's mode; the blocks may then be half done.
    """
    elements = sum(block.size for block in blocks)
    if frame.mode is Mode.PLANES:
        _undo_planes(frame, dtype, blocks, elements, where)
        return
    if dtype.itemsize not in (2, 4) or frame.changes > elements:
        raise CheckpointError("the frame's mode does not fit its tensors", where=where)
    if frame.mode is Mode.SPARSE:
        _undo_sparse(frame, dtype, blocks, elements, where)
    else:
        _undo_grouped(frame, dtype, blocks, where)


# --- fast -------------------------------------------------------------------------------------------------------------


def _sparse(dtype: DType, base: Sequence[Bits], new: Sequence[Bits]) -> tuple[Mode, int, bytes] | None:
    elements = sum(block.size for block in base)
    room = elements // _DENSE_SHARE + 1
    places, steps = np.empty(room, np.uint32), np.empty(room, np.uint32)
    count, offset, sign, mask = 0, 0, sign_bit(dtype), _mask(dtype)
    for old, now in zip(base, new, strict=True):
        count = kernels.find_changes(old, now, offset, sign, mask, places, steps, count)
        if count < 0:
            return None
        offset += old.size
    gaps = np.empty(count + elements // 255 + 1, np.uint8)
    gaps = gaps[: kernels.pack_gaps(places, count, gaps)]
    codes, rest = np.zeros(-(-count // 4), np.uint8), np.empty(count, np.uint32)
    rest = rest[: kernels.pack_steps(steps, count, mask, codes, rest)]
    small = np.minimum(rest, 255).astype(np.uint8)
    large = rest[rest >= 255].astype("<u4")
    return Mode.SPARSE, count, pack_streams([gaps.data, codes.data, small.data, large.tobytes()])


def _undo_sparse(frame: Frame, dtype: DType, blocks: Sequence[Bits], elements: int, where: str) -> None:
    count = frame.changes
    limits = (count + elements // 255 + 1, -(-count // 4), count, 4 * count)
    gaps, codes, small, large = unpack_streams(frame.payload, limits, where=where)
    rest = np.frombuffer(small, np.uint8).astype(np.uint32)
    wide = np.flatnonzero(rest == 255)
    places = np.empty(count, np.uint32)
    if (
        len(codes) != limits[1]
        or len(large) != 4 * wide.size
        or not kernels.unpack_gaps(np.frombuffer(gaps, np.uint8), count, elements, places)
    ):
        raise CheckpointError("the frame's places and steps do not fit together", where=where)
    rest[wide] = np.frombuffer(large, "<u4")
    bits = np.frombuffer(codes, np.uint8)
    sign, mask, offset, used, first = sign_bit(dtype), _mask(dtype), 0, 0, 0
    for block in blocks:
        last = int(np.searchsorted(places, offset + block.size))
        used = kernels.apply_changes(block, offset, sign, mask, places, first, last, bits, rest, used)
        if used < 0:
            break
        offset, first = offset + block.size, last
    if used != rest.size:
        raise CheckpointError("the frame's places and steps do not fit together", where=where)


# --- small ------------------------------------------------------------------------------------------------------------


def _contexts(dtype: DType) -> tuple[Bits, Bits]:
    count = (dtype.exponent_mask + 1) * kernels.CONTEXTS
    return np.full(count, 32768, np.uint16), np.zeros(count, np.uint8)


def _grouped(dtype: DType, base: Sequence[Bits], new: Sequence[Bits]) -> tuple[Mode, int, bytes] | None:
    elements = sum(block.size for block in base)
    room = elements // _DENSE_SHARE + 1
    groups, gaps, steps = np.empty(room, np.uint16), np.empty(room, np.uint32), np.empty(room, np.uint32)
    passed, last = np.zeros(256, np.int64), np.zeros(256, np.int64)
    count, sign, mask = 0, sign_bit(dtype), _mask(dtype)
    for old, now in zip(base, new, strict=True):
        count = kernels.find_grouped(
            old, now, sign, mask, dtype.exponent_shift, dtype.exponent_mask, passed, last, groups, gaps, steps, count
        )
        if count < 0:
            return None
    probabilities, seen = _contexts(dtype)
    out = np.empty(8192 + 40 * count, np.uint8)  # more than the worst a change can cost
    size = kernels.encode_grouped(
        groups, gaps, steps, count, mask, dtype.exponent_mask, probabilities, seen, kernels.RECIPROCALS, out
    )
    return Mode.GROUPED, count, out[:size].tobytes()


def _undo_grouped(frame: Frame, dtype: DType, blocks: Sequence[Bits], where: str) -> None:
    data = np.frombuffer(frame.payload, np.uint8)
    probabilities, seen = _contexts(dtype)
    coder, remaining = np.zeros(4, np.int64), np.empty(dtype.exponent_mask + 1, np.int64)
    tables = (probabilities, seen, kernels.RECIPROCALS, coder, remaining)
    sign, mask, left = sign_bit(dtype), _mask(dtype), frame.changes
    if not kernels.start_grouped(data, dtype.exponent_mask, *tables):
        left = -1
    for block in blocks:
        if left < 0:
            break
        left = kernels.decode_grouped(block, sign, mask, dtype.exponent_shift, dtype.exponent_mask, data, *tables, left)
    if left or coder[2] > data.size + 4 or (remaining < kernels.NEVER - elements_bound(blocks)).any():
        raise CheckpointError("the frame's arithmetic code does not fit its tensors", where=where)


def elements_bound(blocks: Sequence[Bits]) -> int:
    return sum(block.size for block in blocks) + 1


# --- dense ------------------------------------------------------------------------------------------------------------


def _planes(dtype: DType, base: Sequence[Bits], new: Sequence[Bits]) -> bytes:
    elements = sum(block.size for block in base)
    planes = np.empty((dtype.itemsize, elements), np.uint8)
    offset = 0
    for old, now in zip(base, new, strict=True):
        bytes_ = (old ^ now).view(np.uint8).reshape(-1, dtype.itemsize)
        planes[:, offset : offset + old.size] = bytes_.T
        offset += old.size
    return pack_streams([planes[i].data for i in range(dtype.itemsize)])


def _undo_planes(frame: Frame, dtype: DType, blocks: Sequence[Bits], elements: int, where: str) -> None:
    planes = unpack_streams(frame.payload, [elements] * dtype.itemsize, where=where)
    if any(len(plane) != elements for plane in planes):
        raise CheckpointError("the frame's planes have a wrong size", where=where)
    offset = 0
    for block in blocks:
        bytes_ = block.view(np.uint8).reshape(-1, dtype.itemsize)
        for i, plane in enumerate(planes):
            bytes_[:, i] ^= np.frombuffer(plane, np.uint8, block.size, offset)
        offset += block.size
