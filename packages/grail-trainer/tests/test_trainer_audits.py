"""What an audit holds on to, without a network: distances between machines, and states of a strange form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.errors import CheckpointError
from grail_trainer.auditing.distance import CLOSE, distance_of_weights
from grail_trainer.auditing.standing import Standing
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.training_state import require_fits
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

NAME = "master.model.norm.weight"


def masters() -> Any:
    return Masters(random_model(Qwen2Shape(64, hidden=16, heads=2, tied=True), 0), OptimiserSettings())


def moved(weights: dict[str, Any], by: float) -> dict[str, Any]:
    return {name: tensor + by for name, tensor in weights.items()}


def test_what_earlier_windows_left_between_two_machines_is_no_part_of_a_later_update() -> None:
    """One that an alarm took back on both moved nothing on either; a small one is held against its own way."""
    ours = {"weight": torch.full((8,), 1.0)}
    theirs = moved(ours, 0.25)
    assert distance_of_weights(ours, theirs, ours, theirs).relative == 0
    assert distance_of_weights(moved(ours, 0.125), moved(theirs, 0.125), ours, theirs).relative == 0
    far = distance_of_weights(moved(ours, 0.125), moved(theirs, -0.125), ours, theirs).relative
    assert far is not None
    assert far > CLOSE


def test_a_window_that_was_taken_back_after_others_drifted_is_no_difference_at_an_anchor_either(tmp_path: Path) -> None:
    standing = Standing(masters(), tmp_path)
    standing.hold()
    begun = standing.masters.tensors()
    goal = {**begun, NAME: begun[NAME] + 0.5}
    standing.masters.restore({**begun, NAME: begun[NAME] + 0.5625})
    theirs = masters()
    theirs.restore(goal)
    first = standing.apart(theirs.published(), None)
    assert first.relative == pytest.approx(0.125)
    standing.hold()  # the next window is taken back on both sides, and has an anchor
    last = standing.apart(theirs.published(), goal)
    assert last.relative == pytest.approx(0.125)
    assert not standing.drifted
    assert standing.masters.digest() == theirs.digest()


def test_adapters_that_name_no_weights_beside_them_are_told_as_what_they_are() -> None:
    tensors = {"master.a.lora_a": torch.zeros(1), "steps": torch.tensor(1)}
    with pytest.raises(CheckpointError, match="beside other weights"):
        require_fits(tensors, {"a.lora_a": torch.zeros(1)}, base="00" * 32)
