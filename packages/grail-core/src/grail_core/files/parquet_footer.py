"""What a Parquet file claims in its footer, and whether the claims fit together: before any page is looked at.

Our files use a small closed part of Parquet: required columns without nesting, PLAIN values, zstd or nothing, one data page
after the other, no dictionary, index, checksum, filter, statistics of values or encryption. A footer that says anything else
is refused, and so is one whose chunks lie outside the file, overlap, or whose rows do not add up. What it claims of sizes is a
claim: `parquet_reader` holds every page to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from grail_core.files.parquet_thrift import I32, I64, Binary, Field, Integer, ListOf, RefusedParquetError, Struct, read_struct

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 256 * 1024
MAX_ROW_GROUPS = 8
MAX_COLUMNS = 32
MAX_METADATA_ENTRIES = 8
MAX_METADATA_VALUE_BYTES = 128 * 1024
WRITERS_NOTE = b"ARROW:schema"
"""Metadata that Arrow's writer adds for itself; nobody reads it here."""

PLAIN, RLE = 0, 3  # the latter is what levels would be encoded with, if there were any
UNCOMPRESSED, ZSTD = 0, 6
_DATA_PAGE = 0
_REQUIRED = 0
_MOST = 2**62


class Physical(IntEnum):
    """Parquet's physical types that our files use."""

    BOOLEAN = 0
    INT32 = 1
    DOUBLE = 5
    BYTES = 6
    FIXED = 7


@dataclass(frozen=True)
class Column:
    """A required column. `most` is the longest value of BYTES, or the length of FIXED, in bytes; a length divides by `item`."""

    name: str
    physical: Physical
    most: int = 0
    item: int = 1

    @property
    def width(self) -> int:
        """Bytes of a value; 0 where it varies."""
        widths = {Physical.BOOLEAN: 1, Physical.INT32: 4, Physical.DOUBLE: 8, Physical.FIXED: self.most}
        return widths.get(self.physical, 0)


@dataclass(frozen=True)
class FileForm:
    """Everything that a kind of file may be. Bounds in bytes; decoded bytes count what the pages hold uncompressed."""

    columns: tuple[Column, ...]
    metadata: tuple[bytes, ...]  # names that must be there, each once
    max_file_bytes: int
    least_rows: int
    max_rows: int
    max_decoded_bytes_per_row: int
    max_decoded_bytes: int
    max_page_bytes: int
    codecs: tuple[int, ...] = (UNCOMPRESSED, ZSTD)


@dataclass(frozen=True)
class Chunk:
    """One column of one row group: bytes `start` … `start + size` of the file."""

    start: int
    size: int
    rows: int
    decoded: int  # claimed, page headers included
    codec: int


@dataclass(frozen=True)
class Footer:
    """Claims that fit together. `chunks[c]` are those of column c, in the order of the row groups."""

    rows: int
    metadata: Mapping[bytes, bytes]
    chunks: tuple[tuple[Chunk, ...], ...]


