"""Who is slow loses its own verdict: every file has its least time, and all together have a bound."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.files.evidence import MinerEvidence
from grail_core.protocol import MinerStatus
from grail_core.protocol.network import LOCALNET, SUBNET_81
from grail_core.protocol.types import Digest
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission
from grail_validator.judging import judge_window
from grail_validator.time_budget import TimeBudget, allowance, judging_seconds
from tooling.testing import plain_window as plain
from tooling.testing.plain_case import case, honest, stored

GREED = st.lists(st.floats(0, 3), min_size=1, max_size=100)
"""What each file takes, in allowances: above 1 it is stopped at 1."""


@given(GREED, st.floats(1, 1e5), st.floats(0.1, 100))
def test_every_file_has_its_least_time_and_all_together_a_bound_whatever_they_take(
    greed: list[float], shared: float, least: float
) -> None:
    spent = 0.0
    for before, greedy in enumerate(greed):
        allowed = allowance(shared, len(greed), before, spent, least)
        assert allowed >= least
        spent += min(1.0, greedy) * allowed
    assert spent <= (shared + least * len(greed)) * (1 + 1e-9)


@given(GREED, st.floats(1, 1e5), st.floats(0.1, 100))
def test_every_file_has_an_even_share_where_that_is_more_than_the_least_whatever_those_before_it_take(
    greed: list[float], shared: float, least: float
) -> None:
    """Two small, slow files of four left 36 s of 72 to each honest one behind them."""
    spent, even = 0.0, shared / len(greed)
    for before, greedy in enumerate(greed):
        allowed = allowance(shared, len(greed), before, spent, least)
        assert allowed >= max(least, even) * (1 - 1e-6) or even <= least
        spent += min(1.0, greedy) * allowed


@given(st.integers(1, 100), st.floats(1, 1e5), st.randoms())
def test_while_nobody_takes_more_than_an_even_share_everybody_has_one(files: int, shared: float, random: Random) -> None:
    spent = 0.0
    for before in range(files):
        assert allowance(shared, files, before, spent, 0) >= shared / files * (1 - 1e-6)
        spent += random.random() * shared / files


def test_what_quick_files_left_over_is_the_next_ones_and_half_of_what_is_left_where_many_are_drawn() -> None:
    assert allowance(100, 10, 0, 0, 0) == 10
    assert allowance(100, 10, 0, 0, 10) == 50
    assert allowance(100, 10, 0, 0, 60) == 60
    assert allowance(100, 10, 9, 5, 0) == 95
    assert allowance(100, 10, 5, 0, 0) == 60
    assert allowance(100, 10, 5, 200, 3) == 3
    with pytest.raises(ValueError, match="had their time"):
        allowance(100, 10, 10, 0, 0)


def test_the_shared_time_is_less_than_a_window() -> None:
    assert judging_seconds(SUBNET_81.block_time_ms) == 288
    assert judging_seconds(LOCALNET.block_time_ms) == 36


def test_of_an_unlimited_budget_nothing_is_over() -> None:
    budget = TimeBudget(float("inf"), 2, Clock())
    for _ in range(2):
        with budget.next_file() as left:
            assert left() == float("inf")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_file_that_takes_too_long_is_inconclusive_alone_and_the_rest_of_the_window_is_judged(
    slow: int,
) -> None:
    clock = Clock()
    window = case(*(stored(uid, honest(uid)) for uid in range(3)))
    looked_at: list[int] = []

    class Grading(plain.TruthfulSampling):
        """Asks before each rollout, as grading does; one miner's take an hour each."""

        def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
            uid = [miner.hotkey for miner in plain.MINERS].index(submission.hotkey)
            for _ in submission.rollouts:
                context.require_time("a grade")
                looked_at.append(uid)
                clock.now += 3600 if uid == slow else 0.01
            return super().measure(submission, context)

    def sampling(seed: Digest, probability: Fraction) -> Grading:
        return Grading(seed)

    result = judge_window(replace(window, means=replace(window.means, sampling=sampling), judging_s=288.0, clock=clock))
    statuses = [miner.status for miner in result.body.miners]
    assert statuses == [MinerStatus.INCONCLUSIVE if uid == slow else MinerStatus.ACCEPTED for uid in range(3)]
    assert "the time for one file's checks was over before a grade" in result.body.miners[slow].reason
    assert looked_at.count(slow) == 1  # it ends before the next rollout, not with the file
    assert result.body.miners[slow].checked  # it counts, as an inconclusive window of a hotkey without audits does
