"""Our own writer of the closed form of Parquet that `parquet_reader` reads: the same values give the same bytes.

What the footer says depends on no library's version, so two honest participants write one form. Any Parquet reader reads it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from grail_core.files.parquet_footer import FILE, MAGIC, PLAIN, RLE, UNCOMPRESSED, ZSTD, Column, Physical
from grail_core.files.parquet_reader import PAGE_HEADER
from grail_core.files.parquet_thrift import write_struct

PAGE_BYTES = 1 << 20
"""A page ends with the first value that brings it to so many bytes."""
ZSTD_LEVEL = 1

Values = npt.NDArray[Any] | Sequence[bytes | memoryview]
"""A column: numbers [rows] of its type, or one bytes-like value a row."""


def write_parquet(
    columns: Sequence[Column], values: Mapping[str, Values], metadata: Mapping[bytes, bytes], *, compressed: bool = True
) -> bytes:
    """One row group of all rows, none where there are no rows. `values` has every column by name, all of one length."""
    rows = {len(values[column.name]) for column in columns}
    if len(rows) != 1:
        raise ValueError("the columns have different numbers of rows")
    count = rows.pop()
    output = io.BytesIO()  # gives its bytes away without another copy
    output.write(MAGIC)
    chunks = [_write_chunk(output, column, values[column.name], compressed) for column in columns] if count else []
    group = {
        "chunks": [{"file_offset": 0, "metadata": chunk} for chunk in chunks],
        "decoded": sum(chunk["decoded"] for chunk in chunks),
        "rows": count,
        "file_offset": len(MAGIC),
        "size": sum(chunk["size"] for chunk in chunks),
    }
    footer = write_struct(
        FILE,
        {
            "version": 2,
            "schema": [{"repetition": 0, "name": b"schema", "children": len(columns)}, *map(_element, columns)],
            "rows": count,
            "groups": [group] if count else [],
            "metadata": [{"key": name, "value": value} for name, value in metadata.items()],
            "created_by": b"grail",
        },
    )
    output.write(footer + len(footer).to_bytes(4, "little") + MAGIC)
    return output.getvalue()


def _element(column: Column) -> dict[str, object]:
    length = {"type_length": column.most} if column.physical is Physical.FIXED else {}
    return {"type": int(column.physical), "repetition": 0, "name": column.name.encode(), **length}


def _write_chunk(output: io.BytesIO, column: Column, values: Values, compressed: bool) -> dict[str, Any]:
    """Appends the column's pages; returns what the footer says of them."""
    start, decoded = output.tell(), 0
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True)
    for count, plain in _pages(column, values):
        raw = compressor.compress(plain) if compressed else plain
        data = {"values": count, "encoding": PLAIN, "definition_levels": RLE, "repetition_levels": RLE}
        header = write_struct(PAGE_HEADER, {"type": 0, "decoded": len(plain), "size": len(raw), "data": data})
        output.write(header)
        output.write(raw)
        decoded += len(header) + len(plain)
    return {
        "type": int(column.physical),
        "encodings": [PLAIN],
        "path": [column.name.encode()],
        "codec": ZSTD if compressed else UNCOMPRESSED,
        "values": len(values),
        "decoded": decoded,
        "size": output.tell() - start,
        "start": start,
    }


def _pages(column: Column, values: Values) -> Iterator[tuple[int, bytes]]:
    """Values of a page and its PLAIN bytes."""
    if column.physical is Physical.BYTES or column.physical is Physical.FIXED:
        yield from _pages_of_bytes(values, column.physical is Physical.BYTES)
        return
    array = np.ascontiguousarray(values)
    if column.physical is Physical.BOOLEAN:
        step = 8 * PAGE_BYTES
        for at in range(0, len(array), step):
            part = array[at : at + step]
            yield len(part), np.packbits(part.astype(np.bool_), bitorder="little").tobytes()
        return
    dtype = {Physical.INT32: "<i4", Physical.DOUBLE: "<f8"}[column.physical]
    step = PAGE_BYTES // np.dtype(dtype).itemsize
    for at in range(0, len(array), step):
        part = array[at : at + step]
        yield len(part), part.astype(dtype).tobytes()


def _pages_of_bytes(values: Values, lengths: bool) -> Iterator[tuple[int, bytes]]:
    page: list[bytes | memoryview] = []
    count = size = 0
    for value in values:
        length = len(value)
        if lengths:
            page.append(length.to_bytes(4, "little"))
            size += 4
        page.append(value)
        size += length
        count += 1
        if size >= PAGE_BYTES:
            yield count, b"".join(page)
            page, count, size = [], 0, 0
    if count:
        yield count, b"".join(page)
