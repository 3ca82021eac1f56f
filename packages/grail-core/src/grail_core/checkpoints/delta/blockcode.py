"""Coding of one frame's blocks: from two lists of equal-sized blocks to a payload, and back in place.

Which mode is used is the encoder's choice by what the profile asks and how many weights changed; the decoder follows the
frame. A decoder that meets bytes of another form raises before or while it works on memory that the caller can throw away.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grail_core.checkpoints.delta import kernels
from grail_core.checkpoints.delta.frames import FRAME_BYTES, Frame, Mode, Profile, pack_streams, unpack_streams
from grail_core.checkpoints.delta.tensors import Bits, DType
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


def decode_blocks(frame: Frame, dtype: DType, base: Sequence[Bits], blocks: Sequence[Bits], *, where: str) -> None:
    """Write the result's blocks, made from the base's; they may be the same memory.

    Raises:
        CheckpointError: the payload is not of the frame's mode; the blocks may then be half done.
    """
    elements = sum(block.size for block in blocks)
    if frame.mode is Mode.PLANES:
        _undo_planes(frame, dtype, base, blocks, elements, where)
        return
    if dtype.itemsize not in (2, 4) or frame.changes > elements:
        raise CheckpointError("the frame's mode does not fit its tensors", where=where)
    if frame.mode is Mode.SPARSE:
        _undo_sparse(frame, dtype, base, blocks, elements, where)
    else:
        _undo_grouped(frame, dtype, base, blocks, where)


# --- fast -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Changes:
    places: Bits  # in the frame
    steps: Bits
    count: int
    ends: list[int]  # changes up to and with each block


class _Scratch(threading.local):
    """Memory for the worst frame, once a thread: only what is touched of it ever becomes resident."""

    def __init__(self) -> None:
        room = FRAME_BYTES // 2 + 8
        self.places, self.steps = np.empty(room, np.uint32), np.empty(room, np.uint32)
        self.words = np.empty(kernels.CHUNK // 8, np.uint64)


_scratch = _Scratch()


def _changes(dtype: DType, base: Sequence[Bits], new: Sequence[Bits]) -> _Changes | None:
    """Where and by how much weights changed; None if they are too many. Valid until this thread's next frame."""
    places, steps, words = _scratch.places, _scratch.steps, _scratch.words
    sign, mask, count, offset, ends = sign_bit(dtype), _mask(dtype), 0, 0, []
    for old, now in zip(base, new, strict=True):
        flags = words.view(np.uint8)
        count = kernels.find_changes(old, now, offset, sign, mask, places, steps, count, flags, words)
        offset += old.size
        ends.append(count)
    return _Changes(places, steps, count, ends) if count <= offset // _DENSE_SHARE else None


