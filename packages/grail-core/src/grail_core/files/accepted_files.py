"""What a validator hands to the trainer: the accepted window files themselves, byte for byte.

The trainer runs the same checks on the same bytes, so a rollout it trains on is bound to its miner's signature and needs no
trust in the validator that passed it on. One Parquet row a file, with the rollouts that were sampled; every other rollout of
the file is covered by the sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grail_core.errors import ProtocolViolationError
from grail_core.files.parquet_columns import ColumnPieces
from grail_core.files.parquet_footer import UNCOMPRESSED, Column, FileForm, Physical
from grail_core.files.parquet_reader import read_pieces
from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.types import Digest, Hotkey

_MAX_FILES = 256
_MOST = 2 << 30

COLUMNS = (
    Column("hotkey", Physical.FIXED, most=32),
    Column("content_digest", Physical.FIXED, most=32),
    Column("file", Physical.BYTES, most=MAX_FILE_BYTES),
    Column("sampled", Physical.BYTES, most=8 * 128, item=8),
)
FORM = FileForm(
    columns=COLUMNS,
    metadata=(),
    max_file_bytes=_MOST,
    least_rows=0,
    max_rows=_MAX_FILES,
    max_decoded_bytes_per_row=MAX_FILE_BYTES + 4096,
    max_decoded_bytes=_MOST,
    max_page_bytes=2 * MAX_FILE_BYTES,
    codecs=(UNCOMPRESSED,),  # what is in memory was on the wire
)


@dataclass(frozen=True)
class AcceptedFile:
    """`data` is the window file; its SHA-256 is `content_digest`. `sampled` lists (group, rollout) in the order checked."""

    hotkey: Hotkey
    content_digest: Digest
    data: bytes
    sampled: tuple[tuple[int, int], ...]


def write_accepted_files(files: Sequence[AcceptedFile]) -> bytes:
    """Uncompressed: window files are compressed already."""
    values: dict[str, Values] = {
        "hotkey": [bytes(file.hotkey) for file in files],
        "content_digest": [bytes(file.content_digest) for file in files],
        "file": [file.data for file in files],
        "sampled": [_pack(file.sampled) for file in files],
    }
    return write_parquet(COLUMNS, values, {}, compressed=False)


def read_accepted_files(data: bytes) -> list[AcceptedFile]:
    """Parse; every file's bytes are hashed.

    Raises:
        ProtocolViolationError: not such a Parquet file, or bytes that are not those of their digest.
    """
    output = bytearray()
    table = read_pieces(memoryview(data), FORM, output.extend)
    pieces = ColumnPieces(table, COLUMNS, output)
    hotkeys, digests = pieces.fixed("hotkey", np.uint8), pieces.fixed("content_digest", np.uint8)
    contents, sampled = pieces.varying("file", np.uint8), pieces.varying("sampled", np.uint8)
    files = [
        AcceptedFile(
            Hotkey(hotkeys[row].tobytes()),
            Digest(digests[row].tobytes()),
            contents[row].tobytes(),
            _unpack(sampled[row].tobytes()),
        )
        for row in range(table.rows)
    ]
    for file in files:
        if len(file.data) > MAX_FILE_BYTES or hashlib.sha256(file.data).digest() != file.content_digest:
            raise ProtocolViolationError("an accepted file is not the one its digest names", where=file.hotkey.hex())
    return files


def _pack(rows: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(group.to_bytes(4, "little") + rollout.to_bytes(4, "little") for group, rollout in rows)


def _unpack(raw: bytes) -> tuple[tuple[int, int], ...]:
    return tuple(
        (int.from_bytes(raw[at : at + 4], "little"), int.from_bytes(raw[at + 4 : at + 8], "little"))
        for at in range(0, len(raw), 8)
    )
