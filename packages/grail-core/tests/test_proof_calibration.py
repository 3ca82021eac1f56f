"""A calibration table says no more than was measured: the worst condition counts, and every condition at its own length."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.calibration.measure import Calibration, Source, calibrate, place_of
from grail_core.calibration.plot import plot
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.proof.calibration import (
    STATISTICS,
    UNSEEN_EXTREMES,
    CalibrationTable,
    Null,
    Shape,
    shipped_table,
)
from grail_core.proof.statistics import clip_of
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, save_random_model

SDPA, EAGER = "bf16-sdpa-cpu-transformers", "bf16-eager-cpu-transformers"
LIMITS = (6, 20)  # completion tokens


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Two tiny models; the second one's completions are much longer."""
    rng = np.random.default_rng(1)
    made = []
    for index, limit in enumerate(LIMITS):
        shape = Qwen2Shape(48, hidden=32 * (index + 1), intermediate=64, layers=3 - index, spread=0.15)
        folder = save_random_model(tmp_path_factory.mktemp(f"model{index}"), shape, seed=index)
        prompts = [tuple(rng.integers(4, 48, length).tolist()) for length in (9, 14, 12)]
        made.append(Source(f"model {index}", folder, prompts, GenerationPolicy(limit), frozenset({1})))
    return made


@pytest.fixture(scope="module")
def found(sources: list[Source]) -> Calibration:
    return calibrate(sources, version="test/1")


def test_every_pair_of_classes_is_fitted_from_every_condition_and_checkpoint(found: Calibration) -> None:
    assert set(found.table.pairs) == {(SDPA, SDPA), (SDPA, EAGER), (EAGER, SDPA), (EAGER, EAGER)}
    for (miner, validator), pair in found.table.pairs.items():
        conditions = found.conditions_of(pair)
        wanted = ["groups", "singles", "batch 1", "other kernels"]
        wanted += [f"by {'eager' if miner == SDPA else 'sdpa'}"] if miner == validator else []
        assert [name for name, members in conditions.items() if members[0].fitted] == wanted
        assert all([one.checkpoint for one in members] == ["model 0", "model 1"] for members in conditions.values())
        assert pair.rollouts == sum(one.rollouts for one in conditions["groups"]) == 2 * 3 * 16
        assert pair.tokens == sum(one.tokens for one in conditions["groups"])
        assert pair.largest == Shape(3, 64)


def test_a_class_against_itself_is_as_wide_as_the_other_attention(found: Calibration, sources: list[Source]) -> None:
    pair, across = (found.table.pairs[SDPA, validator] for validator in (SDPA, EAGER))
    energies = {name: one[0].values["energy"].mean() for name, one in found.conditions_of(pair).items()}
    assert energies["groups"] < 1e-4**2  # rounding to 1/4096 alone
    assert energies["by eager"] > 100 * energies["groups"]
    assert pair.nulls["energy"].threshold(64, 1e-6) >= across.nulls["energy"].threshold(64, 1e-6) * 0.99
    # Even where only one kind of attention is asked for.
    alone = calibrate(sources[:1], version="test/1", attentions=["sdpa"])
    assert set(alone.table.pairs) == {(SDPA, SDPA)}
    assert "by eager" in alone.conditions_of(alone.table.pairs[SDPA, SDPA])


def test_what_no_miner_may_claim_is_reported_and_never_fitted(found: Calibration) -> None:
    for pair in found.table.pairs.values():
        conditions = found.conditions_of(pair)
        records = [name for name, members in conditions.items() if not members[0].fitted]
        assert records == ["KV-cache states", "float16", "float32"]
        fitted = [one for members in conditions.values() for one in members if one.fitted]
        energy = Null.fit([one.values["energy"] for one in fitted], clip_of("energy"), rollouts=pair.rollouts)
        assert energy == pair.nulls["energy"]
        # Rounding of other kinds, not another model.
        assert all(float(one.rms.max()) < 0.1 for name in records for one in conditions[name])


def test_margins_of_long_and_short_completions_are_fitted_at_one_length(found: Calibration) -> None:
    pair = found.table.pairs[SDPA, SDPA]
    members = [one for of_one in found.conditions_of(pair).values() for one in of_one if one.fitted]
    short, long = ({one.positions for one in members if one.checkpoint == f"model {index}"} for index in (0, 1))
    assert min(long) > 2 * max(short)
    assert pair.positions == pytest.approx(np.mean([one.positions for one in members]), abs=1e-3)
    scales = [pair.positions / one.positions for one in members]
    margin = Null.fit([one.values["margin"] for one in members], clip_of("margin"), scales=scales, rollouts=pair.rollouts)
    assert margin.cumulants == pytest.approx(pair.nulls["margin"].cumulants, rel=1e-3)


def test_a_sum_is_bounded_at_every_length_however_long_the_rollouts_of_the_fit_were() -> None:
    """Positions lose independently, at 1 in 300 by half a margin: K is proportional to the length."""
    rng = np.random.default_rng(4)

    def sums(length: int, count: int) -> npt.NDArray[np.float64]:
        lost = (rng.random((count, length)) < 1 / 300).sum(axis=1)
        bounded: npt.NDArray[np.float64] = np.minimum(0.5 * lost, 1.0)
        return bounded

    lengths, reference, alpha = (8, 32), 12.0, 1e-3
    values = [sums(length, 30_000) for length in lengths]
    null = Null.fit(values, 1.0, scales=[reference / length for length in lengths])
    unscaled = Null.fit(values, 1.0)
    for length in lengths:
        weight = 64 * max(1.0, length / reference)  # as `statistics` does it
        bound = null.threshold(weight, alpha) * weight / 64
        means = sums(length, 64 * 8_000).reshape(8_000, 64).mean(axis=1)
        assert (means > bound).mean() <= alpha
        assert bound < 3 * np.quantile(means, 1 - alpha)
    # Without it the long condition would be counted twice: in the table, and again by the length of the rollout.
    assert unscaled.threshold(64, alpha) > 1.3 * null.threshold(64, alpha)
    # A model is no drifting one for its long completions.
    assert null.dead_zone < 0.2 * null.mean < unscaled.dead_zone