def _sparse(dtype: DType, base: Sequence[Bits], new: Sequence[Bits]) -> tuple[Mode, int, bytes] | None:
    found = _changes(dtype, base, new)
    if found is None:
        return None
    places, steps, count = found.places, found.steps, found.count
    elements = sum(block.size for block in base)
    gaps = np.empty(count + elements // 255 + 1, np.uint8)
    gaps = gaps[: kernels.pack_gaps(places, count, gaps)]
    codes, rest = np.zeros(-(-count // 4), np.uint8), np.empty(count + 1, np.uint32)
    rest = rest[: kernels.pack_steps(steps, count, _mask(dtype), codes, rest)]
    small = np.minimum(rest, 255).astype(np.uint8)
    large = rest[rest >= 255].astype("<u4")
    return Mode.SPARSE, count, pack_streams([gaps.data, codes.data, small.data, large.tobytes()])


def _undo_sparse(frame: Frame, dtype: DType, base: Sequence[Bits], blocks: Sequence[Bits], elements: int, where: str) -> None:
    count = frame.changes
    limits = (count + elements // 255 + 1, -(-count // 4), count, 4 * count)
    gaps, codes, small, large = unpack_streams(frame.payload, limits, where=where)
    rest = np.zeros(len(small) + 1, np.uint32)
    rest[:-1] = np.frombuffer(small, np.uint8)
    wide = np.flatnonzero(rest == 255)
    places = np.empty(count + 1, np.uint32)
    if (
        len(codes) != limits[1]
        or len(large) != 4 * wide.size
        or not kernels.unpack_gaps(np.frombuffer(gaps, np.uint8), count, elements, places)
    ):
        raise CheckpointError("the frame's places and steps do not fit together", where=where)
    rest[wide] = np.frombuffer(large, "<u4")
    bits = np.frombuffer(codes, np.uint8)
    sign, mask, offset, used, first = sign_bit(dtype), _mask(dtype), 0, 0, 0
    for old, block in zip(base, blocks, strict=True):
        last = int(np.searchsorted(places[:count], offset + block.size))
        used = kernels.apply_changes(old, block, offset, sign, mask, places, first, last, bits, rest, used)
        if used < 0:
            break
        offset, first = offset + block.size, last
    if used != len(small):
        raise CheckpointError("the frame's places and steps do not fit together", where=where)


# --- small ------------------------------------------------------------------------------------------------------------


def _contexts(dtype: DType) -> tuple[Bits, Bits]:
    count = (dtype.exponent_mask + 1) * kernels.CONTEXTS
    return np.full(count, 32768, np.uint16), np.zeros(count, np.uint8)


def _grouped(dtype: DType, base: Sequence[Bits], new: Sequence[Bits]) -> tuple[Mode, int, bytes] | None:
    found = _changes(dtype, base, new)
    if found is None:
        return None
    count = found.count
    groups, gaps = np.empty(count, np.uint8), np.empty(count, np.uint32)
    passed, last = np.zeros((2, 256), np.int64), np.zeros(256, np.int64)
    offset, first = 0, 0
    for old, stop in zip(base, found.ends, strict=True):
        kernels.count_groups(
            old, offset, dtype.exponent_shift, dtype.exponent_mask, passed, last, found.places, first, stop, groups, gaps
        )
        offset, first = offset + old.size, stop
    probabilities, seen = _contexts(dtype)
    out = np.empty(8192 + 40 * count, np.uint8)  # more than the worst that a change can cost
    plain = np.empty(1024 + 8 * count, np.uint8)
    coded, stored = kernels.encode_grouped(
        groups,
        gaps,
        found.steps,
        count,
        _mask(dtype),
        dtype.exponent_mask,
        probabilities,
        seen,
        kernels.RECIPROCALS,
        out,
        plain,
    )
    return Mode.GROUPED, count, struct.pack("<I", coded) + out[:coded].tobytes() + plain[:stored].tobytes()


def _undo_grouped(frame: Frame, dtype: DType, base: Sequence[Bits], blocks: Sequence[Bits], where: str) -> None:
    coded = struct.unpack_from("<I", frame.payload)[0] if len(frame.payload) >= 4 else 0
    data = np.frombuffer(frame.payload, np.uint8)[4 : 4 + coded]
    plain = np.frombuffer(frame.payload, np.uint8)[4 + coded :]
    probabilities, seen = _contexts(dtype)
    coder, remaining = np.zeros(7, np.int64), np.empty(dtype.exponent_mask + 1, np.int64)
    tables = (probabilities, seen, kernels.RECIPROCALS, coder, remaining)
    sign, mask, left = sign_bit(dtype), _mask(dtype), frame.changes
    if not kernels.start_grouped(data, plain, dtype.exponent_mask, *tables):
        left = -1
    for old, block in zip(base, blocks, strict=True):
        if left < 0:
            break
        left = kernels.decode_grouped(
            old, block, sign, mask, dtype.exponent_shift, dtype.exponent_mask, data, plain, *tables, left
        )
    whole = coder[2] <= data.size + 4 and coder[6] <= plain.size <= coder[6] + 1
    if left or not whole or (remaining < kernels.NEVER - elements_bound(blocks)).any():
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


def _undo_planes(frame: Frame, dtype: DType, base: Sequence[Bits], blocks: Sequence[Bits], elements: int, where: str) -> None:
    planes = unpack_streams(frame.payload, [elements] * dtype.itemsize, where=where)
    if any(len(plane) != elements for plane in planes):
        raise CheckpointError("the frame's planes have a wrong size", where=where)
    offset = 0
    for old, block in zip(base, blocks, strict=True):
        np.copyto(block, old)
        bytes_ = block.view(np.uint8).reshape(-1, dtype.itemsize)
        for i, plane in enumerate(planes):
            bytes_[:, i] ^= np.frombuffer(plane, np.uint8, block.size, offset)
        offset += block.size
