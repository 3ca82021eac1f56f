"""Gradient work, sections 4, 8, 10 and 12: slices nobody shares, and draws nobody can steer."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.protocol.gradient import challenge
from grail_core.protocol.gradient.assignment import (
    Assignment,
    Permutation,
    Place,
    first_common_place,
    place_number,
    require_sequences,
)
from tooling.testing.gradient_rules import NETWORK, digest
from tooling.testing.gradient_specs import TINY

SEED = digest("a window seed")


@pytest.mark.parametrize("step", range(3))
def test_every_number_is_hit_once_and_found_again(step: int) -> None:
    for n in range(2 + step, 301, 3):
        permutation = Permutation(NETWORK, SEED, n)
        images = [permutation(x) for x in range(n)]
        assert sorted(images) == list(range(n))
        assert [permutation.inverse(y) for y in images] == list(range(n))


def test_places_next_to_each_other_lie_anywhere() -> None:
    """χ² of 20,000 consecutive places of 10⁶ over 100 equal parts (99 degrees of freedom: 99.99 % are below 160)."""
    permutation = Permutation(NETWORK, SEED, 10**6)
    parts = Counter(permutation(x) // 10_000 for x in range(20_000))
    assert sum((parts[part] - 200) ** 2 / 200 for part in range(100)) < 160
    near = sum(abs(permutation(x + 1) - permutation(x)) < 10_000 for x in range(2000))
    assert near < 80  # 2 % of 2000 are expected


@given(st.integers(0, 2**48 - 2))
def test_the_largest_corpus_is_walked_both_ways(x: int) -> None:
    permutation = Permutation(NETWORK, SEED, 2**48 - 1)
    assert permutation.inverse(permutation(x)) == x


def test_another_round_or_network_is_assigned_otherwise() -> None:
    one = [Permutation(NETWORK, SEED, 10**6)(x) for x in range(8)]
    assert one != [Permutation(NETWORK, digest("another"), 10**6)(x) for x in range(8)]
    assert one != [Permutation(bytes(32), SEED, 10**6)(x) for x in range(8)]


def test_slices_are_disjoint_and_membership_is_one_inverse() -> None:
    spec = dataclasses.replace(TINY, sequences=1000)
    assignment = Assignment(spec, NETWORK, SEED)
    owned = {
        assignment.assigned(uid, step, row): Place(uid, step, row)
        for uid in range(10)
        for step in range(spec.inner_steps)
        for row in range(spec.batch_most)
    }
    assert len(owned) == 10 * spec.assigned
    assert all(assignment.place_of(index) == place for index, place in owned.items())
    common = {assignment.common(place) for place in range(first_common_place(spec, 9), spec.sequences)}
    assert not common & owned.keys()
    assert common | owned.keys() == set(range(1000))


def test_a_smaller_batch_is_the_beginning_of_a_larger_one() -> None:
    assignment = Assignment(TINY, NETWORK, SEED)
    assert assignment.batch(3, 2, 8)[:4] == assignment.batch(3, 2, 4)
    assert assignment.batch(3, 2, 8) == [assignment.assigned(3, 2, row) for row in range(8)]
    for size in (3, 9):
        with pytest.raises(ValueError, match="4 … 8 are allowed"):
            assignment.batch(3, 2, size)
    for place in (Place(-1, 0, 0), Place(0, 4, 0), Place(0, 0, 8)):
        with pytest.raises(ValueError, match="4 steps of 8 rows"):
            place_number(TINY, place)


def test_half_of_the_corpus_is_nobodys() -> None:
    spec = dataclasses.replace(TINY, sequences=2 * TINY.assigned * 10)
    require_sequences(spec, 9)
    with pytest.raises(ValueError, match="no work in this round"):
        require_sequences(spec, 10)


# Draws ----------------------------------------------------------------------------------------------------------------


def test_everybody_is_scored_on_the_same_common_places_and_the_guard_on_the_first() -> None:
    spec = dataclasses.replace(TINY, guard=16)
    places = challenge.common_places(spec, SEED, 255)
    assert len(set(places)) == spec.common
    assert all(first_common_place(spec, 255) <= place < spec.sequences for place in places)
    assert challenge.guard_places(spec, SEED, 255) == places[:16]


def test_own_sequences_are_those_that_were_trained_on() -> None:
    for batch in (4, 8):
        places = challenge.own_places(TINY, SEED, 5, batch)
        assert len(set(places)) == TINY.own
        assert all(place.uid == 5 and place.step < 4 and place.row < batch for place in places)
    assert len(challenge.own_places(dataclasses.replace(TINY, own=64), SEED, 5, 4)) == 16


def test_every_chunk_and_step_can_be_drawn_and_a_small_layout_opens_whole() -> None:
    drawn = [challenge.opened(TINY, digest(i), 20) for i in range(100)]
    assert all(len(set(one.chunks)) == TINY.chunks_drawn for one in drawn)
    assert {chunk for one in drawn for chunk in one.chunks} == set(range(20))
    assert {one.step for one in drawn} == {0, 1, 2, 3}
    assert set(challenge.opened(TINY, SEED, 3).chunks) == {0, 1, 2}


def test_the_replay_coin_falls_at_its_rate_and_at_the_ends_only_the_first_step_is_replayed() -> None:
    half = dataclasses.replace(TINY, replay_permille=500, commit="ends")
    steps = [challenge.replayed_step(half, digest(i)) for i in range(400)]
    assert set(steps) == {0, None}
    assert 150 < steps.count(0) < 250
    never = dataclasses.replace(TINY, replay_permille=0)
    assert not any(challenge.replay_falls(never, digest(i)) for i in range(100))
    assert {challenge.forced_step(never, digest(i)) for i in range(100)} == {0, 1, 2, 3}


def test_a_fifth_of_the_seats_is_newcomers_and_the_rest_goes_by_worth() -> None:
    powers = {uid: 100 - uid for uid in range(20)} | {30: 100, 31: 0, 32: 0, 33: 0}
    order = challenge.merge_order(TINY, SEED, powers, [31, 32, 33])
    assert len(order) == len(powers) == len(set(order))
    assert set(order[:2]) < {31, 32, 33}  # ⌈8/5⌉
    assert order[2:5] == [0, 30, 1]
    assert challenge.merge_order(TINY, SEED, {1: 5, 2: 7}, []) == [2, 1]
    assert {challenge.newcomer_seats(TINY, digest(i), [31, 32, 33])[0] for i in range(40)} == {31, 32, 33}
    with pytest.raises(ValueError, match="no candidate"):
        challenge.merge_order(TINY, SEED, {1: 5}, [2])
