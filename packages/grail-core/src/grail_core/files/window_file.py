"""The window file: what a miner uploads for one window (section 8 of the protocol).

Parquet, one row per rollout, sorted by (group, rollout); the signed header travels in the schema metadata. Bytes from
outside become typed columns here and nowhere else, by our own strict reader (`parquet_reader`); roles let a confined child run
it (`confined.opening`), with the same result. Variable-length columns are one binary value a row (little-endian numbers), not
nested lists. Signatures, Merkle roots and meaning are the checks' business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from grail_core.errors import ProtocolViolationError
from grail_core.files.parquet_columns import BinaryColumn, Buffer, ColumnPieces
from grail_core.files.parquet_footer import Column, FileForm, Physical, read_footer
from grail_core.files.parquet_reader import PieceTable, read_whole
from grail_core.files.parquet_thrift import RefusedParquetError
from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.protocol.constants import (
    MAX_FILE_BYTES,
    MAX_FILE_ROWS,
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    SKETCH_BYTES_PER_POSITION,
)
from grail_core.protocol.rollouts.records import MAX_HEADER_BYTES, RolloutBytes, RolloutRecord, WindowHeader
from grail_core.protocol.types import Signature

HEADER_KEY = b"grail.header"
SIGNATURE_KEY = b"grail.signature"
MAX_DECODED_BYTES_PER_ROW = 160 * 1024
"""The longest rollout there can be has 145 KiB: 12,288 token ids, 8,192 log-probabilities, 8,193 sketches."""

COLUMNS = (
    Column("g", Physical.INT32),
    Column("r", Physical.INT32),
    Column("tokens", Physical.BYTES, most=4 * (MAX_PROMPT_TOKENS + MAX_NEW_TOKENS_PROTOCOL_CAP), item=4),
    Column("prompt_length", Physical.INT32),
    Column("logprobs", Physical.BYTES, most=4 * MAX_NEW_TOKENS_PROTOCOL_CAP, item=4),
    Column("sketches", Physical.BYTES, most=SKETCH_BYTES_PER_POSITION * (MAX_NEW_TOKENS_PROTOCOL_CAP + 1)),
    Column("reward", Physical.DOUBLE),
    Column("success", Physical.BOOLEAN),
)
FORM = FileForm(
    columns=COLUMNS,
    metadata=(HEADER_KEY, SIGNATURE_KEY),
    max_file_bytes=MAX_FILE_BYTES,
    least_rows=1,
    max_rows=MAX_FILE_ROWS,
    max_decoded_bytes_per_row=MAX_DECODED_BYTES_PER_ROW,
    max_decoded_bytes=MAX_DECODED_BYTES_PER_ROW * MAX_FILE_ROWS,
    max_page_bytes=72 << 20,  # Arrow's writer looks at a page's size every 1,024 values: 64 MiB of the longest sketches
)


class WindowFileError(ProtocolViolationError):
    """The bytes are not a window file, or exceed a limit."""


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

    @property
    def raw_tokens(self) -> memoryview:
        """All token ids as little-endian int32: row i's end at byte 4 · `tokens.offsets[i + 1]`."""
        return _raw(self.tokens.values)

    def prompt_bytes(self) -> list[bytes]:
        """Each row's prompt as little-endian int32. Equal bytes are equal prompts."""
        tokens, starts = _raw(self.tokens.values), (4 * self.tokens.offsets[:-1]).tolist()
        sizes = (4 * self.prompt_length.astype(np.int64)).tolist()
        return [bytes(tokens[start : start + size]) for start, size in zip(starts, sizes, strict=True)]

    @property
    def raw(self) -> RolloutBytes:
        """The same rows as their canonical bytes."""
        return RolloutBytes(
            groups=self.group.tolist(),
            rollouts=self.rollout.tolist(),
            prompt_lengths=self.prompt_length.tolist(),
            rewards=self.reward.tolist(),
            successes=self.success.tolist(),
            tokens=_raw(self.tokens.values),
            token_ends=(4 * self.tokens.offsets[1:]).tolist(),
            logprobs=_raw(self.logprobs.values),
            logprob_ends=(4 * self.logprobs.offsets[1:]).tolist(),
            sketches=_raw(self.sketches.values),
            sketch_ends=self.sketches.offsets[1:].tolist(),
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
    values: dict[str, Values] = {
        "g": np.array([row.group for row in rows], np.int32),
        "r": np.array([row.rollout for row in rows], np.int32),
        "tokens": [_little_endian(row.tokens, "<i4") for row in rows],
        "prompt_length": np.array([row.prompt_length for row in rows], np.int32),
        "logprobs": [_little_endian(row.logprobs, "<f4") for row in rows],
        "sketches": [row.sketches for row in rows],
        "reward": np.array([row.reward for row in rows], np.float64),
        "success": np.array([row.success for row in rows], np.bool_),
    }
    metadata = {HEADER_KEY: header.canonical(), SIGNATURE_KEY: bytes(signature)}
    return write_parquet(COLUMNS, values, metadata)


def header_of(data: bytes) -> WindowHeader:
    """The header in a window file of one's own; for others' files there is `read_window_file`, whose errors it has."""
    try:
        header, _ = _header(read_footer(memoryview(data), FORM).metadata)
    except RefusedParquetError as error:
        raise WindowFileError(error.what) from error
    return header


def read_window_file(data: bytes) -> WindowFile:
    """Parse a window file in this process. A role opens a stranger's file through `confined.opening.Confined` instead.

    Raises:
        WindowFileError: not Parquet, not the columns, header missing or malformed, or a limit exceeded.
    """
    try:
        table, output = read_whole(memoryview(data), FORM)
    except RefusedParquetError as error:
        raise WindowFileError(error.what) from error
    return window_file_of(table, output)


def form_of(rows: int | None = None) -> FileForm:
    """What a window file may be; of exactly `rows` rows where somebody has sealed how many there are."""
    return FORM if rows is None else dataclasses.replace(FORM, least_rows=rows, max_rows=min(rows, MAX_FILE_ROWS))


def window_file_of(table: PieceTable, output: Buffer) -> WindowFile:
    """The window file whose pieces lie in `output`, as views of it.

    Raises:
        WindowFileError: header or signature missing or malformed.
        ValueError: the pieces do not fit together (our reader's fault, or a child's that was taken over).
    """
    header, signature = _header(table.metadata)
    pieces = ColumnPieces(table, COLUMNS, output)
    return WindowFile(
        header,
        signature,
        RolloutColumns(
            group=pieces.fixed("g", np.int32),
            rollout=pieces.fixed("r", np.int32),
            prompt_length=pieces.fixed("prompt_length", np.int32),
            reward=pieces.fixed("reward", np.float64),
            success=pieces.fixed("success", np.uint8) != 0,
            tokens=pieces.varying("tokens", np.int32),
            logprobs=pieces.varying("logprobs", np.float32),
            sketches=pieces.varying("sketches", np.uint8),
        ),
    )


def _header(metadata: Mapping[bytes, bytes]) -> tuple[WindowHeader, Signature]:
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


def _little_endian(values: npt.NDArray[np.generic], dtype: str) -> memoryview:
    """The numbers' bytes, where they lie."""
    return _raw(np.ascontiguousarray(values).astype(dtype, copy=False))


def _raw(values: npt.NDArray[Any]) -> memoryview:
    return values.view(np.uint8).data


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


__all__ = [
    "BinaryColumn",
    "RolloutColumns",
    "WindowFile",
    "WindowFileError",
    "form_of",
    "header_of",
    "read_window_file",
    "window_file_of",
    "write_window_file",
]
