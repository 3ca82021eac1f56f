"""The window file comes back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.files.window_file import HEADER_KEY, SCHEMA, SIGNATURE_KEY, WindowFileError, read_window_file, write_window_file
from grail_core.protocol import RolloutRecord, WindowHeader, rollout_digests
from grail_core.protocol.types import Digest, Hotkey, Signature, Window

NETWORK = bytes(range(32))


def make_rows(seed: int, groups: int = 1, longest: int = 9) -> list[RolloutRecord]:
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(groups):
        for rollout in range(16):
            prompt, completion = 3, int(rng.integers(1, longest + 1))
            rows.append(
                RolloutRecord(
                    group=group,
                    rollout=rollout,
                    tokens=rng.integers(0, 50_000, prompt + completion).astype(np.int32),
                    prompt_length=prompt,
                    logprobs=-rng.random(completion).astype(np.float32) - np.float32(0.01),
                    sketches=rng.integers(-32767, 32768, 4 * (completion + 1)).astype("<i2").tobytes(),
                    reward=float(rng.random()),
                    success=bool(rng.integers(2)),
                )
            )
    return rows


def make_header(groups: int = 1) -> WindowHeader:
    return WindowHeader(
        protocol_version=1,
        window=Window(60),
        block_hash=b"\1" * 32,
        beacon_round=7,
        beacon_signature=b"\2" * 48,
        hotkey=Hotkey(b"\3" * 32),
        checkpoint_digest=Digest(b"\4" * 32),
        env_digest=Digest(b"\5" * 32),
        policy_digest=Digest(b"\6" * 32),
        groups=groups,
        gaps=0,
        declared=16 * groups,
        merkle_root=Digest(b"\7" * 32),
        numerics_class="bf16-sdpa-cpu-transformers",
        software={"grail-core": "0.1.0"},
    )


SIGNATURE = Signature(b"\x08" * 64)


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 4), longest=st.integers(1, 40))
@settings(max_examples=40)
def test_rows_come_back_byte_for_byte(seed: int, groups: int, longest: int) -> None:
    rows = make_rows(seed, groups, longest)
    file = read_window_file(write_window_file(make_header(groups), SIGNATURE, rows))
    assert file.header == make_header(groups)
    assert file.signature == SIGNATURE
    assert rollout_digests(NETWORK, list(file.table.records())) == rollout_digests(NETWORK, rows)


def test_any_truncation_is_refused_with_a_clear_error() -> None:
    data = write_window_file(make_header(), SIGNATURE, make_rows(1))
    for length in range(0, len(data), 37):
        with pytest.raises(WindowFileError):
            read_window_file(data[:length])


@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
@settings(max_examples=150)
def test_a_flipped_byte_is_refused_or_parses_never_crashes(position: float, value: int) -> None:
    rows = make_rows(2)
    data = bytearray(write_window_file(make_header(), SIGNATURE, rows))
    data[int(position * len(data))] ^= value
    try:
        file = read_window_file(bytes(data))
        read_back = list(file.table.records())
    except (WindowFileError, ValueError):
        return
    assert len(read_back) == len(rows)
    assert len(file.signature) == 64


def _parquet(columns: dict[str, pa.Array], schema: pa.Schema, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink, **options)
    return sink.getvalue()


def _columns(rows: int, token_bytes: bytes) -> dict[str, pa.Array]:
    return {
        "g": pa.array([0] * rows, pa.int32()),
        "r": pa.array(range(rows), pa.int32()),
        "tokens": pa.array([token_bytes] * rows, pa.binary()),
        "prompt_length": pa.array([1] * rows, pa.int32()),
        "logprobs": pa.array([bytes(4)] * rows, pa.binary()),
        "sketches": pa.array([bytes(16)] * rows, pa.binary()),
        "reward": pa.array([0.0] * rows, pa.float64()),
        "success": pa.array([False] * rows, pa.bool_()),
    }


def _metadata() -> dict[bytes, bytes]:
    return {HEADER_KEY: make_header().canonical(), SIGNATURE_KEY: bytes(SIGNATURE)}


def test_dictionary_encoding_is_refused_before_decoding() -> None:
    data = _parquet(_columns(16, bytes(8)), SCHEMA.with_metadata(_metadata()), use_dictionary=True)
    with pytest.raises(WindowFileError, match="dictionary"):
        read_window_file(data)


def test_a_bomb_is_refused_by_its_metadata() -> None:
    columns = _columns(16, bytes(48 * 2**20))  # 768 MiB of zeros
    data = _parquet(columns, SCHEMA.with_metadata(_metadata()), use_dictionary=False, compression="zstd")
    assert len(data) < 2**20
    with pytest.raises(WindowFileError, match="decodes to"):
        read_window_file(data)


@pytest.mark.parametrize("rows", [0, 20_001])
def test_row_counts_outside_the_limit_are_refused(rows: int) -> None:
    columns = _columns(rows, bytes(8))
    with pytest.raises(WindowFileError, match="rows"):
        read_window_file(_parquet(columns, SCHEMA.with_metadata(_metadata()), use_dictionary=False))


def test_other_columns_are_refused() -> None:
    data = _parquet({"g": pa.array([1], pa.int32())}, pa.schema([("g", pa.int32())]))
    with pytest.raises(WindowFileError, match="columns"):
        read_window_file(data)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({SIGNATURE_KEY: bytes(64)}, "header has 0 bytes"),
        ({HEADER_KEY: b"{}", SIGNATURE_KEY: bytes(64)}, "does not parse"),
        ({HEADER_KEY: b"x" * 20_000, SIGNATURE_KEY: bytes(64)}, "header has 20000 bytes"),
        ({HEADER_KEY: make_header().canonical()}, "signature has 0 bytes"),
    ],
)
def test_a_missing_or_malformed_header_is_refused(metadata: dict[bytes, bytes], message: str) -> None:
    data = _parquet(_columns(16, bytes(8)), SCHEMA.with_metadata(metadata), use_dictionary=False)
    with pytest.raises(WindowFileError, match=message):
        read_window_file(data)


def test_a_value_of_odd_length_is_refused() -> None:
    data = _parquet(_columns(16, bytes(7)), SCHEMA.with_metadata(_metadata()), use_dictionary=False)
    with pytest.raises(WindowFileError, match="no multiple of 4"):
        read_window_file(data)
