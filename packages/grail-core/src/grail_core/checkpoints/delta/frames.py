"""Frames: the unit in which a delta is coded, checked and applied (the byte format is in docs/checkpoints.md).

A frame covers whole blocks (4 MiB) of tensors of one dtype, at most 16 MiB together, and carries the digest of these blocks
before and after. The first frame of a stream is the layout frame: the two weights roots, and the tensors added, removed or
tied. Parsing checks every length before anything is allocated; it does not decode payloads.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum

import zstandard

from grail_core.checkpoints.delta.digests import BLOCK_BYTES
from grail_core.checkpoints.delta.tensors import MAX_TENSOR_TOKENS, MAX_TENSORS, Layout, check_layout, check_name
from grail_core.errors import CheckpointError
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.reading import Node, parse_json
from grail_core.protocol.types import Digest

FRAME_BYTES = 16 << 20  # of base weights, at most
FRAME_VERSION = 1
MAX_PAYLOAD = FRAME_BYTES + (1 << 20)
MAX_BLOCKS = 1 << 16
MAX_LAYOUT_BYTES = 64 << 20
HINT_BYTES = 4

_MAGIC = b"GRLD"
_HEADER = struct.Struct("<4sBBBBIII32s32s")  # magic, version, mode, dtype, 0, blocks, payload bytes, changes, before, after
_BLOCK = struct.Struct("<II4s4s")  # tensor, block, first bytes of the block's digest before and after


class Profile(Enum):
    FAST = "fast"
    SMALL = "small"


class Mode(IntEnum):
    LAYOUT = 0
    SPARSE = 1  # gaps as bytes and steps as two bits, zstd-1
    GROUPED = 2  # gaps counted within the base value's exponent, adaptive arithmetic coder
    PLANES = 3  # XOR with the base, by byte planes, zstd-1


@dataclass(frozen=True)
class BlockRef:
    """One block of one tensor; `tensor` counts the untied tensors of the result in name order.

    The hints say which tensor is wrong once a frame's digest has failed; they prove nothing.
    """

    tensor: int
    block: int
    before: bytes = bytes(HINT_BYTES)  # zeros where the block has no base
    after: bytes = bytes(HINT_BYTES)


@dataclass(frozen=True)
class Frame:
    mode: Mode
    dtype: int  # DType.code; 0 in a layout frame
    blocks: tuple[BlockRef, ...]
    changes: int  # coded weights; 0 in modes that do not count
    before: Digest  # of the blocks' digests; the base's weights root in a layout frame
    after: Digest
    payload: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        head = _HEADER.pack(
            _MAGIC,
            FRAME_VERSION,
            self.mode,
            self.dtype,
            0,
            len(self.blocks),
            len(self.payload),
            self.changes,
            self.before,
            self.after,
        )
        table = b"".join(_BLOCK.pack(b.tensor, b.block, b.before, b.after) for b in self.blocks)
        return head + table + self.payload


def frame_digest(blocks: Sequence[Digest]) -> Digest:
    """SHA-256 over the digests of a frame's blocks, in order."""
    return Digest(hashlib.sha256(b"".join(blocks)).digest())


def read_frames(stream: bytes | memoryview | mmap.mmap, *, where: str = "delta", continued: bool = False) -> Iterator[Frame]:
    """Split a delta's bytes into frames. Payloads are copied one frame at a time.

    Args:
        continued: the bytes are a later part of a delta, so that its layout frame came before.

    Raises:
        CheckpointError: truncated, too long, of an unknown version, or not starting with its one layout frame.
    """
    data = memoryview(stream)
    offset, number = 0, int(continued)
    while offset < len(data):
        frame, offset = _read_frame(data, offset, f"{where}, frame {number}")
        if (frame.mode is Mode.LAYOUT) != (number == 0):
            raise CheckpointError("a delta has one layout frame, and it is the first", where=f"{where}, frame {number}")
        yield frame
        number += 1
    if not len(data):
        raise CheckpointError("the delta is empty", where=where)


def _read_frame(data: memoryview, offset: int, where: str) -> tuple[Frame, int]:
    if len(data) - offset < _HEADER.size:
        raise CheckpointError("the delta ends inside a frame's header", where=where)
    magic, version, mode, dtype, zero, blocks, size, changes, before, after = _HEADER.unpack_from(data, offset)
    if magic != _MAGIC:
        raise CheckpointError("these bytes are no delta frame", where=where)
    if version != FRAME_VERSION:
        raise CheckpointError(f"frame version {version} is not known here", where=where, hint="update the software")
    if mode not in Mode._value2member_map_ or zero:
        raise CheckpointError(f"frame mode {mode} is not known here", where=where, hint="update the software")
    limit = MAX_LAYOUT_BYTES if mode == Mode.LAYOUT else MAX_PAYLOAD
    if blocks > MAX_BLOCKS or size > limit:
        raise CheckpointError("the frame is larger than a frame may be", where=where)
    start = offset + _HEADER.size
    end = start + blocks * _BLOCK.size + size
    if end > len(data):
        raise CheckpointError("the delta ends inside a frame", where=where)
    refs = tuple(BlockRef(*fields) for fields in _BLOCK.iter_unpack(data[start : start + blocks * _BLOCK.size]))
    payload = bytes(data[end - size : end])
    return Frame(Mode(mode), dtype, refs, changes, Digest(before), Digest(after), payload), end


