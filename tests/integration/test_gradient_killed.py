"""A role of gradient work that is killed at any moment of a round, and started again, leaves what one leaves that never was.

Nothing is sealed twice, merged twice or judged twice. Fast, the middle of each life; heavy, all of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping

import pytest

from tooling.testing.mortal_gradient import ROLES, MortalGradient, mortal_gradient

FAST_KILLS = 1

Undisturbed = tuple[Mapping[str, object], list[str]]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalGradient]:
    with mortal_gradient(tmp_path_factory.mktemp("mortal")) as mortal:
        yield mortal


@pytest.fixture(scope="module")
def undisturbed(mortal: MortalGradient) -> Mapping[str, Undisturbed]:
    """What is left by each, and the kill points on the way there."""
    found = {}
    for role in ROLES:
        root = mortal.begin(role)
        assert not mortal.live(root, role)
        found[role] = mortal.left(root, role), mortal.points(root)
    return found


def killed_once(mortal: MortalGradient, role: str, kill_at: int, expected: Mapping[str, object]) -> bool:
    """Whether it came so far."""
    root = mortal.begin(role)
    killed = mortal.live(root, role, kill_at)
    sealed = mortal.sealed(root) if role == "miner" else None
    assert not killed or not mortal.live(root, role)
    assert sealed is None or mortal.sealed(root) == sealed, "it sealed twice"
    assert mortal.left(root, role) == expected
    shutil.rmtree(root)
    return killed


@pytest.mark.parametrize("role", ROLES)
def test_killed_at_a_moment_of_a_round_a_role_ends_as_if_nothing_had_happened(
    mortal: MortalGradient, undisturbed: Mapping[str, Undisturbed], role: str
) -> None:
    expected, points = undisturbed[role]
    for part in range(FAST_KILLS):
        assert killed_once(mortal, role, (2 * part + 1) * len(points) // (2 * FAST_KILLS), expected)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("role", ROLES)
def test_killed_at_every_moment_of_a_round_a_role_ends_as_if_nothing_had_happened(
    mortal: MortalGradient, undisturbed: Mapping[str, Undisturbed], role: str
) -> None:
    expected, points = undisturbed[role]
    kills = 0
    while killed_once(mortal, role, kills, expected):
        kills += 1
    assert kills > 0.9 * len(points)
