"""Section 10 for a network that turns from one kind of work to another: every kind has a share, and pays out of it alone."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.protocol import KindOfWork, shares_of_kinds, shares_of_powers
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.scores import WEIGHT_TOTAL

RULE = dataclasses.replace(LOCALNET, weight_mode="capped", burn_share_permille=0, burn_uid=0)
POWERS = st.dictionaries(st.integers(0, 40), st.integers(0, 2**130), max_size=8)


@given(POWERS, POWERS, st.integers(0, 12), st.integers(0, 1000), st.sampled_from(["capped", "uncapped"]))
def test_weights_always_sum_to_all_and_no_kind_pays_more_than_its_share(
    rollouts: dict[int, int], gradient: dict[int, int], windows: int, burnt: int, mode: str
) -> None:
    rule = dataclasses.replace(RULE, weight_mode=mode, burn_share_permille=burnt)  # type: ignore[arg-type]
    gradient = {uid + 100: power for uid, power in gradient.items()}
    kinds = [
        KindOfWork(Fraction(12 - windows, 12), {uid + 50: power for uid, power in rollouts.items()}, 2**127),
        KindOfWork(Fraction(windows, 12), gradient, 2**90),
    ]
    found = shares_of_powers(kinds, rule)
    assert sum(found.values()) == WEIGHT_TOTAL
    paid = sum(weight for uid, weight in found.items() if uid >= 100)
    assert paid <= WEIGHT_TOTAL * Fraction(windows * (1000 - burnt), 12_000) + len(gradient)


def test_pay_moves_over_twelve_windows_when_a_network_turns() -> None:
    for turned in range(15):
        shares = shares_of_kinds(["rollouts"] * 20 + ["gradient"] * turned)
        assert shares.get("gradient", 0) == Fraction(min(turned, 12), 12)
        assert sum(shares.values()) == 1
    assert shares_of_kinds(["gradient"]) == {"gradient": 1}
    assert shares_of_kinds(["rollouts", "gradient"]) == {"gradient": Fraction(1, 12), "rollouts": Fraction(11, 12)}


def test_the_share_of_a_kind_that_nobody_worked_at_burns() -> None:
    kinds = [KindOfWork(Fraction(3, 12), {1: 0}, 100), KindOfWork(Fraction(9, 12), {2: 50}, 100)]
    assert shares_of_powers(kinds, RULE) == {0: 65_535 - 24_576, 1: 0, 2: 24_576}
    uncapped = shares_of_powers(kinds, dataclasses.replace(RULE, weight_mode="uncapped"))
    assert uncapped == {0: 16_384, 1: 0, 2: 49_151}


def test_a_miner_is_paid_for_both_kinds_and_windows_before_a_network_had_any_burn() -> None:
    kinds = [KindOfWork(Fraction(4, 12), {7: 3, 8: 1}, 4), KindOfWork(Fraction(4, 12), {7: 9}, 9)]
    assert shares_of_powers(kinds, RULE) == {0: 21_845, 7: 16_384 + 21_845, 8: 5461}


def test_powers_of_different_units_do_not_meet() -> None:
    """A kind whose powers are 2¹⁰⁰ times as large gets no more for it."""
    one = shares_of_powers([(Fraction(1, 2), {1: 5}, 10), (Fraction(1, 2), {2: 5}, 10)], RULE)
    other = shares_of_powers([(Fraction(1, 2), {1: 5}, 10), (Fraction(1, 2), {2: 5 << 100}, 10 << 100)], RULE)
    assert one == other


@pytest.mark.parametrize(
    "kinds",
    [
        [(Fraction(7, 12), {}, 1), (Fraction(6, 12), {}, 1)],
        [(Fraction(-1, 12), {}, 1)],
        [(Fraction(1), {1: -1}, 1)],
        [(Fraction(1), {1: 0}, 0)],
    ],
)
def test_shares_and_powers_that_are_none_are_refused(kinds: list[tuple[Fraction, dict[int, int], int]]) -> None:
    with pytest.raises(ValueError, match=r"shares of kinds|powers"):
        shares_of_powers(kinds, RULE)
