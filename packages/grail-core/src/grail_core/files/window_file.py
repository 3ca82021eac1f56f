"""The window file: what a miner uploads for one window (section 8 of the protocol).

Parquet, one row per rollout, sorted by (group, rollout); the signed header travels in the schema metadata. Bytes from
outside become typed columns here and nowhere else: limits are checked on the Parquet metadata before anything is decoded.
Variable-length columns are one binary value a row (little-endian numbers), not nested lists: three times as fast to read
and write, and a value cannot expand beyond its page. Signatures, Merkle roots and meaning are the checks' business.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from grail_core.errors import ProtocolViolationError
from grail_core.protocol.constants import (
    MAX_FILE_BYTES,
    MAX_FILE_ROWS,
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    SKETCH_BYTES_PER_POSITION,
)
from grail_core.protocol.rollouts.records import RolloutRecord, WindowHeader
from grail_core.protocol.types import Signature

HEADER_KEY = b"grail.header"
SIGNATURE_KEY = b"grail.signature"
MAX_HEADER_BYTES = 16 * 1024
_MAX_TOKENS = MAX_PROMPT_TOKENS + MAX_NEW_TOKENS_PROTOCOL_CAP
_MAX_SKETCH_BYTES = SKETCH_BYTES_PER_POSITION * (MAX_NEW_TOKENS_PROTOCOL_CAP + 1)
_MAX_DECODED_BYTES = 2 * MAX_FILE_BYTES  # token ids compress by about two; more is a bomb

SCHEMA = pa.schema(
    [
        pa.field("g", pa.int32(), nullable=False),
        pa.field("r", pa.int32(), nullable=False),
        pa.field("tokens", pa.binary(), nullable=False),
        pa.field("prompt_length", pa.int32(), nullable=False),
        pa.field("logprobs", pa.binary(), nullable=False),
        pa.field("sketches", pa.binary(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("success", pa.bool_(), nullable=False),
    ]
)


class WindowFileError(ProtocolViolationError):
    """The bytes are not a window file, or exceed a limit."""


Number = TypeVar("Number", np.int32, np.float32, np.uint8)


@dataclass(frozen=True)
class BinaryColumn(Generic[Number]):
    """Variable-length values of one column: `values[offsets[i]:offsets[i + 1]]` is row i."""

    values: npt.NDArray[Number]
    offsets: npt.NDArray[np.int64]

    def __getitem__(self, index: int) -> npt.NDArray[Number]:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class RolloutColumns:
    """The rows of a file as columns, so that checks over all rows are array operations.

    `tokens` holds int32 ids, `logprobs` float32, `sketches` raw bytes (uint8). Nothing about the values is checked yet.
    """

    group: npt.NDArray[np.int32]
    rollout: npt.NDArray[np.int32]
    prompt_length: npt.NDArray[np.int32]
    reward: npt.NDArray[np.float64]
    success: npt.NDArray[np.bool_]
    tokens: BinaryColumn[np.int32]
    logprobs: BinaryColumn[np.float32]
    sketches: BinaryColumn[np.uint8]

    def __len__(self) -> int:
        return len(self.group)

    def record(self, index: int) -> RolloutRecord:
        """Row `index` as the protocol's record, its arrays views of the columns. Raises ValueError where a rule is broken."""
        return RolloutRecord(
            group=int(self.group[index]),
            rollout=int(self.rollout[index]),
            tokens=self.tokens[index],
            prompt_length=int(self.prompt_length[index]),
            logprobs=self.logprobs[index],
            sketches=self.sketches[index].data,
            reward=float(self.reward[index]),
            success=bool(self.success[index]),
        )

    def records(self) -> Iterator[RolloutRecord]:
        return (self.record(index) for index in range(len(self)))


@dataclass(frozen=True)
class WindowFile:
    header: WindowHeader
    signature: Signature
    table: RolloutColumns


def write_window_file(header: WindowHeader, signature: Signature, rows: Sequence[RolloutRecord]) -> bytes:
    """The file's bytes. `rows` must be in (group, rollout) order; the header and its signature are taken as they are."""
    columns = {
        "g": pa.array([row.group for row in rows], pa.int32()),
        "r": pa.array([row.rollout for row in rows], pa.int32()),
        "tokens": pa.array([_little_endian(row.tokens, "<i4") for row in rows], pa.binary()),
        "prompt_length": pa.array([row.prompt_length for row in rows], pa.int32()),
        "logprobs": pa.array([_little_endian(row.logprobs, "<f4") for row in rows], pa.binary()),
        "sketches": pa.array([row.sketches for row in rows], pa.binary()),
        "reward": pa.array([row.reward for row in rows], pa.float64()),
        "success": pa.array([row.success for row in rows], pa.bool_()),
    }
    schema = SCHEMA.with_metadata({HEADER_KEY: header.canonical(), SIGNATURE_KEY: bytes(signature)})
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=schema),
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_statistics=False,
        store_schema=True,
    )
    return sink.getvalue()


