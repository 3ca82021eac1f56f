"""The study of sizes on a model of two layers: it measures and decides as a validator does, and makes nothing twice."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grail_core.proof.calibration import CalibrationTable, Coverage, Shape, shipped_table
from grail_core.proof.mixture import log_mixture
from tooling.studies.power_sizes import search
from tooling.studies.power_sizes.__main__ import conditions_of
from tooling.studies.power_sizes.judge import Bench, comparisons, rejecting, upper_bound
from tooling.studies.power_sizes.models import ModelRecipe
from tooling.studies.power_sizes.sizes import StudiedSize
from tooling.studies.power_sizes.study import Run, SizeStudy
from tooling.studies.power_sizes.table import fit
from tooling.testing.models.artefacts import Artefacts
from tooling.testing.models.corpus import load_corpus

_RECIPE = ModelRecipe(2, 32, 4, 2, 64, seed=31)
_SHAPE = Shape(2, 32)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


def _study(folder: Path, said: list[str]) -> SizeStudy:
    size = StudiedSize("tiny", (_RECIPE,), 1, 1, 1, 1, 20, honest_limit=16)
    return SizeStudy(size, Artefacts(folder), load_corpus(), said.append)


@pytest.fixture(scope="module")
def study(folder: Path, said: list[str]) -> SizeStudy:
    return _study(folder, said)


def _run(study: SizeStudy, name: str) -> Run:
    return study.deviation(next(one for one in study.deviations if one.name == name))


def test_what_was_collected_is_not_collected_again_and_reads_back_the_same(study: SizeStudy, folder: Path) -> None:
    first = _run(study, "8-bit weights, per channel")
    told_again: list[str] = []
    again = _run(_study(folder, told_again), "8-bit weights, per channel")
    assert told_again == []
    assert again.rollouts == first.rollouts
    for one, other in zip(first.measured, again.measured, strict=True):
        assert one.reference is not None
        assert other.reference is not None
        assert np.array_equal(one.reference.twins, other.reference.twins)
        assert np.array_equal(one.z, other.z)
    assert set(again.compared[0].z) == {"current", "int8", "own"}
    assert np.array_equal(again.compared[3].leads["int8"].rival, first.compared[3].leads["int8"].rival)


def test_a_window_of_each_kind_is_decided_as_a_validator_would(study: SizeStudy) -> None:
    table = shipped_table()
    zero = _run(study, "zero sketches")
    assert "coarse_error" in rejecting(comparisons(zero) * 4, Bench.of(table, zero, _SHAPE))
    rounded = _run(study, "4-bit weights, per channel")
    assert rejecting(comparisons(rounded) * 4, Bench.of(table, rounded, _SHAPE))
    honest = study.held_out()
    assert {run.proves for run in honest} == {run.writes for run in honest} == {"sdpa", "eager"}
    for run in honest:
        assert rejecting(comparisons(run) * 4, Bench.of(table, run, _SHAPE)) == [], run.name


def test_the_table_has_all_pairs_can_be_read_and_covers_nothing_from_one_checkpoint(study: SizeStudy) -> None:
    conditions = conditions_of(study)
    table = CalibrationTable.from_bytes(fit(conditions).to_bytes())
    assert len(table.pairs) == 4
    for pair in table.pairs.values():
        assert (pair.shapes, pair.checkpoints) == ((_SHAPE,), 1)
        assert pair.coverage(_SHAPE) is Coverage.NONE
    elsewhere = [replace(one, size="another", shape=Shape(3, 48)) for one in conditions]
    assert next(iter(fit([*conditions, *elsewhere], without=_SHAPE).pairs.values())).shapes == (Shape(3, 48),)


def test_a_statistic_alone_needs_fewer_rollouts_the_further_the_weights_are(study: SizeStudy) -> None:
    found = {}
    for name in ("8-bit weights, per channel", "4-bit weights, per channel"):
        run = _run(study, name)
        seen = {one.statistic: one for one in search.detections(comparisons(run), Bench.of(shipped_table(), run, _SHAPE))}
        found[name] = seen["sketch_ratio"]
        assert seen["coarse_error"].window_power == 0
    eight, four = (one.rollouts for one in found.values())
    assert eight is not None
    assert four is not None
    assert four < eight
    assert found["4-bit weights, per channel"].window_power == 1


def test_evidence_of_many_samples_is_that_of_each() -> None:
    values = np.array([[-3.0, 2.0, 0.5], [math.log(2), -40.0, 1.0]])
    assert search.mixtures(values) == pytest.approx([log_mixture(row) for row in values])


def test_without_a_rejected_window_the_rate_is_bounded_by_three_over_their_number() -> None:
    assert upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100), rel=1e-6)
    assert upper_bound(2, 100) > upper_bound(0, 100)
