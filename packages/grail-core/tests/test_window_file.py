"""The window file comes back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.files import parquet_writer
from grail_core.files.window_file import (
    HEADER_KEY,
    SIGNATURE_KEY,
    WindowFileError,
    header_of,
    read_window_file,
    write_window_file,
)
from grail_core.protocol import rollout_digests
from grail_core.protocol.constants import MAX_FILE_ROWS
from grail_core.protocol.types import Signature
from tooling.testing.window_files import SCHEMA, made_header, made_rows

NETWORK = bytes(range(32))


SIGNATURE = Signature(b"\x08" * 64)


def test_a_miner_finds_the_header_of_its_own_file() -> None:
    assert header_of(write_window_file(made_header(2), SIGNATURE, made_rows(1, groups=2))) == made_header(2)


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 4), longest=st.integers(1, 40))
@settings(max_examples=40)
def test_rows_come_back_byte_for_byte(seed: int, groups: int, longest: int) -> None:
    rows = made_rows(seed, groups, longest)
    file = read_window_file(write_window_file(made_header(groups), SIGNATURE, rows))
    assert file.header == made_header(groups)
    assert file.signature == SIGNATURE
    assert rollout_digests(NETWORK, list(file.table.records())) == rollout_digests(NETWORK, rows)


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 3), longest=st.integers(1, 30))
@settings(max_examples=20)
def test_arrow_reads_the_same_values_and_what_arrow_writes_is_read_alike(seed: int, groups: int, longest: int) -> None:
    rows = made_rows(seed, groups, longest)
    data = write_window_file(made_header(groups), SIGNATURE, rows)
    table = pq.read_table(io.BytesIO(data))
    assert table.schema.equals(SCHEMA)
    assert table.column("tokens").to_pylist() == [row.tokens.tobytes() for row in rows]
    assert table.column("success").to_pylist() == [row.success for row in rows]
    columns = {name: table.column(name) for name in table.column_names}
    written = _parquet(columns, SCHEMA.with_metadata(table.schema.metadata), row_group_size=1 + seed % 16 + 6 * groups)
    ours, arrows = read_window_file(data), read_window_file(written)
    assert ours.header == arrows.header
    assert rollout_digests(NETWORK, ours.table.records()) == rollout_digests(NETWORK, arrows.table.records())


def test_pages_of_a_few_values_are_refused_but_for_the_last_of_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page costs its header and its frame: one for every value made a file of 1.6 MB take 1.4 s to open."""
    rows = made_rows(1, groups=4, longest=40)
    assert len(write_window_file(made_header(4), SIGNATURE, rows)) > 0
    monkeypatch.setattr(parquet_writer, "PAGE_BYTES", 64)
    with pytest.raises(WindowFileError, match="at least 65536 are expected"):
        read_window_file(write_window_file(made_header(4), SIGNATURE, rows))


def test_the_same_rows_give_the_same_bytes() -> None:
    first, second = (write_window_file(made_header(), SIGNATURE, made_rows(5)) for _ in range(2))
    assert first == second


def test_any_truncation_is_refused_with_a_clear_error() -> None:
    data = write_window_file(made_header(), SIGNATURE, made_rows(1))
    for length in range(0, len(data), 37):
        with pytest.raises(WindowFileError):
            read_window_file(data[:length])


@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
@settings(max_examples=150)
def test_a_flipped_byte_is_refused_or_parses_never_crashes(position: float, value: int) -> None:
    rows = made_rows(2)
    data = bytearray(write_window_file(made_header(), SIGNATURE, rows))
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
    plain: dict[str, object] = {"use_dictionary": False, "write_statistics": False, "compression": "zstd"}
    pq.write_table(pa.table(columns, schema=schema), sink, **{**plain, **options})
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
    return {HEADER_KEY: made_header().canonical(), SIGNATURE_KEY: bytes(SIGNATURE)}


def test_dictionary_encoding_is_refused_before_decoding() -> None:
    data = _parquet(_columns(16, bytes(8)), SCHEMA.with_metadata(_metadata()), use_dictionary=True)
    with pytest.raises(WindowFileError, match="dictionary"):
        read_window_file(data)


def test_a_bomb_is_refused_by_its_metadata() -> None:
    columns = _columns(16, bytes(2**20))  # 16 MiB of zeros in 16 rows
    data = _parquet(columns, SCHEMA.with_metadata(_metadata()), use_dictionary=False)
    assert len(data) < 2**14
    with pytest.raises(WindowFileError, match="decodes to"):
        read_window_file(data)


@pytest.mark.parametrize("rows", [0, MAX_FILE_ROWS + 1])
def test_row_counts_outside_the_limit_are_refused(rows: int) -> None:
    columns = _columns(rows, bytes(8))
    with pytest.raises(WindowFileError, match="rows"):
        read_window_file(_parquet(columns, SCHEMA.with_metadata(_metadata())))


def test_other_columns_are_refused() -> None:
    data = _parquet({"g": pa.array([1], pa.int32())}, pa.schema([pa.field("g", pa.int32(), nullable=False)]))
    with pytest.raises(WindowFileError, match="columns"):
        read_window_file(data)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({SIGNATURE_KEY: bytes(64)}, "header has 0 bytes"),
        ({HEADER_KEY: b"{}", SIGNATURE_KEY: bytes(64)}, "does not parse"),
        ({HEADER_KEY: b"x" * 20_000, SIGNATURE_KEY: bytes(64)}, "header has 20000 bytes"),
        ({HEADER_KEY: made_header().canonical()}, "signature has 0 bytes"),
    ],
)
def test_a_missing_or_malformed_header_is_refused(metadata: dict[bytes, bytes], message: str) -> None:
    data = _parquet(_columns(16, bytes(8)), SCHEMA.with_metadata(metadata))
    with pytest.raises(WindowFileError, match=message):
        read_window_file(data)


def test_a_value_of_odd_length_is_refused() -> None:
    data = _parquet(_columns(16, bytes(7)), SCHEMA.with_metadata(_metadata()))
    with pytest.raises(WindowFileError, match="no multiple of 4"):
        read_window_file(data)