def read_window_file(data: bytes) -> WindowFile:
    """Parse a window file.

    Raises:
        WindowFileError: not Parquet, not the schema, header missing or malformed, or a limit exceeded.
    """
    if len(data) > MAX_FILE_BYTES:
        raise WindowFileError(f"the file has {len(data)} bytes, the limit is {MAX_FILE_BYTES}")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), thrift_string_size_limit=1 << 20, thrift_container_size_limit=1 << 16)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise WindowFileError(f"the file is not Parquet: {_first_line(error)}") from error
    schema = file.schema_arrow
    if not schema.remove_metadata().equals(SCHEMA):
        raise WindowFileError("the file's columns are not those of a window file: " + ", ".join(map(str, schema))[:200])
    _check_limits(file.metadata)
    header, signature = _header(schema.metadata or {})
    try:
        table = file.read(use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise WindowFileError(f"the file's pages cannot be decoded: {_first_line(error)}") from error
    return WindowFile(header, signature, _columns(table))


def _check_limits(metadata: pq.FileMetaData) -> None:
    if not 1 <= metadata.num_rows <= MAX_FILE_ROWS:
        raise WindowFileError(f"the file has {metadata.num_rows} rows; 1 to {MAX_FILE_ROWS} are allowed")
    if metadata.num_row_groups > 64:
        raise WindowFileError(f"the file has {metadata.num_row_groups} row groups, the limit is 64")
    decoded = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for column in range(group.num_columns):
            chunk = group.column(column)
            decoded += chunk.total_uncompressed_size
            # A dictionary page lets one long value stand in every row: bytes in memory without bytes on the wire.
            if chunk.has_dictionary_page or any("DICTIONARY" in encoding for encoding in chunk.encodings):
                raise WindowFileError("the file uses dictionary encoding, which a window file must not")
    if decoded > _MAX_DECODED_BYTES:
        raise WindowFileError(f"the file decodes to {decoded} bytes, the limit is {_MAX_DECODED_BYTES}")


def _header(metadata: dict[bytes, bytes]) -> tuple[WindowHeader, Signature]:
    raw, signature = metadata.get(HEADER_KEY, b""), metadata.get(SIGNATURE_KEY, b"")
    if not 0 < len(raw) <= MAX_HEADER_BYTES:
        raise WindowFileError(f"the header has {len(raw)} bytes; 1 to {MAX_HEADER_BYTES} are allowed")
    if len(signature) != 64:
        raise WindowFileError(f"the header's signature has {len(signature)} bytes, not 64")
    try:
        header = WindowHeader.from_canonical(raw)
    except ValueError as error:
        raise WindowFileError(f"the header does not parse: {_first_line(error)}") from error
    return header, Signature(signature)


def _columns(table: pa.Table) -> RolloutColumns:
    def fixed(name: str) -> npt.NDArray[Any]:
        return np.asarray(table.column(name).to_numpy(zero_copy_only=False))

    tokens = _binary(table, "tokens", np.int32, _MAX_TOKENS * 4)
    logprobs = _binary(table, "logprobs", np.float32, MAX_NEW_TOKENS_PROTOCOL_CAP * 4)
    sketches = _binary(table, "sketches", np.uint8, _MAX_SKETCH_BYTES)
    return RolloutColumns(
        group=fixed("g"),
        rollout=fixed("r"),
        prompt_length=fixed("prompt_length"),
        reward=fixed("reward"),
        success=fixed("success").astype(np.bool_),
        tokens=tokens,
        logprobs=logprobs,
        sketches=sketches,
    )


def _binary(table: pa.Table, name: str, dtype: type[Number], most: int) -> BinaryColumn[Number]:
    """A binary column as numbers, without a copy of the values where Arrow holds them in one chunk.

    The file's numbers are little-endian, as those of every machine this runs on.
    """
    array = table.column(name).combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    _, offsets_buffer, values_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, "<i4", len(array) + 1, array.offset * 4).astype(np.int64)
    lengths = np.diff(offsets)
    size = np.dtype(dtype).itemsize
    if len(lengths) and (lengths.max() > most or (lengths % size).any()):
        raise WindowFileError(f"column {name}: a value's length is no multiple of {size} bytes or exceeds {most} bytes")
    raw = np.frombuffer(values_buffer, "u1") if values_buffer is not None else np.empty(0, "u1")
    raw = raw[offsets[0] : offsets[-1]]
    return BinaryColumn(np.ascontiguousarray(raw).view(dtype), (offsets - offsets[0]) // size)


def _little_endian(values: npt.NDArray[np.generic], dtype: str) -> bytes:
    return np.ascontiguousarray(values).astype(dtype, copy=False).tobytes()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


__all__ = [
    "BinaryColumn",
    "RolloutColumns",
    "WindowFile",
    "WindowFileError",
    "read_window_file",
    "write_window_file",
]
