"""Sketches of a round's first sequences: who holds the checkpoint and the data passes, and who lacks either does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.calibration import Shape, shipped_table
from grail_core.proof.errors import MalformedSketchError
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.round_sketches import (
    judge_sketches,
    measure_sketches,
    previous_checkpoints,
    round_sketches,
    sketched_rows,
)
from grail_core.proof.round_work import MeasuredSketches
from grail_core.proof.trained_model import I32
from grail_core.protocol import Randomness
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

RANDOMNESS = Randomness(bytes(32))
SEED, OTHER_SEED = b"s" * 32, b"t" * 32
SHAPE = Qwen2Shape(48, tied=True)
LENGTH = 40


def rows(seed: int, count: int = 8) -> I32:
    return np.random.default_rng(seed).integers(0, 48, (count, LENGTH), dtype=np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 checkpoint, as gradient work publishes them."""
    folder = tmp_path_factory.mktemp("float32")
    random_model(SHAPE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> PolicyModel:
    return PolicyModel.load(folder)


@pytest.fixture(scope="module")
def claimed(model: PolicyModel) -> bytes:
    return round_sketches(model, rows(0), SEED, RANDOMNESS)


def rejecting(claimed: bytes, measured: MeasuredSketches) -> set[str]:
    return {one.name for one in judge_sketches(claimed, measured) if one.rejects}


def test_the_miner_that_ran_the_checkpoint_over_its_rows_passes(model: PolicyModel, claimed: bytes) -> None:
    assert model.dtype == torch.bfloat16
    assert len(claimed) == 8 * LENGTH * 8
    assert rejecting(claimed, measure_sketches(model, rows(0), SEED, RANDOMNESS)) == set()
    assert [sketched_rows(batch) for batch in (4, 16, 192)] == [4, 16, 16]


def test_a_float32_pass_passes_too(folder: Path, model: PolicyModel) -> None:
    wide = round_sketches(PolicyModel.load(folder, dtype="float32"), rows(0), SEED, RANDOMNESS)
    assert rejecting(wide, measure_sketches(model, rows(0), SEED, RANDOMNESS)) == set()


@pytest.mark.parametrize(
    "cheat",
    [
        lambda model: round_sketches(model, rows(1), SEED, RANDOMNESS),  # other data
        lambda model: round_sketches(model, rows(0), OTHER_SEED, RANDOMNESS),  # of another round
        lambda model: round_sketches(model, np.concatenate([rows(0)[:7], rows(1)[:1]]), SEED, RANDOMNESS),  # one row of 8
        lambda model: bytes(8 * LENGTH * 8),
    ],
    ids=["other data", "another round", "one row", "zeros"],
)
def test_who_ran_it_over_something_else_does_not(model: PolicyModel, cheat: Callable[[PolicyModel], bytes]) -> None:
    measured = measure_sketches(model, rows(0), SEED, RANDOMNESS)
    assert "coarse_error" in rejecting(cheat(model), measured)


def arrays_of(model: PolicyModel) -> dict[str, npt.NDArray[np.float32]]:
    return {name: tensor.float().numpy().copy() for name, tensor in model.state().items()}


@pytest.mark.parametrize("most_bytes", [1 << 30, 0], ids=["kept in memory", "rounded for each pass"])
def test_an_earlier_checkpoint_is_named_where_a_calibration_covers_the_classes(
    model: PolicyModel, claimed: bytes, most_bytes: int
) -> None:
    stale = PolicyModel(random_model(SHAPE))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in stale.module.parameters():
            parameter += 0.02 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    previous = previous_checkpoints(model, {"previous-1": arrays_of(stale)}, most_bytes=most_bytes)
    with torch.no_grad():
        for parameter in stale.module.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    alternatives = Alternatives(model, previous)
    measured = measure_sketches(model, rows(0), SEED, RANDOMNESS, alternatives=alternatives)
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    shape = Shape(2, 32)

    def found(words: bytes) -> set[str]:
        return {one.name for one in judge_sketches(words, measured, pair=pair, shape=shape) if one.rejects}

    assert found(claimed) == set()
    assert {one.name for one in judge_sketches(claimed, measured, pair=pair, shape=shape)} >= {"sketch_ratio", "previous-1"}
    assert "previous-1" not in rejecting(claimed, measured)
    worn = round_sketches(stale, rows(0), SEED, RANDOMNESS)
    assert rejecting(worn, measured) == set()  # within the coarse bounds
    assert found(worn)


def test_a_model_whose_own_states_are_no_numbers_rejects_and_does_not_raise(model: PolicyModel, claimed: bytes) -> None:
    nothing = np.full((8, LENGTH, 4), np.nan, np.float32)
    assert "coarse_error" in rejecting(claimed, MeasuredSketches(nothing, None, {}))


@pytest.mark.parametrize("data", [b"", b"\x00" * (8 * LENGTH * 8 - 1), b"\x00\x80" * (4 * LENGTH * 8)])
def test_malformed_words_are_refused(model: PolicyModel, data: bytes) -> None:
    with pytest.raises(MalformedSketchError):
        judge_sketches(data, MeasuredSketches(np.zeros((8, LENGTH, 4), np.float32), None, {}))
