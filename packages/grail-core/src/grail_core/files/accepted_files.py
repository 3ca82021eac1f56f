"""What a validator hands to the trainer: the accepted window files themselves, byte for byte.

The trainer runs the same checks on the same bytes, so a rollout it trains on is bound to its miner's signature and needs no
trust in the validator that passed it on. One Parquet row a file, with the rollouts that were sampled; every other rollout of
the file is covered by the sample.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from grail_core.errors import ProtocolViolationError
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.types import Digest, Hotkey

_SCHEMA = pa.schema(
    [
        pa.field("hotkey", pa.binary(32), nullable=False),
        pa.field("content_digest", pa.binary(32), nullable=False),
        pa.field("file", pa.large_binary(), nullable=False),
        pa.field("sampled", pa.binary(), nullable=False),
    ]
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
    columns = [
        pa.array([bytes(f.hotkey) for f in files], pa.binary(32)),
        pa.array([bytes(f.content_digest) for f in files], pa.binary(32)),
        pa.array([f.data for f in files], pa.large_binary()),
        pa.array([_pack(f.sampled) for f in files], pa.binary()),
    ]
    sink = io.BytesIO()
    table = pa.Table.from_arrays(columns, schema=_SCHEMA)
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


def read_accepted_files(data: bytes) -> list[AcceptedFile]:
    """Parse; every file's bytes are hashed.

    Raises:
        ProtocolViolationError: not such a Parquet file, or bytes that are not those of their digest.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
        if not table.schema.remove_metadata().equals(_SCHEMA):
            raise ValueError("columns differ")
        files = [
            AcceptedFile(Hotkey(row["hotkey"]), Digest(row["content_digest"]), row["file"], _unpack(row["sampled"]))
            for row in table.to_pylist()
        ]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ProtocolViolationError(f"the bytes hold no accepted files: {error}") from error
    for file in files:
        if len(file.data) > MAX_FILE_BYTES or hashlib.sha256(file.data).digest() != file.content_digest:
            raise ProtocolViolationError("an accepted file is not the one its digest names", where=file.hotkey.hex())
    return files


def _pack(rows: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(group.to_bytes(4, "little") + rollout.to_bytes(4, "little") for group, rollout in rows)


def _unpack(raw: bytes) -> tuple[tuple[int, int], ...]:
    if len(raw) % 8:
        raise ValueError("sampled rows are 8 bytes each")
    return tuple(
        (int.from_bytes(raw[at : at + 4], "little"), int.from_bytes(raw[at + 4 : at + 8], "little"))
        for at in range(0, len(raw), 8)
    )
