"""A trainer's process that is killed at any moment, and started again, ends in the bits of one that never was.

Masters, moments and schedule, the journal, every checkpoint and every training log: 40 optimiser steps in four windows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tooling.testing.mortal_trainer import KINDS, STEPS_OF_A_WINDOW, WINDOWS, MortalTrainer, mortal_trainer

KILLS = 20

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalTrainer]:
    with mortal_trainer(tmp_path_factory.mktemp("mortal")) as trainer:
        yield trainer


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_twenty_random_moments_a_trainer_ends_in_the_bits_of_one_that_never_was(
    trainer: MortalTrainer, kind: str
) -> None:
    undisturbed = trainer.fresh()
    assert not trainer.live(undisturbed, kind)
    expected = trainer.left(undisturbed)
    lines, points = trainer.met(undisturbed)
    logs = [value["body"] for key, value in expected.bucket.items() if "training" in key]  # type: ignore[index]
    assert sum(int(log["statistics"]["steps"]) for log in logs) == STEPS_OF_A_WINDOW * len(WINDOWS) == 40

    chance, kills = random.Random(f"kills of {kind}"), 0
    while kills < KILLS:
        root = trainer.fresh()
        while _killed(trainer, root, kind, chance, lines, points) and kills < KILLS:
            kills += 1
        if kills == KILLS:
            assert not trainer.live(root, kind)
        assert trainer.left(root) == expected


def _killed(trainer: MortalTrainer, root: Path, kind: str, chance: random.Random, lines: int, points: int) -> bool:
    """One life that dies at a moment drawn over what an undisturbed one goes through; one that has less to do lives on."""
    if chance.random() < 0.3:
        return trainer.live(root, kind, kill_point=chance.randrange(points))
    return trainer.live(root, kind, kill_line=chance.randrange(lines))
