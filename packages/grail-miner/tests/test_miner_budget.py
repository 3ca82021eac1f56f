"""The time budget never starts what cannot be finished, and heals from a bad estimate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grail_miner.budget import TimeBudget

seconds = st.floats(0.01, 1000)


def test_the_first_batch_of_a_run_is_tried_with_one_group() -> None:
    assert TimeBudget().groups_that_fit(10.0, at_most=8) == 1


def test_nothing_is_started_in_the_uploads_reserve() -> None:
    budget = TimeBudget(group_seconds=0.1, finish_seconds=3.0)
    assert budget.groups_that_fit(6.0, at_most=8) == 0


def test_on_a_clock_that_stands_still_every_group_fits_however_slow_the_machine() -> None:
    budget = TimeBudget()
    budget.observe_groups(1, 0.0)
    budget.observe_finish(0.0)
    assert budget.groups_that_fit(1.5, at_most=64) == 64
    assert budget.groups_that_fit(0.0, at_most=64) == 0


@given(left=seconds, group=seconds, finish=seconds, at_most=st.integers(0, 64))
def test_what_is_started_fits_before_the_deadline(left: float, group: float, finish: float, at_most: int) -> None:
    fitting = TimeBudget(group, finish).groups_that_fit(left, at_most)
    assert 0 <= fitting <= at_most
    if fitting:
        assert fitting * group + 2 * finish <= left + 1e-6


@given(start=seconds, truth=seconds)
def test_a_wrong_estimate_heals_within_twenty_observations(start: float, truth: float) -> None:
    budget = TimeBudget(group_seconds=start)
    for _ in range(20):
        budget.observe_groups(4, 4 * truth)
    assert budget.group_seconds is not None
    assert abs(budget.group_seconds - truth) <= 0.001 * max(start, truth)
