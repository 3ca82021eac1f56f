"""Shards of an export: other libraries read them, the same rows give the same bytes, what else lies there is refused."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grail_core.errors import ProtocolViolationError, StorageError
from grail_core.exported.rows import COLUMNS, Row, row_of
from grail_core.exported.shards import Encoding, encode_shard, read_shard
from grail_core.exported.table_form import ROWS_OF_A_GROUP

ENCODINGS: tuple[Encoding, ...] = ("parquet", "jsonl")


def row(number: int, length: int = 5) -> Row:
    drawn = np.random.default_rng(number)
    return Row(
        window=30,
        hotkey="5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty",
        group=number // 16,
        rollout=number % 16,
        group_id=f"30/5F/{number // 16}",
        checkpoint="c" * 64,
        environment="sat",
        prompt="<|user|> ¿x₁? 日本\n" * (1 + number % 3),
        completion="" if number % 7 == 0 else 'x1=0 😀 \t\\ "',
        prompt_ids=drawn.integers(0, 2**31 - 1, 1 + number % 9, dtype=np.int32),
        completion_ids=drawn.integers(0, 50_000, length, dtype=np.int32),
        logprobs=-drawn.random(length, dtype=np.float32) * np.float32(1e-3),
        reward=float(drawn.random()),
        success=number % 2 == 0,
        truncated=number % 3 == 0,
        sampled=number % 5 == 0,
        rollout_digest=f"{number:064x}",
        content_digest="d" * 64,
    )


ROWS = [row(number, 1 + number % 40) for number in range(2 * ROWS_OF_A_GROUP + 3)]


def written(path: Path, rows: list[Row], encoding: Encoding) -> Path:
    path.write_bytes(b"".join(encode_shard(rows, encoding)))
    return path


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    return [one.to_json() for one in rows]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("count", [1, ROWS_OF_A_GROUP, len(ROWS)])
def test_what_is_written_is_read_and_written_again_to_the_same_bytes(encoding: Encoding, count: int, tmp_path: Path) -> None:
    path = written(tmp_path / "shard", ROWS[:count], encoding)
    found = list(read_shard(path, encoding, rows=count))
    assert as_json(found) == as_json(ROWS[:count])
    assert b"".join(encode_shard(found, encoding)) == path.read_bytes()


def test_another_library_reads_lists_texts_and_numbers_as_they_are(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "a.parquet", ROWS, "parquet"))
    assert table.column_names == list(COLUMNS)
    assert (table.schema.field("completion_ids").type.value_type, table.schema.field("prompt").type) == (
        pa.int32(),
        pa.string(),
    )
    for mine, theirs in zip(ROWS, table.to_pylist(), strict=True):
        assert {name: mine.to_json()[name] for name in COLUMNS if name != "logprobs"} == {
            name: value for name, value in theirs.items() if name != "logprobs"
        }
        assert np.array_equal(np.array(theirs["logprobs"], np.float32), mine.logprobs)


def test_long_lists_take_several_pages_and_come_back(tmp_path: Path) -> None:
    rows = [row(number, 8192) for number in range(40)]
    path = written(tmp_path / "a.parquet", rows, "parquet")
    assert as_json(list(read_shard(path, "parquet", rows=len(rows)))) == as_json(rows)
    assert pq.read_table(path).num_rows == len(rows)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_whatever_is_changed_or_cut_is_read_or_refused_and_never_anything_else(encoding: Encoding, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", ROWS[:20], encoding).read_bytes()
    drawn, path, refused = random.Random(7), tmp_path / "changed", 0
    for number in range(120):
        raw = bytearray(whole)
        for _ in range(1 + number % 3):
            raw[drawn.randrange(len(raw))] = drawn.randrange(256)
        path.write_bytes(bytes(raw[: drawn.randrange(len(raw))] if number % 4 == 0 else raw))
        try:
            list(read_shard(path, encoding, rows=20))
        except ProtocolViolationError:
            refused += 1
    assert refused > (90 if encoding == "parquet" else 30)


def test_general_parquet_is_not_taken_however_it_was_written(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "a.parquet", ROWS[:20], "parquet"))
    sink = io.BytesIO()
    pq.write_table(table, sink)  # dictionaries, statistics, nullable columns
    (tmp_path / "b.parquet").write_bytes(sink.getvalue())
    with pytest.raises(ProtocolViolationError, match="not a shard"):
        list(read_shard(tmp_path / "b.parquet", "parquet", rows=20))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("claimed", [19, 21, 6001])
def test_another_number_of_rows_than_the_receipt_names_is_refused(encoding: Encoding, claimed: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a", ROWS[:20], encoding)
    with pytest.raises(ProtocolViolationError, match="rows"):
        list(read_shard(path, encoding, rows=claimed))


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 30)


@pytest.mark.parametrize("make", [link, os.mkfifo, large, lambda path: path.mkdir()], ids=["link", "pipe", "large", "folder"])
def test_what_is_no_file_of_this_size_is_refused_before_it_is_opened(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ProtocolViolationError):
        list(read_shard(tmp_path / "a", "jsonl", rows=1))
    with pytest.raises(StorageError):
        list(read_shard(tmp_path / "gone", "jsonl", rows=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", [float("nan")] * 5),
        ("logprobs", [0.0] * 4),
        ("logprobs", [1e39] * 5),
        ("completion_ids", [-1, 0, 0, 0, 0]),
        ("completion_ids", [True, 0, 0, 0, 0]),
        ("completion_ids", []),
        ("prompt_ids", [0] * 5000),
        ("reward", "1"),
        ("success", 1),
        ("rollout", 16),
        ("hotkey", ""),
        ("prompt", None),
        ("prompt", "a\ud800b"),
    ],
)
def test_a_row_that_no_rollout_can_be_is_refused_with_its_column(name: str, value: object) -> None:
    good = row(3).to_json()
    assert row_of(good).to_json() == good
    with pytest.raises(ValueError, match=name):
        row_of({**good, name: value})


def test_a_line_that_is_longer_than_any_row_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"prompt":"' + b"a" * (9 << 20))
    with pytest.raises(ProtocolViolationError, match="a line of more than"):
        list(read_shard(path, "jsonl", rows=1))
    path.write_text(json.dumps({**row(1).to_json(), "more": 1}) + "\n")
    with pytest.raises(ProtocolViolationError, match="other columns"):
        list(read_shard(path, "jsonl", rows=1))