@settings(max_examples=60)
@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=40),
    st.floats(0.05, 20),
)
def test_a_scaled_bound_is_never_below_either_reading_of_length(values: list[float], factor: float) -> None:
    rows, scaled = np.array(values), Null.fit([np.array(values)], 1.0, scales=[factor])
    plain = Null.fit([rows], 1.0)
    unseen = UNSEEN_EXTREMES / (len(rows) + UNSEEN_EXTREMES)
    for at, k, other in zip(scaled.grid, scaled.cumulants, plain.cumulants, strict=True):
        excess = float(np.expm1(np.minimum(rows, 1.0) * at).mean())
        for reading in (factor * math.log1p(excess), math.log1p(factor * excess)):
            wanted = np.logaddexp(math.log1p(-unseen) + min(reading, at), math.log(unseen) + at)
            assert k >= wanted - 1e-5 * abs(wanted)
        assert k <= at * (1 + 1e-6)  # no rollout exceeds the clip
        assert (k >= other - 1e-5 * abs(other)) if factor >= 1 else (k <= other + 1e-5 * abs(other))


def test_measuring_the_same_rollouts_in_another_way_never_tightens_a_table() -> None:
    rng = np.random.default_rng(5)
    rows = rng.exponential(1e-3, 2_000)
    one = Null.fit([rows], 1.0, rollouts=2_000)
    assert one == Null.fit([rows], 1.0)
    more = Null.fit([rows, rows * 0.5, rows * 0.9], 1.0, rollouts=2_000)
    for size in (16, 46, 64):
        assert more.threshold(size, 1e-6) >= one.threshold(size, 1e-6)
    assert Null.fit([rows] * 5, 1.0).threshold(64, 1e-6) < one.threshold(64, 1e-6)  # five times as many rollouts would


def test_the_same_checkpoints_give_the_same_table(found: Calibration, sources: list[Source]) -> None:
    again = calibrate(sources, version="test/1", attentions=["eager"])
    assert again.table.pairs[EAGER, EAGER] == found.table.pairs[EAGER, EAGER]


def test_a_table_says_where_it_was_measured(found: Calibration) -> None:
    assert found.table.place == place_of("cpu")
    for part in (torch.__version__, "transformers ", "Python ", "bf16", "cores"):
        assert part in found.table.place
    written = found.table.to_json()
    assert CalibrationTable.from_json(json.loads(json.dumps(written))) == found.table
    del written["place"]
    with pytest.raises(ConfigurationError, match="not a calibration table"):
        CalibrationTable.from_json(written)


def test_nothing_is_fitted_from_nothing_from_one_checkpoint_twice_or_on_a_device_without_a_class(sources: list[Source]) -> None:
    for nothing in ([], [replace(sources[0], prompts=())]):
        with pytest.raises(ConfigurationError, match="nothing to calibrate"):
            calibrate(nothing, version="x")
    with pytest.raises(ConfigurationError, match="nothing to calibrate"):
        calibrate(sources, version="x", attentions=[])
    for device in ("cuda:99", "meta", "abacus"):
        with pytest.raises(ConfigurationError, match=device):
            calibrate(sources, version="x", device=device)
    twice = replace(sources[0], name="another name", folder=sources[0].folder / ".." / sources[0].folder.name)
    with pytest.raises(ConfigurationError, match="twice"):
        calibrate([sources[0], twice], version="x")
    with pytest.raises(CheckpointError):
        calibrate([replace(sources[0], folder=sources[0].folder / "none")], version="x")


def test_the_report_has_every_condition_and_the_plot_shows_it_beside_the_threshold(found: Calibration) -> None:
    reports = [one.to_json() for one in found.observations]
    assert len(reports) == 2 * (2 * (4 + 1 + 3) + 2 * (4 + 3))
    for report in reports:
        assert report["rollouts"] == 48
        assert 0 <= report["rms"] <= report["rms_max"]
        assert 0 <= report["margin"] <= report["margin_max"]
        assert 0 <= report["logprob"] <= report["logprob_max"]
    text = plot(found)
    assert text == plot(found)
    drawing = ElementTree.fromstring(text)
    words = [element.text or "" for element in drawing.iter() if element.tag.endswith("text")]
    assert any(found.table.place in word for word in words)
    assert sum("at 64 rollouts" in word for word in words) == 4
    assert sum(word == "groups" for word in words) == 4
    marks = re.findall(r"M([\d.]+) [\d.]+h0", text)
    assert len(marks) == 3 * len(found.observations)  # a dot and the two discs of a ring for each
    width = float(drawing.attrib["width"])
    assert all(150 <= float(mark) <= width for mark in marks)


def test_the_shipped_table_holds_every_pair_of_this_projects_cpu_classes_and_may_be_enforced() -> None:
    table = shipped_table()
    assert set(table.pairs) == {(SDPA, SDPA), (SDPA, EAGER), (EAGER, SDPA), (EAGER, EAGER)}
    for pair in table.pairs.values():
        assert pair.covers(Shape(4, 128))
        assert set(pair.nulls) == set(STATISTICS)
