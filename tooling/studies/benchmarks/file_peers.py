"""What a window file could have been written and read with, and what nothing could be faster than, on the same rollouts.

The peers are Arrow's own Parquet writer and reader, each given a table that lies ready, without a header or a limit. The
floors do one thing that every window file needs: copy the bytes, compress or decompress them, hash them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from grail_core.protocol import RolloutRecord


@dataclass(frozen=True)
class Peer:
    """Another form of the same file: `write` gives its bytes, `read` takes them apart."""

    name: str
    write: Callable[[], bytes]
    read: Callable[[bytes], object]


def arrow_peers(rollouts: Sequence[RolloutRecord]) -> list[Peer]:
    """Nested lists, and one binary value a row; zstd-1 without a dictionary, one thread."""
    sketches = [record.sketch_values().reshape(-1) for record in rollouts]
    forms = {
        "nested_lists": {
            "tokens": pa.array([record.tokens for record in rollouts], pa.list_(pa.int32())),
            "logprobs": pa.array([record.logprobs for record in rollouts], pa.list_(pa.float32())),
            "sketches": pa.array(sketches, pa.list_(pa.int16())),
        },
        "binary_rows": {
            "tokens": pa.array([record.tokens.tobytes() for record in rollouts], pa.binary()),
            "logprobs": pa.array([record.logprobs.tobytes() for record in rollouts], pa.binary()),
            "sketches": pa.array([bytes(record.sketches) for record in rollouts], pa.binary()),
        },
    }
    plain = {
        "g": pa.array([record.group for record in rollouts], pa.int32()),
        "r": pa.array([record.rollout for record in rollouts], pa.int32()),
        "prompt_length": pa.array([record.prompt_length for record in rollouts], pa.int32()),
        "reward": pa.array([record.reward for record in rollouts], pa.float64()),
        "success": pa.array([record.success for record in rollouts], pa.bool_()),
    }
    tables = {name: pa.table(plain | columns) for name, columns in forms.items()}

    def writing(table: pa.Table) -> Callable[[], bytes]:
        def write() -> bytes:
            sink = io.BytesIO()
            pq.write_table(table, sink, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=False)
            return sink.getvalue()

        return write

    def read(data: bytes) -> object:
        return pq.read_table(io.BytesIO(data), use_threads=False)

    return [Peer(name, writing(table), read) for name, table in tables.items()]


def compressed(pages: Sequence[bytes]) -> list[bytes]:
    """The same pages by zstd-1 and nothing else."""
    compressor = zstandard.ZstdCompressor(level=1)
    return [compressor.compress(page) for page in pages]


def decompressed(frames: Sequence[bytes]) -> list[bytes]:
    decompressor = zstandard.ZstdDecompressor()
    return [decompressor.decompress(frame) for frame in frames]


def hashed(pages: Sequence[bytes]) -> bytes:
    """SHA-256 over all of it, in as few calls as there are pages."""
    state = hashlib.sha256()
    for page in pages:
        state.update(page)
    return state.digest()


def pages_of(rollouts: Sequence[RolloutRecord], size: int = 1 << 20) -> list[bytes]:
    """Tokens, log-probabilities and sketches of all rollouts, column by column, in pages of `size` bytes."""
    columns = (
        b"".join(record.tokens.tobytes() for record in rollouts),
        b"".join(record.logprobs.tobytes() for record in rollouts),
        b"".join(bytes(record.sketches) for record in rollouts),
    )
    return [column[at : at + size] for column in columns for at in range(0, len(column), size)]
