"""Gradient work, sections 10 and 11: ranks in which equals are equal, ratings as published, and the test of own data."""

from __future__ import annotations

import random
from fractions import Fraction
from math import isqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openskill.models import PlackettLuce

from grail_core.protocol.gradient.own_test import (
    MICRO,
    Advantage,
    Reference,
    advantage,
    reference,
    shows_no_effect,
    z_of,
)
from grail_core.protocol.gradient.ranking import ranked, significantly_negative
from grail_core.protocol.gradient.rating import NANO, START, Rating, rated
from tooling.testing.gradient_rules import hotkey_of

ORACLE = PlackettLuce(mu=25.0, sigma=25 / 3, beta=7.0, kappa=1e-4, tau=0.1)


def test_a_thousand_random_matches_with_ties_rate_as_openskill_does() -> None:
    random_ = random.Random(7)
    worst = 0.0
    for _ in range(1000):
        n = random_.randint(2, 9)
        before = [Rating(random_.randint(-5, 60) * NANO // 3, random_.randint(NANO // 2, 10 * NANO)) for _ in range(n)]
        ranks = [random_.randint(1, random_.choice([2, n, 3 * n])) for _ in range(n)]
        teams = [[ORACLE.rating(mu=one.mu / NANO, sigma=one.sigma / NANO)] for one in before]
        expected = [team[0] for team in ORACLE.rate(teams, ranks=[float(rank) for rank in ranks])]
        for found, one in zip(rated(before, ranks), expected, strict=True):
            worst = max(worst, abs(found.mu / NANO - one.mu), abs(found.sigma / NANO - one.sigma))
    assert worst < 1e-9


def test_a_large_match_is_rated_like_a_small_one() -> None:
    random_ = random.Random(8)
    ranks = [random_.randint(1, 60) for _ in range(256)]
    expected = ORACLE.rate([[ORACLE.rating()] for _ in ranks], ranks=[float(rank) for rank in ranks])
    for found, one in zip(rated([START] * 256, ranks), expected, strict=True):
        assert found.mu / NANO == pytest.approx(one[0].mu, abs=2e-9)


def test_who_wins_rises_equals_stay_equal_and_nobody_meets_nobody() -> None:
    first, second, third, last = rated([START] * 4, [1, 2, 2, 5])
    assert first.mu > second.mu == third.mu > last.mu
    assert rated([START], [1]) == [START]
    assert rated([], []) == []
    assert rated([START] * 4, [1, 2, 2, 5]) == rated([START] * 4, [10, 20, 20, 30])
    with pytest.raises(ValueError, match="3 ranks of 2"):
        rated([START] * 2, [1, 2, 3])


def test_an_ordinal_is_never_negative() -> None:
    assert START.ordinal == 1  # 25 − 3 · 8.333333333, in 10⁻⁹
    assert Rating(10 * NANO, 5 * NANO).ordinal == 0


# Ranks ----------------------------------------------------------------------------------------------------------------


def noise(seed: int, mean: int, spread: int = 100, n: int = 64) -> list[int]:
    random_ = random.Random(seed)
    return [mean + random_.randint(-spread, spread) for _ in range(n)]


def test_equals_tie_and_the_better_stand_apart() -> None:
    shared = noise(1, 1000, 500)
    differences = {
        4: [value + step for value, step in zip(shared, noise(2, 0, 20), strict=True)],
        2: [value + step for value, step in zip(shared, noise(3, 0, 20), strict=True)],
        9: [value + 200 for value in shared],
        1: [value - 200 for value in shared],
    }
    scores = ranked(differences)
    assert list(scores) == [1, 2, 4, 9]
    assert [scores[uid].rank for uid in (9, 4, 2, 1)] == [1, 2, 2, 3]


def test_a_copy_ties_with_its_source_and_a_constant_lead_is_one() -> None:
    source = noise(5, 300)
    assert {score.rank for score in ranked({1: source, 2: source}).values()} == {1}
    assert [score.rank for score in ranked({1: source, 2: [value + 1 for value in source]}).values()] == [2, 1]


def test_two_standard_errors_are_the_border() -> None:
    """δ = (1 + s, 1 − s) has the sum 2 and the error 2s: beyond two errors iff s < ½; here in hundredths."""
    for s, ranks in ((49, [1, 2]), (50, [1, 1]), (51, [1, 1])):
        scores = ranked({1: [1000 + 100 + s, 1000 + 100 - s], 2: [1000, 1000]})
        assert [score.rank for score in scores.values()] == ranks


def test_those_that_do_harm_are_last_together_and_do_not_open_ranks() -> None:
    differences = {1: noise(1, 500), 2: noise(2, -300), 3: noise(3, -50_000), 4: noise(4, 0, 1000)}
    assert significantly_negative(differences[2])
    assert not significantly_negative(differences[4])
    scores = ranked(differences)
    assert [scores[uid].rank for uid in (1, 4, 2, 3)] == [1, 2, 3, 3]
    assert scores[1].above_baseline
    assert not scores[3].above_baseline
    assert [score.rank for score in ranked({2: differences[2], 3: differences[3]}).values()] == [1, 1]


@given(st.dictionaries(st.integers(0, 255), st.lists(st.integers(-(2**20), 2**20), min_size=6, max_size=6), max_size=8))
def test_ranks_are_dense_and_no_lower_score_stands_before_a_higher_one(differences: dict[int, list[int]]) -> None:
    scores = ranked(differences)
    by_rank = sorted((one.rank, -one.score) for uid, one in scores.items() if not significantly_negative(differences[uid]))
    assert by_rank == sorted(by_rank, key=lambda one: one[1])
    assert {one.rank for one in scores.values()} == set(range(1, len({one.rank for one in scores.values()}) + 1))


def test_losses_of_other_sequences_are_not_compared() -> None:
    for differences in ({1: [1, 2, 3], 2: [1, 2]}, {1: [1]}, {1: [0, 2**41]}):
        with pytest.raises(ValueError, match="differences"):
            ranked(differences)


# Own data -------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-(2**30), 2**30), min_size=2, max_size=20), st.lists(st.integers(-99, 2**30), min_size=2, max_size=20)
)
def test_an_advantage_is_the_difference_of_means_with_welchs_error(own: list[int], common: list[int]) -> None:
    def mean_and_error(values: list[int]) -> tuple[Fraction, Fraction]:
        mean = Fraction(sum(values), len(values))
        squares = sum(((value - mean) ** 2 for value in values), Fraction(0))
        return mean, squares / (len(values) - 1) / len(values)

    found = advantage(own, common)
    (a, first), (b, second) = mean_and_error(own), mean_and_error(common)
    assert abs(found.value - 1024 * (a - b)) <= Fraction(1, 2)
    assert found.error**2 <= 2**20 * (first + second) < (found.error + 1) ** 2


def test_z_adds_up_the_last_twelve_rounds() -> None:
    assert z_of([]) is None
    assert z_of([Advantage(-(10**9), 1)] + [Advantage(30, 10)] * 12) == isqrt(9 * 12 * MICRO**2)
    assert z_of([Advantage(-30, 10)]) == -3 * MICRO
    assert z_of([Advantage(0, 0)]) == 0
    assert z_of([Advantage(1, 0)]) == 10**12


def test_the_reference_is_robust_and_takes_four_replayed_hotkeys() -> None:
    hotkeys = [hotkey_of(uid) for uid in range(6)]
    z = {hotkey: value * MICRO for hotkey, value in zip(hotkeys, [20, 21, 22, 23, 900, 0], strict=True)}
    assert reference(z, hotkeys[:3]) is None
    found = reference(z, hotkeys[:5])
    assert found == Reference(22 * MICRO, 148 * MICRO // 100, 5)
    assert found.acts
    assert shows_no_effect(10 * MICRO, found)
    assert not shows_no_effect(11 * MICRO, found)


def test_a_blunt_test_never_speaks() -> None:
    assert Reference(7_440_000, MICRO, 9).acts
    for blunt in (Reference(7_439_999, MICRO, 9), Reference(10 * MICRO, 2 * MICRO, 9), Reference(-20 * MICRO, 0, 9)):
        assert not shows_no_effect(-(10**9), blunt)
