"""Shards: the rows of one accepted file, as a Parquet table or as JSON lines. The same rows give the same bytes.

Both are written and read some rows at a time, so that a file of 6,000 long rollouts needs no memory of its size. A shard that
is read may be a stranger's: its size, its columns and its rows are held against limits before anything is decoded, and no
general Parquet reader comes near it (`table_reader`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from grail_core.errors import ProtocolViolationError, StorageError
from grail_core.exported.rows import Row, row_of
from grail_core.exported.table_reader import decode_table
from grail_core.exported.table_writer import encode_table
from grail_core.files.parquet_thrift import RefusedParquetError
from grail_core.protocol.constants import MAX_FILE_ROWS
from grail_core.protocol.reading import parse_json

Encoding = Literal["parquet", "jsonl"]

MAX_SHARD_BYTES: Final = 2 << 30
MAX_LINE_BYTES: Final = 8 << 20
"""Of one row as JSON: the longest has 12,288 token ids, 8,192 log-probabilities and their texts."""


def encode_shard(rows: Iterable[Row], encoding: Encoding) -> Iterator[bytes]:
    """The shard's bytes, in pieces."""
    return encode_table(rows) if encoding == "parquet" else _as_lines(rows)


def read_shard(path: Path, encoding: Encoding, *, rows: int) -> Iterator[Row]:
    """Its rows, one after the other.

    Args:
        rows: how many there are; another number is refused.

    Raises:
        ProtocolViolationError: it is no shard, larger than one can be, or a row breaks a rule; the message has the row.
        StorageError: it cannot be read.
    """
    require_regular(path, MAX_SHARD_BYTES)
    if not 0 <= rows <= MAX_FILE_ROWS:
        raise ProtocolViolationError(f"{rows} rows, at most {MAX_FILE_ROWS} are in one file", where=str(path))
    read = 0
    try:
        for value in decode_table(path, rows=rows) if encoding == "parquet" else _line_values(path):
            if read == rows:
                raise ValueError(f"more rows than the {rows} that its receipt names")
            yield row_of(value)
            read += 1
    except RefusedParquetError as error:
        raise _refusal(path, error.what) from error
    except (ValueError, TypeError) as error:
        raise _refusal(path, f"row {read}: {error}") from error
    except OSError as error:
        raise StorageError(f"it cannot be read: {error.strerror}", where=str(path)) from error
    if read != rows:
        raise _refusal(path, f"{read} rows where its receipt names {rows}")


def require_regular(path: Path, most: int) -> int:
    """The size of a file of a folder that may be a stranger's; a link, a pipe or a larger one is refused before it is opened.

    Raises:
        ProtocolViolationError, StorageError.
    """
    try:
        info = os.lstat(path)
    except OSError as error:
        raise StorageError(f"it cannot be read: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(info.st_mode):
        raise _refusal(path, "no regular file")
    if info.st_size > most:
        raise _refusal(path, f"{info.st_size} bytes, at most {most} are read")
    return info.st_size


def _refusal(path: Path, what: str) -> ProtocolViolationError:
    return ProtocolViolationError(f"not a shard of exported rollouts: {what}", where=str(path), hint="export it again")


# --- JSON lines ---------------------------------------------------------------------------------------------------------


def _as_lines(rows: Iterable[Row]) -> Iterator[bytes]:
    for row in rows:
        yield row.to_line().encode() + b"\n"


def _line_values(path: Path) -> Iterator[object]:
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
            yield parse_json(line, most=MAX_LINE_BYTES, path="$row", floats=True).value
