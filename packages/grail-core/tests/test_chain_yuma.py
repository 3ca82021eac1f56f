"""Emission follows the stake-weighted majority, exactly."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from grail_core.chain.development.yuma import emission


def test_validators_who_agree_pass_their_weights_on() -> None:
    result = emission({0: 60, 1: 40}, {0: {2: 1, 3: 3}, 1: {2: 10, 3: 30}})
    assert result.incentive == {2: Fraction(1, 4), 3: Fraction(3, 4)}
    assert result.dividends == {0: Fraction(3, 5), 1: Fraction(2, 5)}
    assert result.share == {0: Fraction(3, 10), 1: Fraction(1, 5), 2: Fraction(1, 8), 3: Fraction(3, 8)}


def test_a_minority_cannot_pay_its_own_miner_and_earns_nothing() -> None:
    result = emission({0: 60, 1: 40}, {0: {2: 1}, 1: {3: 1}})
    assert result.consensus == {2: Fraction(1), 3: Fraction(0)}
    assert result.incentive == {2: Fraction(1)}
    assert result.dividends == {0: Fraction(1)}


def test_half_of_the_stake_is_no_majority() -> None:
    assert emission({0: 50, 1: 50}, {0: {2: 1}, 1: {3: 1}}).share == {}


def test_validators_without_stake_or_weights_have_no_say() -> None:
    assert emission({0: 0}, {0: {1: 5}}).share == {}
    assert emission({0: 5}, {0: {1: 0}}).share == {}
    assert emission({}, {}).share == {}


rows = st.dictionaries(st.integers(0, 5), st.integers(0, 65535), max_size=5)


@given(
    st.dictionaries(st.integers(0, 5), st.integers(0, 10**15), max_size=5), st.dictionaries(st.integers(0, 5), rows, max_size=5)
)
def test_shares_are_exact_whoever_says_what(stakes: dict[int, int], weights: dict[int, dict[int, int]]) -> None:
    result = emission(stakes, weights)
    for mapping in (result.incentive, result.dividends, result.share):
        assert sum(mapping.values()) in (0, 1)
        assert all(share > 0 for share in mapping.values())
    assert sum(result.consensus.values()) <= 1
