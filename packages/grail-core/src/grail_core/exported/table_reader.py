"""Reads a table that an export is written in, where a stranger may have written it. Plain Python over zstd and NumPy.

The footer is held against the one form there is before a page is looked at, and every page against the footer: what is decoded
is bounded by the number of rows, a row group at a time. Whatever is otherwise is refused, and nothing is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import zstandard

from grail_core.exported.rows import MAX_TEXT
from grail_core.exported.table_form import (
    BOOLEAN,
    BYTES,
    FOOTER,
    LEAVES,
    MAGIC,
    MAX_FOOTER_BYTES,
    PLAIN,
    ZSTD,
    Leaf,
    schema,
)
from grail_core.files.parquet_reader import MAX_PAGE_HEADER_BYTES, PAGE_HEADER, decompress
from grail_core.files.parquet_thrift import RefusedParquetError, read_struct
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP, MAX_PROMPT_TOKENS

MAX_DECODED_BYTES_PER_ROW: Final = 4 << 20
"""Of one row in all columns: texts of four bytes a character, 12,288 token ids, 8,192 log-probabilities, names."""
MAX_PAGE_BYTES: Final = 16 << 20
_LONGEST: Final = max(MAX_PROMPT_TOKENS, MAX_NEW_TOKENS_PROTOCOL_CAP)


def decode_table(path: Path, *, rows: int) -> Iterator[dict[str, Any]]:
    """The rows, as mappings by column; lists are NumPy arrays.

    Raises:
        RefusedParquetError: it is not this form, has not so many rows, or claims what its pages do not keep.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        for group in _footer(file, end, rows):
            chunks = zip(LEAVES, group["chunks"], strict=True)
            columns = [_column(file, leaf, one["metadata"], group["rows"]) for leaf, one in chunks]
            for values in zip(*columns, strict=True):
                yield {leaf.name: value for leaf, value in zip(LEAVES, values, strict=True)}


def _footer(file: BinaryIO, end: int, rows: int) -> list[Mapping[str, Any]]:
    """The row groups, once everything that they claim fits together."""
    head = _read(file, 0, min(4, end))
    tail = _read(file, max(0, end - 8), min(8, end))
    length = int.from_bytes(tail[:4], "little")
    if end < 12 or head != MAGIC or tail[4:] != MAGIC or not 1 <= length <= min(MAX_FOOTER_BYTES, end - 12):
        raise RefusedParquetError("the file is no Parquet, or its footer is larger than one needs to be")
    values, used = read_struct(FOOTER, _read(file, end - 8 - length, length))
    if used != length or values["schema"] != schema():
        raise RefusedParquetError("its columns are not those of an export")
    groups: list[Mapping[str, Any]] = values["groups"]
    if values["rows"] != rows or sum(group["rows"] for group in groups) != rows:
        raise RefusedParquetError(f"the file claims {values['rows']} rows, and {rows} are expected")
    position = len(MAGIC)
    for group in groups:
        if len(group["chunks"]) != len(LEAVES):
            raise RefusedParquetError(f"a row group has {len(group['chunks'])} columns, not {len(LEAVES)}")
        if sum(one["metadata"]["decoded"] for one in group["chunks"]) > MAX_DECODED_BYTES_PER_ROW * group["rows"]:
            raise RefusedParquetError("a row group decodes to more than its rows can have")
        for leaf, one in zip(LEAVES, group["chunks"], strict=True):
            told = one["metadata"]
            same = (told["type"], told["path"], told["codec"]) == (leaf.physical, leaf.path, ZSTD)
            if not same or PLAIN not in told["encodings"]:
                raise RefusedParquetError(f"column {leaf.name} is of another type, codec or encoding")
            if told["start"] != position:
                raise RefusedParquetError("column chunks overlap, or leave bytes between them that belong to no column")
            position += told["size"]
    if position != end - 8 - length:
        raise RefusedParquetError("the column chunks do not end where the footer begins")
    return groups


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    data = file.read(size)
    if len(data) != size:
        raise RefusedParquetError("the file ends before its footer says so")
    return data


