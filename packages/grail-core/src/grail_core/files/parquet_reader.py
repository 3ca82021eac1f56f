"""Our own reader of the Parquet files that our own writers make, for bytes that a stranger sent. Plain Python over zstd.

A general reader follows the file: what a footer denies it still decodes, and on some it ends the process. This one knows the
form beforehand. Every page is held to what the footer claimed, which was held to the limits; at no time is more in memory than
one page, compressed and not, beside what came out. The cost is linear in the bytes given and in what they may decode to.

It needs neither NumPy nor Arrow, so that a confined child starts in the time it takes to import zstd.
"""

from __future__ import annotations

import array
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zstandard

from grail_core.files.parquet_footer import (
    PLAIN,
    RLE,
    ZSTD,
    Chunk,
    Column,
    FileForm,
    Footer,
    Physical,
    read_footer,
)
from grail_core.files.parquet_thrift import I32, Field, Integer, RefusedParquetError, Struct, read_struct

MAX_PAGE_HEADER_BYTES = 128
LEAST_PAGE_BYTES = 64 << 10
"""What every page of a chunk but its last decodes to at least: each page costs its header and its frame, whatever it holds."""
MAX_ZSTD_WINDOW = 8 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ALIGNMENT = 8
_LENGTH = struct.Struct("<I")
_ONE_BYTE_A_BIT = [bytes((byte >> bit) & 1 for bit in range(8)) for byte in range(256)]

Sink = Callable[[bytes | bytearray | memoryview], object]
"""Takes the next bytes of the output."""


@dataclass(frozen=True)
class Piece:
    """Bytes `start` … `start + size` of the output."""

    start: int
    size: int


@dataclass(frozen=True)
class PieceTable:
    """Where the columns lie in the output, which is plain little-endian values one after the other, each piece at a multiple
    of eight bytes. `lengths[c]` is uint32 a row for a column of varying lengths, None for the others."""

    rows: int
    metadata: Mapping[bytes, bytes]
    values: tuple[Piece, ...]
    lengths: tuple[Piece | None, ...]


_DATA_PAGE_HEADER = Struct(
    "data page",
    {
        1: Field("values", Integer(I32, 1, 2**31 - 1)),
        2: Field("encoding", Integer(I32, 0, 9)),
        3: Field("definition_levels", Integer(I32, RLE, RLE)),
        4: Field("repetition_levels", Integer(I32, RLE, RLE)),
        5: Field("statistics", Struct("statistics", {}), required=False),
    },
)
PAGE_HEADER = Struct(
    "page",
    {
        1: Field("type", Integer(I32, 0, 3)),
        2: Field("decoded", Integer(I32, 1, 2**31 - 1)),
        3: Field("size", Integer(I32, 1, 2**31 - 1)),
        5: Field("data", _DATA_PAGE_HEADER, required=False),
    },
    denied={4: "a checksum", 6: "an index page", 7: "a dictionary page", 8: "a data page of version 2"},
)


def read_pieces(data: memoryview, form: FileForm, sink: Sink) -> PieceTable:
    """Decode a file, column by column, into `sink`.

    Raises:
        RefusedParquetError: not this form, a limit exceeded, or pages that are not what the footer claims. What `sink` was
            given by then is worth nothing.
    """
    return _decode(data, read_footer(data, form), form, _Output(sink))


def read_whole(data: memoryview, form: FileForm) -> tuple[PieceTable, bytearray]:
    """`read_pieces` into memory of this process, which is taken at once, as much as the footer claims: grown piece by piece it
    would be copied again and again. For files of one's own: a claim that its pages do not keep is refused, but taken first.

    Raises:
        RefusedParquetError: as `read_pieces`.
    """
    footer = read_footer(data, form)
    claimed = sum(chunk.decoded for chunks in footer.chunks for chunk in chunks)
    most = claimed + len(form.columns) * (footer.rows + 2 * _ALIGNMENT)  # a byte a truth value, in place of a bit
    room = bytearray(most)
    view, position = memoryview(room), 0

    def take(piece: bytes | bytearray | memoryview) -> None:
        nonlocal position
        view[position : position + len(piece)] = piece
        position += len(piece)

    table = _decode(data, footer, form, _Output(take))
    view.release()
    del room[position:]
    return table, room


def _decode(data: memoryview, footer: Footer, form: FileForm, output: _Output) -> PieceTable:
    values: list[Piece] = []
    lengths: list[Piece | None] = []
    for column, chunks in zip(form.columns, footer.chunks, strict=True):
        start = output.align()
        sizes = array.array("I")
        for chunk in chunks:
            _decode_chunk(data[chunk.start : chunk.start + chunk.size], chunk, column, form.max_page_bytes, output, sizes)
        values.append(Piece(start, output.position - start))
        if column.width:
            lengths.append(None)
            continue
        if sys.byteorder == "big":
            sizes.byteswap()
        start = output.align()
        output.write(sizes.tobytes())
        lengths.append(Piece(start, output.position - start))
    return PieceTable(footer.rows, footer.metadata, tuple(values), tuple(lengths))


class _Output:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.position = 0

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        self._sink(piece)
        self.position += len(piece)

    def align(self) -> int:
        self.write(bytes(-self.position % _ALIGNMENT))
        return self.position