@dataclass(frozen=True)
class LayoutChange:
    """How the result's set of tensors comes from the base's. Names tied to another are in `aliases` only."""

    profile: Profile
    removed: frozenset[str]  # of the base's untied names; reshaped ones are both removed and added
    added: Mapping[str, Layout]
    aliases: Mapping[str, str]  # of the result: tied name → name it shares its memory with

    def result_layouts(self, base: Mapping[str, Layout]) -> dict[str, Layout]:
        """Layouts of the result's untied tensors in name order, from the base's untied ones.

        Raises:
            CheckpointError: a removed name is not there, an added one is, or a tied one points nowhere.
        """
        missing = sorted(self.removed - base.keys())
        if missing:
            raise CheckpointError("the delta removes a tensor that the base does not have", where=missing[0])
        kept = {name: layout for name, layout in base.items() if name not in self.removed}
        clash = sorted(self.added.keys() & kept.keys())
        if clash:
            raise CheckpointError("the delta adds a tensor that the base has already", where=clash[0])
        result = {**kept, **self.added}
        for alias, name in self.aliases.items():
            if name not in result or alias in result:
                raise CheckpointError("the delta ties a tensor to one that is not there", where=f"{alias} → {name}")
        return {name: result[name] for name in sorted(result, key=lambda text: text.encode())}

    def to_payload(self) -> bytes:
        value = {
            "profile": self.profile.value,
            "removed": sorted(self.removed),
            "added": [[name, layout.dtype.name, list(layout.shape)] for name, layout in sorted(self.added.items())],
            "aliases": dict(self.aliases),
        }
        return canonical_json(value)

    @classmethod
    def from_payload(cls, payload: bytes, *, where: str) -> LayoutChange:
        try:
            parsed = parse_json(payload, most=MAX_LAYOUT_BYTES, tokens=MAX_TENSOR_TOKENS)
            top = parsed.members("profile", "removed", "added", "aliases")
            added = {}
            for row in top["added"].items(MAX_TENSORS):
                name, dtype, shape = row.items(3)
                added[_name(name)] = check_layout(_name(name), dtype.text(16), [d.integer() for d in shape.items(16)])
            return cls(
                Profile(top["profile"].text(16)),
                frozenset(_name(node) for node in top["removed"].items(MAX_TENSORS)),
                added,
                {alias: _name(node) for alias, node in top["aliases"].entries(MAX_TENSORS, key_length=512).items()},
            )
        except ValueError as error:
            raise CheckpointError(f"this is no layout frame: {error}", where=where) from error


def _name(node: Node) -> str:
    name = node.text(512)
    check_name(name)
    return name


def compress(data: bytes | memoryview) -> bytes:
    """zstd level 1, without content size games: the reader knows how much to expect."""
    return zstandard.ZstdCompressor(level=1).compress(data)


def pack_streams(streams: Iterable[bytes | memoryview]) -> bytes:
    """Each stream as u32 raw size, u32 coded size, zstd-1 bytes (raw where that is not smaller)."""
    parts = []
    for stream in streams:
        coded = compress(stream)
        if len(coded) >= len(stream):
            coded = bytes(stream)
        parts.append(struct.pack("<II", len(stream), len(coded)) + coded)
    return b"".join(parts)


def unpack_streams(payload: bytes, limits: Sequence[int], *, where: str) -> list[bytes]:
    """Inverse of `pack_streams`; stream i may have at most limits[i] bytes.

    Raises:
        CheckpointError: not exactly these streams, or one that is larger or does not decompress.
    """
    streams, offset = [], 0
    for limit in limits:
        if len(payload) - offset < 8:
            raise CheckpointError("the frame's payload is cut short", where=where)
        raw, coded = struct.unpack_from("<II", payload, offset)
        offset += 8
        body = payload[offset : offset + coded]
        offset += coded
        if raw > limit or coded > raw or len(body) != coded:
            raise CheckpointError("the frame's payload has a wrong size", where=where)
        if coded < raw:
            try:
                body = zstandard.ZstdDecompressor().decompress(body, max_output_size=raw, allow_extra_data=False)
            except zstandard.ZstdError as error:
                raise CheckpointError(f"the frame's payload does not decompress: {error}", where=where) from error
            if len(body) != raw:
                raise CheckpointError("the frame's payload has a wrong size", where=where)
        streams.append(body)
    if offset != len(payload):
        raise CheckpointError("the frame's payload has bytes left over", where=where)
    return streams


def blocks_of(layout: Layout) -> Iterator[tuple[int, int]]:
    """(block index, bytes) of a tensor's blocks."""
    for index, start in enumerate(range(0, layout.nbytes, BLOCK_BYTES)):
        yield index, min(BLOCK_BYTES, layout.nbytes - start)
