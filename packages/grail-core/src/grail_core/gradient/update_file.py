"""Section 7: the update file, `GRAILUP1`.

    magic, 8 bytes · length of the header, u32 LE · header, canonical JSON, ≤ 16 KiB · signature, 64 bytes
    body: sketches, 8 · L · rows bytes · length of each tensor's stream, u32 LE · the streams

No names are inside: tensors stand in the layout's order. The header is somebody else's (it is the signed record that names this
body's SHA-256): here it is bytes. Whatever can be wrong with lengths is found before anything is decoded or copied, and the
parts of a file that was read are views of it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from grail_core.gradient.codec import Sent, Stream, decode, require_length
from grail_core.gradient.layout import Layout
from grail_core.protocol.constants import SKETCH_BYTES_PER_POSITION
from grail_core.protocol.gradient.spec import GradientSpec

MAGIC: Final = b"GRAILUP1"
MAX_HEADER: Final = 16 << 10
SIGNATURE_BYTES: Final = 64
MAX_SKETCH_ROWS: Final = 16

_FRONT = len(MAGIC) + 4


@dataclass(frozen=True, eq=False)
class UpdateFile:
    """The parts of an update file. `header` and `signature` are unread: whose they are is checked elsewhere."""

    header: bytes
    signature: bytes
    sketches: Stream
    streams: tuple[Stream, ...]

    @property
    def body_digest(self) -> bytes:
        return body_digest(self.sketches, self.streams)

    def decode(self, layout: Layout, tensor: int) -> Sent:
        """What is sent of the tensor at this position. Errors: ValueError, its message begins with `$update.streams[…]`."""
        return decode(self.streams[tensor], layout.tensors[tensor], f"$update.streams[{tensor}]")


def sketch_rows(batch: int) -> int:
    """Sequences that are sketched of a batch of so many."""
    return min(MAX_SKETCH_ROWS, batch)


def sketch_bytes(spec: GradientSpec, rows: int) -> int:
    return SKETCH_BYTES_PER_POSITION * spec.sequence_length * rows


def most_bytes(layout: Layout, spec: GradientSpec, rows: int = MAX_SKETCH_ROWS) -> int:
    """The largest update file there is, with the sketches of so many sequences: what a seal may declare."""
    streams = sum(4 + tensor.stream_most for tensor in layout.tensors)
    return _FRONT + MAX_HEADER + SIGNATURE_BYTES + sketch_bytes(spec, rows) + streams


def body_digest(sketches: Stream, streams: Sequence[Stream]) -> bytes:
    """SHA-256 of the body, without putting it together."""
    digest = hashlib.sha256(sketches)
    digest.update(_lengths(streams))
    for stream in streams:
        digest.update(stream)
    return digest.digest()


def assemble(header: bytes, signature: bytes, sketches: Stream, streams: Sequence[Stream]) -> bytes:
    """The bytes of a file. Errors: ValueError for a header or signature of a size that no file has."""
    if not 0 < len(header) <= MAX_HEADER:
        raise ValueError(f"$update.header: {len(header)} bytes, 1 to {MAX_HEADER} are allowed")
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"$update.signature: {len(signature)} bytes, not {SIGNATURE_BYTES}")
    front = (MAGIC, struct.pack("<I", len(header)), header, signature)
    return b"".join((*front, sketches, _lengths(streams), *streams))


def read_front(raw: Stream) -> tuple[bytes, bytes]:
    """Header and signature of a file, of which more than the front need not be there.

    Raises:
        ValueError: another magic, a length out of bounds, or too few bytes.
    """
    view = memoryview(raw)
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise ValueError("$update: no update file: it begins with other bytes than GRAILUP1")
    if len(view) < _FRONT:
        raise ValueError("$update: the file ends in the length of its header")
    (length,) = struct.unpack("<I", view[len(MAGIC) : _FRONT])
    if not 0 < length <= MAX_HEADER:
        raise ValueError(f"$update.header: a length of {length} bytes is announced, 1 to {MAX_HEADER} are allowed")
    ends = _FRONT + length
    if len(view) < ends + SIGNATURE_BYTES:
        raise ValueError("$update: the file ends in its header or signature")
    return bytes(view[_FRONT:ends]), bytes(view[ends : ends + SIGNATURE_BYTES])


def split(raw: Stream, layout: Layout, spec: GradientSpec, rows: int) -> UpdateFile:
    """The parts of a file, views of its bytes.

    Args:
        rows: sequences that are sketched (`sketch_rows` of the header's batch; `read_front` gives the header).

    Raises:
        ValueError: lengths that no file of this layout has, or that do not add up. Streams are not decoded.
    """
    if len(raw) > (most := most_bytes(layout, spec, rows)):
        raise ValueError(f"$update: {len(raw)} bytes, an update of this checkpoint has {most} at most")
    header, signature = read_front(raw)
    body = memoryview(raw)[_FRONT + len(header) + SIGNATURE_BYTES :]
    sketched, tensors = sketch_bytes(spec, rows), layout.tensors
    begins = sketched + 4 * len(tensors)
    if len(body) < begins:
        raise ValueError(f"$update.body: {len(body)} bytes, {begins} are taken by sketches and lengths alone")
    lengths = np.frombuffer(body[sketched:begins], "<u4").tolist()
    for i, (length, tensor) in enumerate(zip(lengths, tensors, strict=True)):
        require_length(length, tensor, f"$update.streams[{i}]")
    if begins + sum(lengths) != len(body):
        raise ValueError(f"$update.streams: {sum(lengths)} bytes are announced, {len(body) - begins} are there")
    streams: list[Stream] = []
    at = begins
    for length in lengths:
        streams.append(body[at : at + length])
        at += length
    return UpdateFile(header, signature, body[:sketched], tuple(streams))


def check_streams(file: UpdateFile, layout: Layout) -> None:
    """Check 3 of section 9: decode every stream and keep none. Errors: ValueError naming the stream and what is wrong."""
    for i in range(len(layout.tensors)):
        file.decode(layout, i)


def _lengths(streams: Sequence[Stream]) -> bytes:
    return struct.pack(f"<{len(streams)}I", *map(len, streams))
