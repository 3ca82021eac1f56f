"""Audit follows money, and the sample is one nobody can foresee or starve."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import Candidate, Hotkey, check_probabilities, draw, sample_rollouts, select_miners

Row = tuple[int, int]  # group, rollout
CAP = 5000
FLOOR = Fraction(1, 10)
FULL = Candidate(CAP, 4 * CAP)


def key(i: int) -> Hotkey:
    return Hotkey(i.to_bytes(32, "big"))


def trusted(declared: int) -> Candidate:
    return Candidate(declared, 4 * CAP)


CANDIDATES = st.dictionaries(
    st.integers(0, 10**6).map(key),
    st.builds(Candidate, st.integers(0, 6000), st.integers(0, 72 * CAP), st.booleans()),
    max_size=50,
)


# Chances --------------------------------------------------------------------------------------------------------------


@given(CANDIDATES)
@settings(max_examples=200)
def test_a_chance_is_that_of_the_text(candidates: dict[Hotkey, Candidate]) -> None:
    free = {hotkey: min(one.declared, CAP) for hotkey, one in candidates.items() if not one.in_lookback}
    newcomers = [hotkey for hotkey, counted in free.items() if candidates[hotkey].supported < 4 * counted]
    chances = check_probabilities(candidates)
    assert list(chances) == list(candidates)
    for hotkey, one in candidates.items():
        if one.in_lookback:
            assert chances[hotkey] == FLOOR
            continue
        among = sum(counted for other, counted in free.items() if hotkey in newcomers or other not in newcomers)
        expected = max(FLOOR, min(Fraction(1), Fraction(35 * free[hotkey], among) if among else FLOOR))
        if hotkey in newcomers:
            expected = max(expected, min(Fraction(1, 2), Fraction(8, len(newcomers))))
        assert chances[hotkey] == expected


@given(CANDIDATES, st.integers(1, 200), st.integers(0, 6000), st.integers(0, 72 * CAP))
def test_hotkeys_inside_a_look_back_take_nobodys_place(
    candidates: dict[Hotkey, Candidate], more: int, declared: int, supported: int
) -> None:
    before = check_probabilities(candidates)
    flood = {key(10**9 + i): Candidate(declared, supported, in_lookback=True) for i in range(more)}
    after = check_probabilities(candidates | flood)
    assert {hotkey: after[hotkey] for hotkey in before} == before
    assert all(after[hotkey] == FLOOR for hotkey in flood)


@given(st.integers(CAP, 6000), st.integers(CAP, 6000))
def test_declaring_beyond_what_pay_counts_moves_no_chance(mine: int, theirs: int) -> None:
    others = {key(i): trusted(CAP) for i in range(80)}
    chances = check_probabilities(others | {key(1000): trusted(mine), key(1001): Candidate(theirs)})
    assert chances == check_probabilities(others | {key(1000): trusted(CAP), key(1001): Candidate(CAP)})


@given(CANDIDATES, st.integers(1, 200), st.integers(0, 6000), st.integers(0, 72 * CAP))
def test_newcomers_move_no_chance_of_who_is_none(
    candidates: dict[Hotkey, Candidate], more: int, declared: int, supported: int
) -> None:
    """However many register, and whatever they seal."""
    new = Candidate(declared, min(supported, 4 * min(declared, CAP) - 1) if declared else 0)
    flood = {key(10**9 + i): new for i in range(more)}
    before, after = check_probabilities(candidates), check_probabilities(candidates | flood)
    for hotkey, one in candidates.items():
        if one.in_lookback or one.supported >= 4 * min(one.declared, CAP):
            assert after[hotkey] == before[hotkey]


@given(st.integers(1, 200), st.integers(1, CAP))
def test_newcomers_are_drawn_by_their_share_of_all_and_no_less_than_their_floor(newcomers: int, declared: int) -> None:
    """Their audits come on top of the 35 of the others: 35 more at most, or as many as the floors give."""
    others = {key(i): FULL for i in range(100)}
    chances = check_probabilities(others | {key(1000 + i): Candidate(declared) for i in range(newcomers)})
    share = Fraction(35 * declared, 100 * CAP + newcomers * declared)
    assert chances[key(1000)] == max(FLOOR, share, min(Fraction(1, 2), Fraction(8, newcomers)))
    audits = sum((chance for hotkey, chance in chances.items() if hotkey >= key(1000)), Fraction(0))
    assert min(Fraction(newcomers, 2), Fraction(8)) <= audits <= max(Fraction(35), newcomers * FLOOR, Fraction(8))
    assert sum((chances[hotkey] for hotkey in others), Fraction(0)) == 35


@pytest.mark.parametrize(
    ("trusted_ones", "newcomers", "chance_of_trusted", "chance_of_new"),
    [
        (0, 200, None, Fraction(35, 200)),  # a network begins: everybody is new
        (100, 0, Fraction(35, 100), None),
        (3, 0, Fraction(1), None),
        (0, 3, None, Fraction(1)),
        (2, 3, Fraction(1), Fraction(1)),
        (1, 199, Fraction(1), Fraction(35, 200)),  # the first whom audits support
        (35, 35, Fraction(1), Fraction(1, 2)),
        (216, 40, Fraction(35, 216), Fraction(8, 40)),
    ],
)
def test_chances_where_all_are_new_where_none_is_and_where_there_are_few(
    trusted_ones: int, newcomers: int, chance_of_trusted: Fraction | None, chance_of_new: Fraction | None
) -> None:
    old = {key(i): FULL for i in range(trusted_ones)}
    new = {key(1000 + i): Candidate(CAP) for i in range(newcomers)}
    chances = check_probabilities(old | new)
    assert {chances[hotkey] for hotkey in old} == ({chance_of_trusted} if old else set())
    assert {chances[hotkey] for hotkey in new} == ({chance_of_new} if new else set())


def test_who_grows_beyond_its_audits_is_drawn_as_a_newcomer() -> None:
    others = {key(i): FULL for i in range(100)}
    small = Candidate(160, 4 * 160)
    assert check_probabilities(others | {key(1000): small})[key(1000)] == FLOOR
    assert check_probabilities(others | {key(1000): Candidate(161, 4 * 160)})[key(1000)] == Fraction(1, 2)
    assert check_probabilities(others | {key(1000): Candidate(CAP, 4 * CAP - 1)})[key(1000)] == Fraction(1, 2)


def test_nobody_declares_anything_and_all_have_the_floor() -> None:
    nothing = {key(0): Candidate(0), key(1): Candidate(0, 100), key(2): Candidate(50, in_lookback=True)}
    assert set(check_probabilities(nothing).values()) == {FLOOR}
    assert check_probabilities({}) == {}


def test_probabilities_are_exact_at_the_border() -> None:
    selections = select_miners(bytes(32), {key(i): trusted(16) for i in range(35)})
    assert all(s.probability == 1 and s.selected for s in selections)


@pytest.mark.parametrize("wrong", [(-1, 0), (0, -1)])
def test_impossible_candidates_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        Candidate(*wrong)
    with pytest.raises(ValueError, match="32 bytes"):
        select_miners(bytes(32), {Hotkey(b"short"): FULL})


# Coins ----------------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), CANDIDATES)
def test_a_coin_below_its_chance_is_checked_and_of_those_that_can_earn_at_least_two_are(
    seed: bytes, candidates: dict[Hotkey, Candidate]
) -> None:
    selections = select_miners(seed, candidates)
    assert [s.hotkey for s in selections] == sorted(candidates)
    by_coin = {s.hotkey for s in selections if Fraction(s.coin, 2**64) < s.probability}
    chosen = {s.hotkey for s in selections if s.selected}
    free = {hotkey for hotkey, one in candidates.items() if not one.in_lookback}
    assert by_coin <= chosen
    assert len(chosen & free) == max(len(by_coin & free), min(2, len(free)))
    for s in selections:
        if s.selected and s.hotkey not in by_coin:
            assert s.hotkey in free
            assert all(s.coin < o.coin for o in selections if not o.selected and o.hotkey in free)


@given(st.binary(min_size=32, max_size=32), CANDIDATES, st.randoms())
def test_order_of_candidates_does_not_matter(seed: bytes, candidates: dict[Hotkey, Candidate], rng: random.Random) -> None:
    entries = list(candidates.items())
    rng.shuffle(entries)
    assert select_miners(seed, dict(entries)) == select_miners(seed, candidates)


def test_coins_depend_on_the_seed_and_the_hotkey_only() -> None:
    few = {s.hotkey: s.coin for s in select_miners(bytes(32), {key(i): trusted(16) for i in range(5)})}
    many = {s.hotkey: s.coin for s in select_miners(bytes(32), {key(i): Candidate(160, i) for i in range(500)})}
    assert all(many[hotkey] == coin for hotkey, coin in few.items())
    assert len(set(many.values())) == 500
    other = select_miners(bytes([1]) * 32, {key(i): trusted(16) for i in range(5)})
    assert all(few[s.hotkey] != s.coin for s in other)


def test_about_35_of_equal_miners_are_checked_and_tiny_files_do_not_dilute() -> None:
    candidates = {key(i): trusted(1600) for i in range(100)}
    counts = [sum(s.selected for s in select_miners(key(seed), candidates)) for seed in range(100)]
    assert abs(sum(counts) / 100 - 35) < 2  # standard error 0.48
    diluted = candidates | {key(1000 + i): trusted(16) for i in range(100)}
    assert check_probabilities(diluted)[key(7)] > check_probabilities(candidates)[key(7)] * Fraction(98, 100)


# The sample of a file -------------------------------------------------------------------------------------------------


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
