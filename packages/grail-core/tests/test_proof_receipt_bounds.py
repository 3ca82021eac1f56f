"""Bounds of single receipts: nothing that is no number passes, and a table says nothing of what it was not made from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grail_core.errors import ConfigurationError
from grail_core.proof.calibration import Shape
from grail_core.proof.receipt_bounds import (
    FACTOR,
    LEAST,
    STATISTICS,
    LengthClass,
    PairExtremes,
    ReceiptStatistics,
    ReceiptTable,
    receipt_statistics,
    shipped_receipt_table,
)
from grail_core.protocol.constants import MARGIN_CLIP, POSITION_ERROR_WINSOR

SDPA, EAGER = "bf16-sdpa-cpu-transformers", "bf16-eager-cpu-transformers"
CALM = ReceiptStatistics(error=0.02, own_error=0.001, margin=0.1, margin_sum=1.0, logprob=0.01)
TABLE = ReceiptTable(
    "t/1",
    "here",
    (
        PairExtremes(SDPA, SDPA, (Shape(4, 128),), (LengthClass(8, 10, CALM), LengthClass(64, 10, CALM))),
        PairExtremes(EAGER, SDPA, (Shape(4, 128),), (LengthClass(8, 10, replace(CALM, margin=0.2)),)),
    ),
)


CALIBRATED = Shape(4, 128)


def bounds(shape: Shape = CALIBRATED, length: int = 8, **changed: Any) -> ReceiptStatistics | None:
    asked: dict[str, Any] = {"proof_class": SDPA, "generation_class": SDPA, "measured_in": SDPA, "looked_at": length} | changed
    return TABLE.bounds(shape=shape, length=length, **asked)


def statistics(**changed: Any) -> ReceiptStatistics:
    given: dict[str, Any] = {
        "errors": np.zeros((40, 4), np.float32),
        "completion_length": 8,
        "margins": np.zeros(8),
        "logprob_errors": np.zeros(8, np.float32),
    }
    return receipt_statistics(**(given | changed))


def test_a_bound_is_twice_the_largest_honest_value_and_never_below_its_floor() -> None:
    found = bounds()
    assert found is not None
    for name in STATISTICS:
        assert getattr(found, name) == max(LEAST[name], FACTOR * getattr(CALM, name))


@pytest.mark.parametrize("shape", [Shape(5, 128), Shape(4, 129)])
def test_of_a_larger_model_the_table_says_nothing(shape: Shape) -> None:
    assert bounds(shape) is None


@pytest.mark.parametrize("role", ["proof_class", "generation_class", "measured_in"])
def test_of_a_class_that_nobody_measured_the_table_says_nothing(role: str) -> None:
    unknown: Any = {role: "bf16-sdpa-cuda-transformers"}
    assert bounds(**unknown) is None


def test_who_proved_gives_the_bounds_of_sketches_and_who_drew_those_of_draws() -> None:
    found = bounds(generation_class=EAGER)
    assert found is not None
    assert (found.margin, found.error) == (0.4, 0.04)


def test_beyond_the_longest_class_only_the_sum_of_margins_grows_with_the_draws_looked_at() -> None:
    longest, beyond = bounds(length=64), bounds(length=640, looked_at=256)
    assert longest is not None
    assert beyond == replace(longest, margin_sum=4 * longest.margin_sum)


def test_what_is_no_number_counts_as_the_worst_value() -> None:
    errors = np.zeros((40, 4), np.float32)
    errors[-8:] = np.nan
    assert statistics(errors=errors).own_error == pytest.approx(POSITION_ERROR_WINSOR)
    for margin in (np.nan, np.inf, -1.0, MARGIN_CLIP + 1):
        assert statistics(margins=np.array([margin] + 7 * [0.0])).margin == MARGIN_CLIP
    assert statistics(logprob_errors=np.array([np.nan] * 8, np.float32)).logprob == np.inf


def test_a_value_that_is_no_number_exceeds_every_bound() -> None:
    worst = ReceiptStatistics(*[float("nan")] * len(STATISTICS))
    assert worst.exceeding(CALM) == list(STATISTICS)


def test_a_completion_of_few_tokens_has_no_error_of_its_own_but_is_part_of_the_whole() -> None:
    errors = np.zeros((33, 4), np.float32)
    errors[-1] = 0.4
    found = statistics(errors=errors, completion_length=1, margins=np.zeros(1), logprob_errors=None)
    assert found.own_error == 0
    assert found.error == pytest.approx(0.4 / np.sqrt(33))


def test_a_repetition_penalty_scales_what_honest_margins_are() -> None:
    margins = np.full(8, 0.3)
    for penalty in (3.0, 1 / 3):
        assert statistics(margins=margins, repetition_penalty=penalty).margin == pytest.approx(0.1)


def test_a_table_is_read_back_as_it_was_written() -> None:
    assert ReceiptTable.from_bytes(TABLE.to_bytes()) == TABLE


def changed(*path: str | int, value: object) -> bytes:
    whole = json.loads(TABLE.to_bytes())
    at = whole
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (changed("format", value=2), r"\$.format"),
        (changed("url", value="x"), "unknown member"),
        (changed("pairs", 0, "miner", value="a class"), "no numerics class"),
        (changed("pairs", 0, "shapes", value=[]), "at least one shape"),
        (changed("pairs", 0, "lengths", value=[]), "length classes"),
        (changed("pairs", 0, "lengths", 1, "tokens", value=4), "rising tokens"),
        (changed("pairs", 0, "lengths", 0, "largest", "error", value=0.2), "no honest answer"),
        (changed("pairs", 0, "lengths", 0, "largest", "error", value=-1), "no honest answer"),
        (changed("pairs", 0, "lengths", 0, "largest", "error", value=True), "finite number"),
        (changed("pairs", 0, "lengths", 0, "choices", value=0), r"\.choices"),
        (changed("pairs", 1, "miner", value=SDPA), "twice"),
        (TABLE.to_bytes().replace(b"0.02", b"NaN"), "no valid JSON"),
        (b"[]", "an object"),
    ],
)
def test_a_table_that_no_measurement_gives_is_refused_with_its_field(raw: bytes, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ReceiptTable.from_bytes(raw, where="receipts.json")


def test_the_shipped_table_covers_both_attentions_up_to_the_largest_trained_model() -> None:
    table = shipped_receipt_table()
    for miner in (SDPA, EAGER):
        for validator in (SDPA, EAGER):
            pair = table.lookup(miner, validator)
            assert pair is not None
            assert pair.covers(Shape(12, 512))
            assert not pair.covers(Shape(24, 896))
            assert sum(one.choices for one in pair.lengths) > 3000