def _column(file: BinaryIO, leaf: Leaf, told: Mapping[str, Any], rows: int) -> Sequence[Any]:
    """The values of one column of a row group, one a row."""
    where = f"column {leaf.name}"
    data = memoryview(_read(file, told["start"], told["size"]))
    decompressor = zstandard.ZstdDecompressor()
    found: list[Any] = []
    position = decoded = number = 0
    while position < len(data):
        page, used = read_struct(PAGE_HEADER, bytes(data[position : position + MAX_PAGE_HEADER_BYTES]))
        header = page["data"]
        if page["type"] != 0 or header is None or header["encoding"] != PLAIN:
            raise RefusedParquetError(f"{where}: another page than plain values")
        position += used
        decoded += used + page["decoded"]
        number += header["values"]
        if page["size"] > len(data) - position or page["decoded"] > MAX_PAGE_BYTES or decoded > told["decoded"]:
            raise RefusedParquetError(f"{where}: a page larger than its chunk, or than the footer claims")
        plain = decompress(decompressor, data[position : position + page["size"]], page["decoded"], where)
        if len(plain) != page["decoded"]:
            raise RefusedParquetError(f"{where}: a page of {len(plain)} bytes that claims {page['decoded']}")
        found += _values(leaf, plain, header["values"], rows - len(found))
        position += page["size"]
    if (decoded, number, len(found)) != (told["decoded"], told["values"], rows):
        raise RefusedParquetError(f"{where}: {len(found)} rows of {number} values, where the footer claims others")
    return found


def _values(leaf: Leaf, plain: bytes, count: int, most: int) -> Sequence[Any]:
    """One a row, at most `most` rows."""
    if leaf.is_list:
        return _lists(leaf, plain, count, most)
    if count > most:
        raise RefusedParquetError(f"column {leaf.name}: more values than rows")
    if leaf.physical == BYTES:
        return _texts(leaf, plain, count)
    expected = (count + 7) // 8 if leaf.physical == BOOLEAN else count * leaf.dtype.itemsize
    if len(plain) != expected:
        raise RefusedParquetError(f"column {leaf.name}: a page of {len(plain)} bytes for {count} values")
    if leaf.physical == BOOLEAN:
        bits = np.unpackbits(np.frombuffer(plain, np.uint8), count=count, bitorder="little")
        flags: list[bool] = bits.astype(np.bool_).tolist()
        return flags
    numbers: list[Any] = np.frombuffer(plain, leaf.dtype).tolist()
    return numbers


def _texts(leaf: Leaf, plain: bytes, count: int) -> list[str]:
    found = []
    position = 0
    for _ in range(count):
        length = int.from_bytes(plain[position : position + 4], "little")
        position += 4
        if position + length > len(plain) or length > 4 * MAX_TEXT:
            raise RefusedParquetError(f"column {leaf.name}: a text that goes beyond its page, or is longer than one can be")
        try:
            found.append(plain[position : position + length].decode())
        except UnicodeDecodeError as error:
            raise RefusedParquetError(f"column {leaf.name}: a text that is no UTF-8") from error
        position += length
    if position != len(plain):
        raise RefusedParquetError(f"column {leaf.name}: {len(plain) - position} bytes behind the last text of a page")
    return found


def _lists(leaf: Leaf, plain: bytes, count: int, most: int) -> list[Any]:
    repetition, at = _level_bytes(leaf, plain, 0)
    definition, at = _level_bytes(leaf, plain, at)
    if _runs(leaf, definition, 1) != [(count, 1)]:
        raise RefusedParquetError(f"column {leaf.name}: an empty list, or levels that are not its own")
    lengths: list[int] = []
    for run, level in _runs(leaf, repetition, 2 * most):
        if run > (1 if level == 0 else _LONGEST) or (level and not lengths) or (level and lengths[-1] > 1):
            raise RefusedParquetError(f"column {leaf.name}: a list that is longer than one can be, or begins in the middle")
        if level == 0:
            lengths.append(1)
        else:
            lengths[-1] += run
    if sum(lengths) != count or len(lengths) > most or len(plain) - at != count * leaf.dtype.itemsize:
        raise RefusedParquetError(f"column {leaf.name}: {count} values that its lists and bytes do not have")
    values = np.frombuffer(plain, leaf.dtype, count, at)
    return np.split(values, np.cumsum(lengths)[:-1]) if lengths else []


def _level_bytes(leaf: Leaf, plain: bytes, at: int) -> tuple[bytes, int]:
    length = int.from_bytes(plain[at : at + 4], "little")
    if at + 4 + length > len(plain):
        raise RefusedParquetError(f"column {leaf.name}: levels that go beyond their page")
    return plain[at + 4 : at + 4 + length], at + 4 + length


def _runs(leaf: Leaf, raw: bytes, most: int) -> list[tuple[int, int]]:
    """Runs of one bit: (how long, which)."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(raw):
        number = shift = 0
        while True:
            if at >= len(raw) or shift > 28:
                raise RefusedParquetError(f"column {leaf.name}: a run of levels that does not end")
            byte = raw[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if number & 1 or number < 2 or at >= len(raw) or raw[at] > 1 or len(found) >= most:
            raise RefusedParquetError(f"column {leaf.name}: levels in another form than runs of one bit")
        found.append((number >> 1, raw[at]))
        at += 1
    return found