def _decode_chunk(
    data: memoryview, chunk: Chunk, column: Column, max_page_bytes: int, output: _Output, lengths: array.array[int]
) -> None:
    """Pages until the chunk's bytes and rows are used up, both at once."""
    where = f"column {column.name}"
    position, rows, decoded = 0, 0, 0
    decompressor = zstandard.ZstdDecompressor()
    while position < len(data):
        page, used = read_struct(PAGE_HEADER, bytes(data[position : position + MAX_PAGE_HEADER_BYTES]))
        header = page["data"]
        if page["type"] != 0 or header is None:
            raise RefusedParquetError(f"{where}: a page of type {page['type']} (2: dictionary); only data pages are allowed")
        if header["encoding"] != PLAIN:
            raise RefusedParquetError(f"{where}: a page of encoding {header['encoding']} (2 and 8: dictionary), not PLAIN")
        position += used
        decoded += used + page["decoded"]
        rows += header["values"]
        if page["size"] > len(data) - position:
            raise RefusedParquetError(f"{where}: a page of {page['size']} bytes, the chunk has {len(data) - position} left")
        if page["decoded"] > max_page_bytes:
            raise RefusedParquetError(f"{where}: a page decodes to {page['decoded']} bytes, the limit is {max_page_bytes}")
        if page["decoded"] < LEAST_PAGE_BYTES and page["size"] < len(data) - position:
            raise RefusedParquetError(
                f"{where}: a page of {page['decoded']} bytes before others; at least {LEAST_PAGE_BYTES} are expected"
            )
        if decoded > chunk.decoded or rows > chunk.rows:
            raise RefusedParquetError(f"{where}: its pages decode to more bytes or rows than the footer claims")
        raw = data[position : position + page["size"]]
        plain = decompress(decompressor, raw, page["decoded"], where) if chunk.codec == ZSTD else raw
        if len(plain) != page["decoded"]:
            raise RefusedParquetError(f"{where}: a page of {len(plain)} bytes that claims {page['decoded']}")
        _decode_page(plain, header["values"], column, output, lengths)
        position += page["size"]
    if decoded != chunk.decoded or rows != chunk.rows:
        raise RefusedParquetError(
            f"{where}: its pages decode to {decoded} bytes in {rows} rows, the footer claims {chunk.decoded} in {chunk.rows}"
        )


def decompress(decompressor: zstandard.ZstdDecompressor, raw: memoryview, size: int, where: str) -> bytes:
    """A page's bytes: exactly one frame, which says how long it is; its window and its claim allocate nothing unseen."""
    if raw[:4] != _ZSTD_MAGIC:
        raise RefusedParquetError(f"{where}: a page is no zstd frame")
    try:
        frame = zstandard.get_frame_parameters(raw)
        if frame.content_size == zstandard.CONTENTSIZE_UNKNOWN:
            raise RefusedParquetError(f"{where}: a zstd frame that does not say how long it is")
        if frame.content_size != size:
            raise RefusedParquetError(f"{where}: a zstd frame of {frame.content_size} bytes in a page that claims {size}")
        if frame.window_size > max(MAX_ZSTD_WINDOW, size) or frame.dict_id:
            raise RefusedParquetError(f"{where}: a zstd frame with a window of {frame.window_size} bytes or a dictionary")
        plain: bytes = decompressor.decompress(raw, max_output_size=size, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise RefusedParquetError(f"{where}: a page cannot be decompressed: {str(error)[:100]}") from error
    return plain


def _decode_page(plain: bytes | memoryview, count: int, column: Column, output: _Output, lengths: array.array[int]) -> None:
    """`count` PLAIN values; the page's bytes must be these and no more."""
    if column.physical is Physical.BYTES:
        _decode_bytes(memoryview(plain), count, column, output, lengths)
        return
    expected = (count + 7) // 8 if column.physical is Physical.BOOLEAN else count * column.width
    if len(plain) != expected:
        raise RefusedParquetError(f"column {column.name}: a page of {len(plain)} bytes for {count} values, not {expected}")
    if column.physical is Physical.BOOLEAN:
        plain = b"".join(_ONE_BYTE_A_BIT[byte] for byte in plain)[:count]
    output.write(plain)


def _decode_bytes(plain: memoryview, count: int, column: Column, output: _Output, lengths: array.array[int]) -> None:
    """Values with their lengths in front, four bytes little-endian each."""
    if count * 4 > len(plain):
        raise RefusedParquetError(f"column {column.name}: a page of {len(plain)} bytes for {count} values")
    position, end = 0, len(plain)
    length_at, most, item = _LENGTH.unpack_from, column.most, column.item
    found: list[int] = []
    pieces: list[memoryview] = []
    for _ in range(count):
        start = position + 4
        if start > end:
            raise RefusedParquetError(f"column {column.name}: a page of {end} bytes ends before its last value does")
        (length,) = length_at(plain, position)
        position = start + length
        if position > end:
            raise RefusedParquetError(f"column {column.name}: a value of {length} bytes goes beyond its page")
        if length > most or length % item:
            raise RefusedParquetError(
                f"column {column.name}: a value of {length} bytes; no multiple of {column.item}, or more than {column.most}"
            )
        found.append(length)
        pieces.append(plain[start:position])
    if position != end:
        raise RefusedParquetError(f"column {column.name}: {end - position} bytes behind the last value of a page")
    lengths.extend(found)
    output.write(b"".join(pieces))
