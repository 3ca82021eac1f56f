"""Audit follows money, and the sample is one nobody can foresee or starve."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import Hotkey, check_probability, draw, sample_rollouts, select_miners

Row = tuple[int, int]  # group, rollout


def key(i: int) -> Hotkey:
    return Hotkey(i.to_bytes(32, "big"))


@given(st.integers(0, 20_000), st.integers(0, 10**6))
def test_a_chance_is_35_shares_between_a_tenth_and_one(declared: int, others: int) -> None:
    total = declared + others
    p = check_probability(declared, total)
    assert Fraction(1, 10) <= p <= 1
    if total and Fraction(1, 10) <= Fraction(35 * declared, total) <= 1:
        assert p == Fraction(35 * declared, total)


@given(st.binary(min_size=32, max_size=32), st.dictionaries(st.integers(0, 10**6), st.integers(0, 20_000), max_size=50))
def test_a_coin_below_its_chance_is_checked_and_at_least_two_are(seed: bytes, counts: dict[int, int]) -> None:
    declared = {key(i): n for i, n in counts.items()}
    selections = select_miners(seed, declared)
    assert [s.hotkey for s in selections] == sorted(declared)
    by_coin = {s.hotkey for s in selections if Fraction(s.coin, 2**64) < s.probability}
    chosen = {s.hotkey for s in selections if s.selected}
    assert by_coin <= chosen
    assert len(chosen) == max(len(by_coin), min(2, len(declared)))
    for s in selections:
        if s.selected and s.hotkey not in by_coin:
            assert all(s.coin < o.coin for o in selections if not o.selected)


def test_coins_depend_on_the_seed_and_the_hotkey_only() -> None:
    few = {s.hotkey: s.coin for s in select_miners(bytes(32), {key(i): 16 for i in range(5)})}
    many = {s.hotkey: s.coin for s in select_miners(bytes(32), {key(i): 160 for i in range(500)})}
    assert all(many[hotkey] == coin for hotkey, coin in few.items())
    assert len(set(many.values())) == 500
    other = select_miners(bytes([1]) * 32, {key(i): 16 for i in range(5)})
    assert all(few[s.hotkey] != s.coin for s in other)


def test_about_35_of_equal_miners_are_checked_and_tiny_files_do_not_dilute() -> None:
    declared = {key(i): 1600 for i in range(100)}
    counts = [sum(s.selected for s in select_miners(key(seed), declared)) for seed in range(100)]
    assert abs(sum(counts) / 100 - 35) < 2  # standard error 0.48
    target = next(s.probability for s in select_miners(key(0), declared) if s.hotkey == key(7))
    diluted = select_miners(key(0), declared | {key(1000 + i): 16 for i in range(100)})
    share = next(s.probability for s in diluted if s.hotkey == key(7))
    assert share > target * Fraction(98, 100)


def test_probabilities_are_exact_at_the_border() -> None:
    selections = select_miners(bytes(32), {key(i): 16 for i in range(35)})
    assert all(s.probability == 1 and s.selected for s in selections)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 4), st.integers(0, 3))
def test_small_files_are_checked_whole(seed: bytes, n: int, gap: int) -> None:
    groups = list(range(gap, gap + n))
    sample = sample_rollouts(seed, groups)
    assert sample.places == tuple((g, r) for g in groups for r in range(16))
    assert sample.reserve == ()


@given(st.binary(min_size=32, max_size=32), st.integers(5, 120))
@settings(max_examples=50)
def test_large_files_give_two_whole_groups_and_one_row_of_up_to_32_others(seed: bytes, n: int) -> None:
    groups = [2 * g for g in range(n)]
    sample = sample_rollouts(seed, groups)
    assert len(sample.whole_groups) == 2
    singles = [g for g, _ in sample.singles]
    assert len(set(singles)) == len(singles) == min(32, n - 2)
    assert not set(singles) & set(sample.whole_groups)
    assert len(sample.places) == len(set(sample.places)) <= 64
    assert not set(sample.reserve) & set(sample.places)
    assert len(set(sample.reserve)) == len(sample.reserve) == min(64, 16 * (n - 2) - len(singles))


def reference_sample(seed: bytes, groups: list[int]) -> tuple[tuple[int, ...], tuple[Row, ...], tuple[Row, ...]]:
    """The text of section 1, with the whole permutation laid out."""
    whole = [groups[i] for i in draw(seed, "grail/draw/groups", len(groups), 2)]
    others = [g for g in groups if g not in whole]
    order = [(others[i // 16], i % 16) for i in draw(seed, "grail/draw/singles", 16 * len(others), 16 * len(others))]
    singles: list[Row] = []
    rest: list[Row] = []
    for row in order:
        if len(singles) < 32 and row[0] not in {g for g, _ in singles}:
            singles.append(row)
        else:
            rest.append(row)
    return tuple(whole), tuple(singles), tuple(rest[:64])


@pytest.mark.parametrize("n", [5, 6, 20, 33, 34, 35, 60, 400])
def test_the_lazy_sample_is_that_of_the_whole_permutation(n: int) -> None:
    for seed in range(5):
        groups = [g + (g > 2) for g in range(n)]
        sample = sample_rollouts(key(seed), groups)
        assert (sample.whole_groups, sample.singles, sample.reserve) == reference_sample(key(seed), groups)


def test_every_row_is_sampled_about_equally_often() -> None:
    hits = dict.fromkeys(((g, r) for g in range(40) for r in range(16)), 0)
    for i in range(400):
        for row in sample_rollouts(key(i), range(40)).places:
            hits[row] += 1
    # 64 of 640 rows: 40 ± 6 each
    assert all(10 <= count <= 75 for count in hits.values())


@pytest.mark.parametrize("groups", [[], [1, 1], [2, 1]])
def test_groups_out_of_order_have_no_sample(groups: list[int]) -> None:
    with pytest.raises(ValueError):
        sample_rollouts(bytes(32), groups)
