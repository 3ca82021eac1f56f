"""Window files that no honest writer makes, each by its name: columns that are no sketches, second readings, wished headers.

Every function starts from the bytes of an honest file and changes one thing. Where header and rows stay as they were, so does
the signature: what is changed is then only the container.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grail_core.files.window_file import HEADER_KEY, SIGNATURE_KEY, read_window_file, write_window_file
from grail_core.protocol import RolloutRecord, header_digest
from grail_core.protocol.constants import SKETCH_BYTES_PER_POSITION
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest, Hotkey


def without_sketches(data: bytes) -> dict[str, bytes]:
    """The sketch column too short, too long, of another type, with a reserved value, or not there."""
    table = _table(data)
    honest: list[bytes] = table.column("sketches").to_pylist()
    reserved = [np.full(len(one) // 2, -32768, "<i2").tobytes() for one in honest]
    step = SKETCH_BYTES_PER_POSITION
    columns = {
        "one byte short": pa.array([one[:-1] for one in honest], pa.binary()),
        "one position short": pa.array([one[:-step] for one in honest], pa.binary()),
        "one position too many": pa.array([one + bytes(step) for one in honest], pa.binary()),
        "one dimension a position": pa.array([one[: len(one) // 4] for one in honest], pa.binary()),
        "missing in one row": pa.array([b"", *honest[1:]], pa.binary()),
        "missing in all rows": pa.array([b""] * len(honest), pa.binary()),
        "reserved value": pa.array(reserved, pa.binary()),
        "reserved value once": pa.array([reserved[0][:2] + honest[0][2:], *honest[1:]], pa.binary()),
        "null": pa.array([None, *honest[1:]], pa.binary()),
        "a number": pa.array([0.0] * len(honest), pa.float64()),
        "a list of numbers": pa.array([[0] * 8] * len(honest), pa.list_(pa.int16())),
        "text": pa.array(["0"] * len(honest), pa.string()),
    }
    place = table.schema.get_field_index("sketches")
    files = {}
    for name, column in columns.items():
        kind = pa.field("sketches", column.type, nullable=column.null_count > 0)
        files[name] = _parquet(table.set_column(place, kind, column))
    return files | {"no such column": _parquet(table.drop_columns(["sketches"]))}


def with_a_second_reading(data: bytes) -> dict[str, bytes]:
    """Another column of tokens beside the first, another order of columns, or another row's tokens."""
    table = _table(data)
    tokens = table.column("tokens")
    files = {
        f"second column {name}": _parquet(table.append_column(pa.field(name, tokens.type), tokens))
        for name in ("scored_tokens", "text", "tokens")
    }
    files["columns in another order"] = _parquet(table.select(table.column_names[::-1]))
    values, place = tokens.to_pylist(), table.schema.get_field_index("tokens")
    rotated = pa.array([*values[1:], values[0]], pa.binary())
    files["tokens of another row"] = _parquet(table.set_column(place, table.schema.field("tokens"), rotated))
    return files


def with_a_wished_header(
    data: bytes, rows: Sequence[RolloutRecord], network_id: Digest, signer: Signer, other: Hotkey
) -> dict[str, bytes]:
    """Everything a miner could wish to choose of the window's randomness, said in the header and signed by `signer`.

    Args:
        rows: of the file `data`. other: somebody else's hotkey.
    """
    header = read_window_file(data).header
    own = Digest(b"\x5a" * 32)
    wishes: dict[str, dict[str, Any]] = {
        "block hash": {"block_hash": own},
        "beacon round": {"beacon_round": header.beacon_round + 1},
        "beacon signature": {"beacon_signature": bytes(48)},
        "no beacon": {"beacon_round": 0, "beacon_signature": None},
        "checkpoint": {"checkpoint_digest": own},
        "environment": {"env_digest": own},
        "sampling policy": {"policy_digest": own},
        "window": {"window": header.window + 30},
        "another hotkey": {"hotkey": other},
    }
    files = {}
    for name, fields in wishes.items():
        wished = dataclasses.replace(header, **fields)
        files[f"own {name}"] = write_window_file(wished, signer.sign(header_digest(network_id, wished)), rows)
    return files


def _table(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def _parquet(table: pa.Table) -> bytes:
    """As the window file is written, header and signature kept."""
    sink = io.BytesIO()
    metadata = {key: table.schema.metadata[key] for key in (HEADER_KEY, SIGNATURE_KEY)}
    pq.write_table(
        table.replace_schema_metadata(metadata), sink, compression="zstd", use_dictionary=False, write_statistics=False
    )
    return sink.getvalue()
