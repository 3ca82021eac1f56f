"""A validator's process that is killed at any moment, and started again, leaves what one leaves that was never killed.

Verdicts, evidence, weights, its bucket, its ledger and what lies on its disk; and it measures at most one file again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tooling.testing.mortal_validator import Left, MortalValidator, mortal_validator

FAST_KILLS = 6


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalValidator]:
    with mortal_validator(tmp_path_factory.mktemp("mortal")) as validator:
        yield validator


@pytest.fixture(scope="module")
def undisturbed(validator: MortalValidator) -> tuple[Left, list[str]]:
    """What is left, and the kill points on the way there."""
    root = validator.fresh()
    assert not validator.live(root)
    left = validator.left(root)
    assert len(left.verdicts) == 2
    assert len(left.weights) == 1
    assert len(validator.measured(root)) == 4
    assert not left.ledger["measured"]
    return left, validator.points(root)


def killed_once(validator: MortalValidator, kill_at: int, expected: Left) -> bool:
    """Whether it came so far: threads that make the same folder meet some points or do not."""
    root = validator.fresh()
    killed = validator.live(root, kill_at)
    assert not killed or not validator.live(root)
    measured = validator.measured(root)
    assert len(measured) == 4
    assert measured.total() <= 5
    assert validator.left(root) == expected
    shutil.rmtree(root)
    return killed


@pytest.mark.parametrize("part", range(FAST_KILLS))
def test_killed_at_a_moment_of_its_life_a_validator_ends_as_if_nothing_had_happened(
    validator: MortalValidator, undisturbed: tuple[Left, list[str]], part: int
) -> None:
    expected, points = undisturbed
    assert killed_once(validator, (2 * part + 1) * len(points) // (2 * FAST_KILLS), expected)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_killed_at_every_moment_of_its_life_a_validator_ends_as_if_nothing_had_happened(
    validator: MortalValidator, undisturbed: tuple[Left, list[str]]
) -> None:
    expected, points = undisturbed
    assert {"executemany", "__exit__", "fsync", "replace", "link", "unlink", "write", "pwrite"} <= set(points)
    kills = 0
    while killed_once(validator, kills, expected):
        kills += 1
    assert kills > 0.9 * len(points)


def test_a_validator_killed_again_and_again_ends_as_if_nothing_had_happened(
    validator: MortalValidator, undisturbed: tuple[Left, list[str]]
) -> None:
    """Each life dies later than the one before; only in a file that is judged twice would it say so."""
    expected, points = undisturbed
    root, kills = validator.fresh(), 0
    for kill_at in (3, 20, 45, 70):  # its ledger, what it has seen of checkpoints, its downloads
        kills += validator.live(root, kill_at)
    assert kills == 4
    assert not validator.live(root)
    assert validator.measured(root).total() == 4
    assert validator.left(root) == expected
    assert len(points) > 300
