"""A reader's own table of receipts: it holds for one model or for its shapes, and a hostile file is refused by field."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.commands.receipt_options import read_reader_table
from grail_core.errors import ConfigurationError
from grail_core.inference.answers import ServedModel
from grail_core.proof.calibration import MAX_TABLE_BYTES, Shape
from grail_core.proof.reader_table import LEAST_CHOICES, Measured, MeasuredModel, ModelTable, ReaderTable
from grail_core.proof.receipt_bounds import (
    LengthClass,
    PairExtremes,
    ReceiptStatistics,
    ReceiptTable,
    shipped_receipt_table,
)
from grail_core.protocol.types import Digest

SDPA = "bf16-sdpa-cuda-transformers"
SHAPE = Shape(48, 5120)
CALM = ReceiptStatistics(error=0.02, own_error=0.001, margin=0.1, margin_sum=1.0, logprob=0.01)
TABLE = ReceiptTable("mine/1", "here", (PairExtremes(SDPA, SDPA, (SHAPE,), (LengthClass(64, 400, CALM),)),))
MODEL = MeasuredModel("Qwen2ForCausalLM", bytes(32), bytes(range(32)), SHAPE)
MINE = ModelTable(MODEL, Measured(160, 400, 20_000), TABLE)
SERVED = ServedModel(
    architecture="Qwen2ForCausalLM",
    config_digest=Digest(bytes(32)),
    weights_root=Digest(bytes(range(32))),
    tokenizer_digest=Digest(bytes(32)),
    chat_template_digest=Digest(bytes(32)),
    thinking_mode="none",
    end_token_ids=(2,),
    context_length=4096,
    vocabulary_size=1000,
)


def read(raw: bytes) -> ReaderTable:
    return ReaderTable.from_bytes(raw, name="mine.json")


def test_a_table_of_a_model_is_read_back_as_it_was_written() -> None:
    found = read(MINE.to_bytes())
    assert (found.model, found.table) == (MODEL, TABLE)
    assert Measured(160, 400, 20_000).rate == pytest.approx(0.0075)


def test_it_holds_for_its_weights_and_configuration_whatever_the_tokenizer_and_for_no_others() -> None:
    mine = read(MINE.to_bytes())
    assert mine.is_of(SERVED)
    assert mine.is_of(replace(SERVED, thinking_mode="native", tokenizer_digest=Digest(bytes([1]) * 32)))
    for other in ({"weights_root": bytes(32)}, {"config_digest": bytes([1]) * 32}, {"architecture": "LlamaForCausalLM"}):
        changed: Any = other
        assert not mine.is_of(replace(SERVED, **changed))


def test_a_table_of_shapes_is_of_whatever_its_shapes_cover() -> None:
    shapes = read(TABLE.to_bytes())
    assert shapes.model is None
    assert shapes.is_of(SERVED)
    assert shapes.table == TABLE


def test_the_tables_digest_is_that_of_the_file() -> None:
    assert shipped_receipt_table().digest == read(shipped_receipt_table().to_bytes()).digest
    assert read(MINE.to_bytes()).digest != read(MINE.to_bytes() + b" ").digest


def changed(*path: str | int, value: object) -> bytes:
    whole = json.loads(MINE.to_bytes())
    at = whole
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(whole).encode()


LARGEST = ("pairs", 0, "lengths", 0, "largest")
HOSTILE = {
    "not a number": (changed(*LARGEST, "error", value=float("nan")), "no valid JSON|NaN"),
    "infinite": (changed(*LARGEST, "margin", value=float("inf")), "Infinity|no valid JSON"),
    "negative": (changed(*LARGEST, "margin", value=-0.1), r"margin: -0.1 is outside"),
    "absurd": (changed(*LARGEST, "error", value=0.5), r"error: 0.5 is outside"),
    "a text": (changed(*LARGEST, "error", value="0.01"), "error: a finite number"),
    "a flag": (changed(*LARGEST, "error", value=True), "error: a finite number"),
    "an unknown member": (changed("pairs", 0, "more", value=1), r"pairs\[0\]: unknown member 'more'"),
    "an unknown statistic": (changed(*LARGEST, "luck", value=1), "unknown member 'luck'"),
    "an unknown class": (changed("pairs", 0, "miner", value="fp64"), "'fp64' is no numerics class"),
    "a pair twice": (changed("pairs", value=2 * json.loads(MINE.to_bytes())["pairs"]), "twice"),
    "a length class twice": (
        changed("pairs", 0, "lengths", value=2 * json.loads(MINE.to_bytes())["pairs"][0]["lengths"]),
        "by rising tokens",
    ),
    "another shape": (changed("pairs", 0, "shapes", value=[{"layers": 49, "hidden_size": 5120}]), "another shape"),
    "too few choices": (changed("measured", "choices", value=LEAST_CHOICES - 1), "choices: 299 is outside"),
    "a later format": (changed("format", value=3), "format: 3 is outside"),
    "no model's digest": (changed("model", "weights_root", value="0" * 63), "64 lower-case hex digits"),
    "a member twice": (MINE.to_bytes().replace(b'"format": 2', b'"format": 2, "format": 2'), "names a member twice"),
    "too large": (MINE.to_bytes() + b" " * MAX_TABLE_BYTES, "bytes, at most"),
    "too deep": (b"[" * 100_000, "nested too deeply|tokens"),
    "no object": (b"[]", "an object is expected"),
    "nothing": (b"", "no valid JSON"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_table_is_refused_by_file_and_field(kind: str) -> None:
    raw, words = HOSTILE[kind]
    with pytest.raises(ConfigurationError, match=words) as refused:
        read(raw)
    assert (refused.value.where, "grail receipts calibrate" in refused.value.hint) == ("mine.json", True)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_reader_table(path)
