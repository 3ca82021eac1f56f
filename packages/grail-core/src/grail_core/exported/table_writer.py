"""Writes rows as a Parquet table of the form that `table_form` says: the same rows give the same bytes, on any machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import zstandard

from grail_core.exported.rows import Row
from grail_core.exported.table_form import (
    BOOLEAN,
    BYTES,
    FOOTER,
    LEAVES,
    MAGIC,
    PLAIN,
    RLE,
    ROWS_OF_A_GROUP,
    ZSTD,
    Leaf,
    schema,
)
from grail_core.files.parquet_reader import PAGE_HEADER
from grail_core.files.parquet_thrift import varint, write_struct
from grail_core.files.parquet_writer import PAGE_BYTES, ZSTD_LEVEL


def encode_table(rows: Iterable[Row]) -> Iterator[bytes]:
    """The table's bytes, a row group at a time."""
    yield MAGIC
    position, groups, count = len(MAGIC), [], 0
    iterator = iter(rows)
    while some := list(itertools.islice(iterator, ROWS_OF_A_GROUP)):
        chunks, decoded = [], 0
        for leaf in LEAVES:
            raw, told = _chunk(leaf, [getattr(row, leaf.name) for row in some])
            chunks.append({"file_offset": 0, "metadata": {**told, "start": position}})
            position, decoded = position + len(raw), decoded + told["decoded"]
            yield raw
        groups.append({"chunks": chunks, "decoded": decoded, "rows": len(some)})
        count += len(some)
    footer = write_struct(FOOTER, {"version": 2, "schema": schema(), "rows": count, "groups": groups, "created_by": b"grail"})
    yield footer + len(footer).to_bytes(4, "little") + MAGIC


def _chunk(leaf: Leaf, values: Sequence[Any]) -> tuple[bytes, dict[str, Any]]:
    """The pages of one column of a row group, and what the footer says of them but for their place."""
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True)
    pieces: list[bytes] = []
    decoded = number = 0
    for count, plain in _pages(leaf, values):
        raw = compressor.compress(plain)
        data = {"values": count, "encoding": PLAIN, "definition_levels": RLE, "repetition_levels": RLE}
        header = write_struct(PAGE_HEADER, {"type": 0, "decoded": len(plain), "size": len(raw), "data": data})
        pieces += [header, raw]
        decoded += len(header) + len(plain)
        number += count
    chunk = b"".join(pieces)
    told = {
        "type": leaf.physical,
        "encodings": [PLAIN, RLE] if leaf.is_list else [PLAIN],
        "path": leaf.path,
        "codec": ZSTD,
        "values": number,
        "decoded": decoded,
        "size": len(chunk),
    }
    return chunk, told


def _pages(leaf: Leaf, values: Sequence[Any]) -> Iterator[tuple[int, bytes]]:
    """Number of values and bytes of each page; rows are not cut."""
    if leaf.physical == BOOLEAN:
        yield len(values), np.packbits(np.array(values, np.bool_), bitorder="little").tobytes()
    elif leaf.is_list:
        for some in _cut(values, 4):
            yield sum(map(len, some)), _levels(some) + np.concatenate(some).astype(leaf.dtype).tobytes()
    elif leaf.physical == BYTES:
        for some in _cut([value.encode() for value in values], 1):
            yield len(some), b"".join(len(one).to_bytes(4, "little") + one for one in some)
    else:
        yield len(values), np.array(values, leaf.dtype).tobytes()


def _cut(values: Sequence[Any], width: int) -> Iterator[list[Any]]:
    page: list[Any] = []
    size = 0
    for value in values:
        page.append(value)
        size += width * len(value) + 4
        if size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _levels(lists: Sequence[Any]) -> bytes:
    """Repetition: 0 where a list begins, 1 behind it. Definition: 1 throughout, for no list is empty."""
    repetition = b"".join(
        varint(1 << 1) + b"\0" + (varint((len(one) - 1) << 1) + b"\1" if len(one) > 1 else b"") for one in lists
    )
    definition = varint(sum(map(len, lists)) << 1) + b"\1"
    return b"".join(len(one).to_bytes(4, "little") + one for one in (repetition, definition))
