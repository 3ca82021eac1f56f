"""A calibration table that somebody wrote says only what its own data can have given, or is refused by the field's name."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.checkpoints.pinned_table import read_table_file
from grail_core.errors import ConfigurationError
from grail_core.proof.calibration import (
    BOUNDS,
    MAX_TABLE_BYTES,
    STATISTICS,
    CalibrationTable,
    Coverage,
    PairCalibration,
    Shape,
    share_of_pooled,
    shipped_table,
    thresholds_of,
)
from grail_core.proof.null import Null
from grail_core.proof.numerics import DEFAULT_CLASS

SDPA, EAGER = DEFAULT_CLASS, "bf16-eager-cpu-transformers"
WRITTEN = json.loads(shipped_table().to_bytes())


def shipped_pair() -> PairCalibration:
    pair = shipped_table().lookup(SDPA, SDPA)
    assert pair is not None
    return pair


def changed(path: str, value: Any) -> Any:
    """The shipped table with one value changed; path as `pairs.0.nulls.sketch_ratio.low`."""
    table = copy.deepcopy(WRITTEN)
    at = table
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in way:
        at = at[part]
    at[last] = value
    return table


def refused(value: Any, field: str, what: str = "") -> None:
    with pytest.raises(ConfigurationError, match="not a calibration table of this release") as caught:
        CalibrationTable.from_json(value, where="there.json")
    assert f"$.{field}: " in caught.value.what if field else True
    assert what in caught.value.what
    assert caught.value.where == "there.json"
    assert "calibrate" in caught.value.hint


def test_a_table_survives_its_bytes_and_the_same_table_has_the_same_bytes() -> None:
    table = shipped_table()
    assert CalibrationTable.from_bytes(table.to_bytes()) == table
    assert CalibrationTable.from_bytes(table.to_bytes()).to_bytes() == table.to_bytes()


def test_the_shipped_table_holds_every_pair_of_this_projects_cpu_classes_and_may_be_enforced() -> None:
    table = shipped_table()
    assert set(table.pairs) == {(SDPA, SDPA), (SDPA, EAGER), (EAGER, SDPA), (EAGER, EAGER)}
    for pair in table.pairs.values():
        assert pair.coverage(Shape(4, 128)) is pair.coverage(None) is Coverage.FULL
        for name in STATISTICS:  # a statistic whose bound is its clip would reject nobody
            assert pair.threshold(name, 64, share_of_pooled()) < BOUNDS[name][1] * 0.8
    assert table.lookup("bf16-flash-cuda-vllm", SDPA) is None


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("format", 2, "format 3 is expected"),
        ("format", None, "format 3 is expected"),
        ("version", "", "printable"),
        ("version", "a\nb", "printable"),
        ("version", 3, "text is expected"),
        ("place", "x" * 1001, "at most 1000"),
        ("pairs", {}, "an array is expected"),
        ("pairs.0.miner", "fp8-sdpa-cpu-transformers", "no numerics class"),
        ("pairs.1.validator", 7, "text is expected"),
        ("pairs.0.tokens", 12, "outside"),
        ("pairs.0.tokens", 1e5, "an integer is expected"),
        ("pairs.0.rollouts", 0, "outside"),
        ("pairs.0.checkpoints", True, "an integer is expected"),
        ("pairs.0.shapes", [], "at least one shape"),
        ("pairs.0.shapes.1.layers", 0, "outside"),
        ("pairs.0.logit_variance", 0.5, "outside 1"),
        ("pairs.0.sketch_variance", math.nan, "not finite"),
        ("pairs.0.sketch_variance", "6", "a number is expected"),
        ("pairs.0.nulls.sketch_ratio.low", -2, "clipped to 0"),
        ("pairs.0.nulls.twin_margin.mean", -1.1, "outside"),
        ("pairs.0.nulls.twin_margin.mean", math.inf, "not finite"),
        ("pairs.0.nulls.twin_margin.worst_mean", -0.5, "no mean of the worst"),
        ("pairs.0.nulls.twin_logprob.dead_zone", 0.5, "worst_mean"),
        ("pairs.0.nulls.twin_logprob.dead_zone", -1e-6, "between 0"),
        ("pairs.0.nulls.logprob_ratio.grid.0", -0.01, "ascend"),
        ("pairs.0.nulls.logprob_ratio.grid.3", 1e-6, "ascend"),
        ("pairs.0.nulls.logprob_ratio.grid.47", 1e300, "is above"),
        ("pairs.0.nulls.logprob_ratio.grid", [], "at least one"),
        ("pairs.0.nulls.logprob_ratio.cumulants", [0.1], "1 values for 48"),
        ("pairs.0.nulls.sketch_ratio.cumulants.20", 0.0, "is not between"),
        ("pairs.0.nulls.sketch_ratio.cumulants.20", 1e9, "is not between"),
    ],
)
def test_every_field_that_cannot_be_is_refused_by_its_name(path: str, value: Any, what: str) -> None:
    field = path.split(".")
    said = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in field)[1:]
    if what in ("ascend", "is above") or ("between" in what and "cumulants" in path):
        said = said.rpartition("[")[0]  # of a list as a whole
    refused(changed(path, value), said, what)


def test_members_that_are_missing_unknown_or_twice_are_refused() -> None:
    for path in ("pairs.0.nulls.sketch_ratio.grid", "pairs.2.shapes", "place", "pairs.0.nulls.twin_margin"):
        table = changed(path, None)
        *way, last = path.split(".")
        at = table
        for part in way:
            at = at[int(part) if part.isdigit() else part]
        del at[last]
        refused(table, "", f"no member {last!r}")
    refused(WRITTEN | {"extra": 1}, "", "unknown member 'extra'")
    refused(changed("pairs.1", WRITTEN["pairs"][0]), "pairs[1]", "twice")
    nothings: list[object] = [{}, [], None, 3, "table", {"format": 3}]
    for nothing in nothings:
        with pytest.raises(ConfigurationError):
            CalibrationTable.from_json(nothing)


def test_a_null_that_is_not_convex_is_no_distributions() -> None:
    values = np.random.default_rng(3).normal(0, 0.2, 4_000)
    null = asdict(Null.fit([values], *BOUNDS["twin_margin"], rollouts=WRITTEN["pairs"][0]["rollouts"]))
    assert CalibrationTable.from_json(changed("pairs.0.nulls.twin_margin", null))
    bent = {**null, "cumulants": [k * (1.01 if i == 8 else 1.0) for i, k in enumerate(null["cumulants"])]}
    refused(changed("pairs.0.nulls.twin_margin", bent), "pairs[0].nulls.twin_margin.cumulants", "not convex")


def test_a_narrower_table_than_its_rollouts_can_have_given_is_refused() -> None:
    """Bounds come from the rollouts that were seen: of half as many, unseen extremes are twice as likely."""
    refused(changed("pairs.0.rollouts", 50), "pairs[0].nulls.sketch_ratio.cumulants")
    quiet = Null.fit([np.zeros(10_000)], *BOUNDS["sketch_ratio"])
    assert quiet.unfounded(10_000) is None
    assert quiet.unfounded(5_000) is not None


@st.composite
def conditions(draw: st.DrawFn) -> list[np.ndarray]:
    seed, count = draw(st.integers(0, 2**32)), draw(st.integers(1, 4))
    rng = np.random.default_rng(seed)
    kinds = draw(st.lists(st.sampled_from(["constant", "normal", "ends", "heavy"]), min_size=count, max_size=count))
    made: dict[str, Callable[[int], np.ndarray]] = {
        "constant": lambda n: np.full(n, rng.uniform(-1.5, 1.5)),
        "normal": lambda n: rng.normal(rng.uniform(-0.5, 0.5), rng.uniform(0, 0.5), n),
        "ends": lambda n: rng.choice([-1.0, 1.5], n),
        "heavy": lambda n: rng.standard_t(1.5, n) * 0.1,
    }
    return [made[kind](int(rng.integers(1, 200))) for kind in kinds]


@given(values=conditions(), name=st.sampled_from(STATISTICS))
@settings(max_examples=60, deadline=None)
def test_whatever_was_fitted_is_read_again_and_bounds_its_worst_condition(values: list[np.ndarray], name: str) -> None:
    low, high = BOUNDS[name]
    rollouts = sum(map(len, values))
    null = Null.fit(values, low, high, rollouts=rollouts)
    assert null.unfounded(rollouts) is None
    pair = replace(shipped_pair(), nulls={**shipped_pair().nulls, name: null}, rollouts=max(rollouts, 10))
    if rollouts >= 10 and all(one.unfounded(pair.rollouts) is None for one in pair.nulls.values()):
        table = CalibrationTable("x", "here", {(SDPA, SDPA): pair})
        assert CalibrationTable.from_bytes(table.to_bytes()) == table
    for units in (1, 16, 64):
        assert null.threshold(units, 1e-6) >= null.worst_mean - 1e-6
        assert null.threshold(units, 1e-6) <= high + null.dead_zone
        assert null.threshold(units, 1e-7) >= null.threshold(units, 1e-6) >= null.threshold(4 * units, 1e-6)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_change_of_a_table_is_anything_but_refused_or_read_as_it_stands(data: st.DataObject) -> None:
    table = copy.deepcopy(WRITTEN)
    at: Any = table
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.integers(0, 9)) == 0:
            break
        at = at[key]
    junk = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3)
    )
    at[key] = data.draw(junk)
    raw = json.dumps(table).encode()
    try:
        read = CalibrationTable.from_bytes(raw)
    except ConfigurationError:
        return
    assert CalibrationTable.from_bytes(read.to_bytes()) == read
    for pair in read.pairs.values():
        assert all(math.isfinite(pair.threshold(name, 64, 1e-7)) for name in STATISTICS)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"format": 3, "format": 3}', b" " * (MAX_TABLE_BYTES + 1), b'{"format": NaN}'],
    ids=["empty", "open", "no UTF-8", "deep", "twice", "huge", "NaN"],
)
def test_bytes_that_are_no_table_are_refused_with_the_file(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(raw)
    with pytest.raises(ConfigurationError, match="not a calibration table") as caught:
        read_table_file(path)
    assert caught.value.where == str(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_table_file(tmp_path / "missing.json")


def test_a_pair_is_enforced_up_to_its_largest_shape_and_with_doubled_dead_zones_up_to_twice_that() -> None:
    pair = replace(shipped_pair(), shapes=(Shape(4, 512), Shape(12, 128), Shape(2, 64)))
    assert pair.largest == Shape(12, 512)
    for shape, coverage in (
        (None, Coverage.FULL),
        (Shape(12, 512), Coverage.FULL),
        (Shape(13, 64), Coverage.EXTENDED),
        (Shape(24, 1024), Coverage.EXTENDED),
        (Shape(25, 64), Coverage.NONE),
        (Shape(1, 1025), Coverage.NONE),
    ):
        assert pair.coverage(shape) is coverage
        assert pair.covers(shape) is (coverage is not Coverage.NONE)
    for few in (
        replace(pair, tokens=99_999),
        replace(pair, checkpoints=9),
        replace(pair, shapes=(Shape(4, 512), Shape(12, 128), Shape(4, 512))),
    ):
        assert few.coverage(None) is few.coverage(Shape(1, 8)) is Coverage.NONE
    null = pair.nulls["sketch_ratio"]
    wider = pair.threshold("sketch_ratio", 64, 1e-7, Shape(13, 64)) - pair.threshold("sketch_ratio", 64, 1e-7, Shape(12, 64))
    assert wider == pytest.approx(null.dead_zone)


@pytest.mark.parametrize("units", [1, 8, 64, 300])
def test_more_extreme_units_than_a_null_allows_are_as_rare_as_it_says(units: int) -> None:
    """Against the binomial sum in exact fractions, at the rate that the null's own K gives by Chernoff's bound."""
    null = Null.fit([np.concatenate([np.full(990, 0.1), np.full(10, 1.0)])], *BOUNDS["sketch_ratio"])
    alpha = 1e-6 / 34
    most = null.most_extreme(units, alpha)
    way = 1 - null.dead_zone
    rate = Fraction(min(math.exp(k - at * way) for at, k in zip(null.grid, null.cumulants, strict=True)))
    assert 0.01 < rate < 0.03  # one in a hundred, and what was not seen

    def beyond(count: int) -> Fraction:
        terms = (math.comb(units, k) * rate**k * (1 - rate) ** (units - k) for k in range(count + 1, units + 1))
        return sum(terms, Fraction(0))

    assert beyond(most) <= alpha
    assert most == 0 or beyond(most - 1) > alpha
    assert null.most_extreme(units, alpha, dead_zones=2.0) >= most
    assert null.most_extreme(units, 1.0) == 0


def test_thresholds_are_told_by_statistic_and_sample_size() -> None:
    told = thresholds_of(shipped_pair(), (8, 64))
    assert list(told) == list(STATISTICS)
    assert all(of[8] > of[64] for of in told.values())
    assert told["sketch_ratio"][64] == pytest.approx(shipped_pair().threshold("sketch_ratio", 64, 1e-6 / 8), rel=1e-5)
