"""The time budget never starts what cannot be finished, and heals from a bad estimate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grail_miner.budget import TimeBudget

seconds = st.floats(0.01, 1000)


def known(
    group: float, finish: float, *, judge: float = 0.0, prove: float = 0.0, slots: int = 1, first: float = 0.0
) -> TimeBudget:
    return TimeBudget(group, finish, first, judge, prove, slots)


def test_the_first_group_of_a_run_is_tried_alone_until_it_is_through_every_stage() -> None:
    budget = TimeBudget()
    assert budget.groups_that_fit(10.0, at_most=8) == 1
    budget.observe_groups(1, 0.1)
    assert budget.groups_that_fit(10.0, at_most=8, in_flight=1) == 0
    budget.observe_judged(0.1)
    budget.observe_proved(0.1)
    assert budget.groups_that_fit(10.0, at_most=8) == 8


def test_a_first_group_that_was_lost_is_followed_by_another() -> None:
    assert TimeBudget(group_seconds=0.1).groups_that_fit(10.0, at_most=8, in_flight=0) == 1


def test_nothing_is_started_in_the_uploads_reserve() -> None:
    assert known(0.1, 3.0).groups_that_fit(6.0, at_most=8) == 0


def test_what_is_in_flight_must_still_be_proved() -> None:
    budget = known(1.0, 0.0, prove=2.0)
    assert budget.groups_that_fit(10.0, at_most=8) == 3
    assert budget.groups_that_fit(10.0, at_most=8, in_flight=3) == 2
    assert budget.groups_that_fit(10.0, at_most=8, in_flight=5) == 0


def test_more_provers_shorten_what_is_in_flight() -> None:
    assert known(1.0, 0.0, prove=2.0, slots=2).groups_that_fit(10.0, at_most=8) == 4


def test_a_small_batch_takes_no_less_than_its_first_group() -> None:
    budget = known(1.0, 0.0, first=6.0)
    assert budget.groups_that_fit(5.0, at_most=8) == 0
    assert budget.groups_that_fit(6.0, at_most=8) == 6


def test_drawing_ends_once_a_group_that_is_whole_now_comes_too_late() -> None:
    budget = known(1.0, 1.0, judge=0.5, prove=2.0)
    assert not budget.too_late_to_draw(5.0, waiting=0)
    assert budget.too_late_to_draw(4.5, waiting=0)
    assert budget.too_late_to_draw(6.5, waiting=1)


def test_on_a_clock_that_stands_still_every_group_fits_however_slow_the_machine() -> None:
    budget = known(0.0, 0.0)
    assert budget.groups_that_fit(1.5, at_most=64, in_flight=300) == 64
    assert not budget.too_late_to_draw(1.5, waiting=300)
    assert budget.groups_that_fit(0.0, at_most=64) == 0


@given(
    left=seconds,
    group=seconds,
    finish=seconds,
    judge=seconds,
    prove=seconds,
    at_most=st.integers(0, 64),
    in_flight=st.integers(0, 64),
)
def test_what_is_started_fits_before_the_deadline(
    left: float, group: float, finish: float, judge: float, prove: float, at_most: int, in_flight: int
) -> None:
    budget = known(group, finish, judge=judge, prove=prove)
    fitting = budget.groups_that_fit(left, at_most, in_flight)
    assert 0 <= fitting <= at_most
    if fitting:
        generated = max(fitting * group, budget.drain_seconds(in_flight))
        assert generated + budget.drain_seconds(fitting) + 2 * finish <= left + 1e-6


@given(start=seconds, truth=seconds)
def test_a_wrong_estimate_heals_within_twenty_observations(start: float, truth: float) -> None:
    budget = TimeBudget(group_seconds=start, judge_seconds=start, prove_seconds=start)
    for _ in range(20):
        budget.observe_groups(4, 4 * truth)
        budget.observe_judged(truth)
        budget.observe_proved(truth)
    for estimate in (budget.group_seconds, budget.judge_seconds, budget.prove_seconds):
        assert estimate is not None
        assert abs(estimate - truth) <= 0.001 * max(start, truth)