_ENCODING_COUNTS = Struct(
    "encoding statistics",
    {
        1: Field("page_type", Integer(I32, _DATA_PAGE, _DATA_PAGE)),
        2: Field("encoding", Integer(I32, PLAIN, PLAIN)),
        3: Field("count", Integer(I32, 1, 2**31 - 1)),
    },
)
_NO_LEVELS = ListOf(Integer(I64, 0, _MOST), 0)
_SIZE_STATISTICS = Struct(
    "size statistics",
    {
        1: Field("unencoded_bytes", Integer(I64, 0, _MOST), required=False),
        2: Field("repetition_levels", _NO_LEVELS, required=False),
        3: Field("definition_levels", _NO_LEVELS, required=False),
    },
)
_CHUNK_METADATA = Struct(
    "column chunk",
    {
        1: Field("type", Integer(I32, 0, 7)),
        2: Field("encodings", ListOf(Integer(I32, 0, 9), 4)),
        3: Field("path", ListOf(Binary(64), 1)),
        4: Field("codec", Integer(I32, 0, 7)),
        5: Field("values", Integer(I64, 0, _MOST)),
        6: Field("decoded", Integer(I64, 0, _MOST)),
        7: Field("size", Integer(I64, 0, _MOST)),
        9: Field("start", Integer(I64, 0, _MOST)),
        13: Field("encoding_counts", ListOf(_ENCODING_COUNTS, 2), required=False),
        16: Field("size_statistics", _SIZE_STATISTICS, required=False),
    },
    denied={
        8: "metadata of a chunk",
        10: "an index page",
        11: "a dictionary page",
        12: "statistics of values",
        14: "a Bloom filter",
        15: "a Bloom filter",
        17: "geospatial statistics",
    },
)
_CHUNK = Struct(
    "column chunk",
    {2: Field("file_offset", Integer(I64, 0, _MOST)), 3: Field("metadata", _CHUNK_METADATA)},
    denied={
        1: "a path to another file",
        4: "an offset index",
        5: "an offset index",
        6: "a column index",
        7: "a column index",
        8: "encryption",
        9: "encrypted metadata",
    },
)
_ROW_GROUP = Struct(
    "row group",
    {
        1: Field("chunks", ListOf(_CHUNK, MAX_COLUMNS)),
        2: Field("decoded", Integer(I64, 0, _MOST)),
        3: Field("rows", Integer(I64, 1, _MOST)),
        5: Field("file_offset", Integer(I64, 0, _MOST), required=False),
        6: Field("size", Integer(I64, 0, _MOST), required=False),
        7: Field("ordinal", Integer(4, 0, MAX_ROW_GROUPS - 1), required=False),
    },
    denied={4: "a sort order"},
)
_ELEMENT = Struct(
    "schema element",
    {
        1: Field("type", Integer(I32, 0, 7), required=False),
        2: Field("type_length", Integer(I32, 0, 1024), required=False),
        3: Field("repetition", Integer(I32, 0, 2)),
        4: Field("name", Binary(64)),
        5: Field("children", Integer(I32, 1, MAX_COLUMNS), required=False),
    },
    denied={6: "a converted type", 7: "a scale", 8: "a precision", 9: "a field id", 10: "a logical type"},
)
_ORDER = Struct("column order", {1: Field("by_type", Struct("type order", {}))})
FILE = Struct(
    "footer",
    {
        1: Field("version", Integer(I32, 1, 2)),
        2: Field("schema", ListOf(_ELEMENT, MAX_COLUMNS + 1)),
        3: Field("rows", Integer(I64, 0, _MOST)),
        4: Field("groups", ListOf(_ROW_GROUP, MAX_ROW_GROUPS)),
        5: Field(
            "metadata",
            ListOf(
                Struct("metadata", {1: Field("key", Binary(64)), 2: Field("value", Binary(MAX_METADATA_VALUE_BYTES))}),
                MAX_METADATA_ENTRIES,
            ),
            required=False,
        ),
        6: Field("created_by", Binary(256), required=False),
        7: Field("orders", ListOf(_ORDER, MAX_COLUMNS), required=False),
    },
    denied={8: "encryption", 9: "a signing key of an encrypted footer"},
)


def read_footer(data: memoryview, form: FileForm) -> Footer:
    """The footer of a whole file.

    Raises:
        RefusedParquetError: not Parquet, not this form, or claims that exceed a limit or contradict each other.
    """
    if len(data) > form.max_file_bytes:
        raise RefusedParquetError(f"the file has {len(data)} bytes, the limit is {form.max_file_bytes}")
    if len(data) < 12 or data[:4] != MAGIC or data[-4:] != MAGIC:
        raise RefusedParquetError("the file is not Parquet, or its footer is encrypted: it must begin and end with PAR1")
    length = int.from_bytes(data[-8:-4], "little")
    if not 1 <= length <= min(MAX_FOOTER_BYTES, len(data) - 12):
        raise RefusedParquetError(f"the footer has {length} bytes; 1 to {min(MAX_FOOTER_BYTES, len(data) - 12)} are allowed")
    end = len(data) - 8 - length  # of the pages
    values, used = read_struct(FILE, bytes(data[end : len(data) - 8]))
    if used != length:
        raise RefusedParquetError(f"the footer claims {length} bytes and has {used}")
    _check_schema(values["schema"], form.columns)
    rows = values["rows"]
    if not form.least_rows <= rows <= form.max_rows:
        raise RefusedParquetError(f"the file has {rows} rows; {form.least_rows} to {form.max_rows} are allowed")
    groups = [_group(group, form) for group in values["groups"]]
    if sum(group["rows"] for group in values["groups"]) != rows:
        raise RefusedParquetError(f"the file claims {rows} rows, which its {len(groups)} row groups do not add up to")
    chunks = tuple(tuple(group[index] for group in groups) for index in range(len(form.columns)))
    _check_extent([chunk for group in groups for chunk in group], end, rows, form)
    return Footer(rows, _metadata(values["metadata"] or [], form.metadata), chunks)


