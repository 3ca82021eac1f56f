"""A calibration table says no more than was measured: the worst condition counts, and every condition at its own length."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import torch

from grail_core.calibration.measure import Calibration, Source, calibrate, place_of
from grail_core.calibration.plot import plot
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.proof.calibration import (
    BOUNDS,
    STATISTICS,
    CalibrationTable,
    Coverage,
    Shape,
    share_of_pooled,
)
from grail_core.proof.null import Null
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
    for (_miner, _validator), pair in found.table.pairs.items():
        conditions = found.conditions_of(pair)
        wanted = ["groups", "KV-cache states", "singles", "batch 1", "other kernels"]
        assert [name for name, members in conditions.items() if members[0].fitted] == wanted
        assert all([one.checkpoint for one in members] == ["model 0", "model 1"] for members in conditions.values())
        assert pair.rollouts == sum(one.rollouts for one in conditions["groups"]) == 2 * 3 * 16
        assert pair.tokens == sum(one.tokens for one in conditions["groups"])
        assert pair.shapes == (Shape(3, 32), Shape(2, 64))
        assert pair.largest == Shape(3, 64)
        assert pair.coverage(None) is Coverage.NONE  # two checkpoints are not enough


def test_the_same_attention_reproduces_its_bits_and_another_errs_as_much_as_the_validator(found: Calibration) -> None:
    same, across = (found.conditions_of(found.table.pairs[SDPA, validator])["groups"] for validator in (SDPA, EAGER))
    for members in (same, across):
        assert all(np.abs(one.values["sketch_ratio"].mean()) < 0.5 for one in members)
    assert all(one.values["energy"].mean() < 1e-4**2 for one in same)  # rounding to 1/4096 alone
    assert all(one.values["energy"].mean() > 100 * 1e-4**2 for one in across)
    # Values of twins are of the reference's noise too: nothing is lost where both sides draw alike.
    assert all(not one.values["twin_logprob"].any() for one in same)


def test_what_no_miner_may_claim_is_reported_and_never_fitted(found: Calibration) -> None:
    for pair in found.table.pairs.values():
        conditions = found.conditions_of(pair)
        records = [name for name, members in conditions.items() if not members[0].fitted]
        assert records == ["float16", "float32"]
        fitted = [one for members in conditions.values() for one in members if one.fitted]
        ratio = Null.fit([one.values["sketch_ratio"] for one in fitted], *BOUNDS["sketch_ratio"], rollouts=pair.rollouts)
        assert ratio == pair.nulls["sketch_ratio"]
        # Rounding of other kinds, not another model; float32 is the reference itself, but for the rounding of the words.
        assert all(float(one.rms.max()) < 0.1 for name in records for one in conditions[name])
        assert all((one.values["sketch_ratio"] == 0).all() for one in conditions["float32"])


def test_the_bound_holds_for_heavy_tails_and_loosens_for_small_samples() -> None:
    rng = np.random.default_rng(1)
    heavy = np.clip(rng.standard_t(1.5, 40_000) * 0.05, -1.0, 1.5)
    null = Null.fit([heavy[:20_000], heavy[20_000:]], -1.0, 1.5)
    thresholds = [null.threshold(n, 1e-3) for n in (16, 46, 256)]
    assert thresholds == sorted(thresholds, reverse=True)
    for n, threshold in zip((16, 46, 256), thresholds, strict=True):
        means = rng.choice(heavy, (20_000, n)).mean(axis=1)
        assert (means > threshold).mean() <= 1e-3
        assert threshold < 3 * np.quantile(means, 1 - 1e-3)
    assert null.threshold(46, 1e-9) > null.threshold(46, 1e-6)
    with pytest.raises(ValueError, match="finite"):
        Null.fit([heavy, np.array([0.0, math.nan])], -1.0, 1.5)  # as the worst value it would widen the bound


def test_a_dead_zone_is_how_far_the_worst_condition_lies_above_the_average_one() -> None:
    rng = np.random.default_rng(2)
    conditions = [rng.normal(mean, 0.1, 4_000) for mean in (0.0, 0.05, -0.2)]
    null = Null.fit(conditions, -1.0, 1.0)
    means = [float(values.mean()) for values in conditions]
    assert null.worst_mean == pytest.approx(max(means), abs=1e-6)
    assert null.dead_zone == pytest.approx(max(means) - np.mean(means), abs=1e-6)
    assert null.threshold(64, 1e-7, dead_zones=2.0) == pytest.approx(null.threshold(64, 1e-7) + null.dead_zone)


def test_measuring_the_same_rollouts_in_another_way_never_tightens_a_table() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(0, 0.1, 2_000)
    one = Null.fit([rows], -1.0, 1.0, rollouts=2_000)
    assert one == Null.fit([rows], -1.0, 1.0)
    more = Null.fit([rows, rows * 0.5, rows * 0.9], -1.0, 1.0, rollouts=2_000)
    for size in (16, 46, 64):
        assert more.threshold(size, 1e-6) >= one.threshold(size, 1e-6) - 1e-9
    assert Null.fit([rows] * 5, -1.0, 1.0).threshold(64, 1e-6) < one.threshold(64, 1e-6)  # five times as many would


def test_the_same_checkpoints_give_the_same_table(found: Calibration, sources: list[Source]) -> None:
    again = calibrate(sources, version="test/1", attentions=["eager"])
    assert again.table.pairs[EAGER, EAGER] == found.table.pairs[EAGER, EAGER]


def test_a_table_says_where_it_was_measured(found: Calibration) -> None:
    assert found.table.place == place_of("cpu")
    for part in (torch.__version__, "transformers ", "Python ", "bf16", "cores"):
        assert part in found.table.place
    assert CalibrationTable.from_bytes(found.table.to_bytes()) == found.table


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
    assert len(reports) == 2 * 4 * (4 + 3)
    for report in reports:
        assert report["rollouts"] == 48
        assert 0 <= report["rms"] <= report["rms_max"]
        for name in STATISTICS:
            low, high = BOUNDS[name]
            assert low <= report[name] <= report[f"{name}_max"] <= high
        assert 0 <= report["margin"] <= report["margin_max"]
        assert 0 <= report["logprob"] <= report["logprob_max"]
    text = plot(found)
    assert text == plot(found)
    drawing = ElementTree.fromstring(text)
    words = [element.text or "" for element in drawing.iter() if element.tag.endswith("text")]
    assert any(found.table.place in word for word in words)
    assert sum("at 64 rollouts" in word for word in words) == 4
    for pair in found.table.pairs.values():
        threshold = pair.threshold("sketch_ratio", 64, share_of_pooled())
        assert any(word.startswith(f"{threshold:.3g} at 64") for word in words)
    assert sum(word == "groups" for word in words) == 4
    marks = re.findall(r"M([\d.]+) [\d.]+h0", text)
    assert len(marks) == 3 * len(found.observations)  # a dot and the two discs of a ring for each
    width = float(drawing.attrib["width"])
    assert all(150 <= float(mark) <= width for mark in marks)