def _check_schema(elements: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    root = elements[0] if elements else {}
    found = [one["name"].decode("utf-8", "replace") for one in elements[1:]]
    if found != [one.name for one in columns] or root.get("children") != len(columns) or root["type"] is not None:
        raise RefusedParquetError("the file's columns are not those it must have: " + ascii(", ".join(found))[:200])
    for element, column in zip(elements[1:], columns, strict=True):
        if element["repetition"] != _REQUIRED or element["children"] is not None:
            raise RefusedParquetError(f"column {column.name} is nullable or nested, which it must not be")
        length = column.most if column.physical is Physical.FIXED else None
        if element["type"] != column.physical or element["type_length"] not in {length, 0 if length is None else length}:
            raise RefusedParquetError(f"the file's columns are not those it must have: {column.name} is of another type")


def _group(group: Mapping[str, Any], form: FileForm) -> list[Chunk]:
    columns = form.columns
    if len(group["chunks"]) != len(columns):
        raise RefusedParquetError(f"a row group has {len(group['chunks'])} column chunks for {len(columns)} columns")
    return [
        _chunk(one["metadata"], group["rows"], column, form.codecs)
        for one, column in zip(group["chunks"], columns, strict=True)
    ]


def _chunk(values: Mapping[str, Any], rows: int, column: Column, codecs: Sequence[int]) -> Chunk:
    name = column.name
    if values["path"] != [name.encode()] or values["type"] != column.physical:
        raise RefusedParquetError(f"the chunk of column {name} says that it is another's")
    encodings = set(values["encodings"])
    if PLAIN not in encodings or not encodings <= {PLAIN, RLE}:
        numbers = ", ".join(map(str, sorted(encodings)))
        raise RefusedParquetError(f"column {name} has encodings {numbers} (2 and 8: dictionary); only PLAIN is allowed")
    if values["codec"] not in codecs:
        raise RefusedParquetError(
            f"column {name} has codec {values['codec']}; only {', '.join(map(str, codecs))} (0: none, 6: zstd) are allowed"
        )
    if values["values"] != rows:
        raise RefusedParquetError(f"column {name} claims {values['values']} values for {rows} rows")
    return Chunk(values["start"], values["size"], rows, values["decoded"], values["codec"])


def _check_extent(chunks: Sequence[Chunk], end: int, rows: int, form: FileForm) -> None:
    """Where chunks lie, and what they claim to decode to."""
    decoded = sum(chunk.decoded for chunk in chunks)
    most = min(form.max_decoded_bytes, form.max_decoded_bytes_per_row * rows)
    if decoded > most:
        raise RefusedParquetError(f"the file decodes to {decoded} bytes, the limit for {rows} rows is {most}")
    position = len(MAGIC)
    for chunk in sorted(chunks, key=lambda one: one.start):
        if chunk.start != position:
            raise RefusedParquetError("column chunks overlap, or leave bytes between them that belong to no column")
        position += chunk.size
    if position != end:
        raise RefusedParquetError(f"the column chunks end at byte {position}, the footer begins at {end}")


def _metadata(entries: Sequence[Mapping[str, bytes]], names: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for entry in entries:
        name = entry["key"]
        if name in found or name not in {*names, WRITERS_NOTE}:
            raise RefusedParquetError(f"metadata {name[:80]!r} is there twice, or is not of this kind of file")
        found[name] = entry["value"]
    found.pop(WRITERS_NOTE, None)
    return found
