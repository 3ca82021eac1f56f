"""What was not computed at all is found at any length of answer, by any class, and honest short answers never are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from grail_core.calibration.measure import HonestRow, mine, verify
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof
from grail_core.proof.coarse_bounds import (
    coarse_bounds,
    coarse_error,
    coarse_error_share,
    coarse_logprob,
    coarse_margin,
    coarse_margin_share,
)
from grail_core.proof.comparison import Comparison, Statistic
from grail_core.proof.sketches import projections
from grail_core.proof.statistics import evaluate
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, in_bfloat16, random_model

VOCABULARY = 64
SHAPE = Qwen2Shape(VOCABULARY, hidden=64, layers=3, context=128, spread=0.15)
SIGNS = projections(Randomness(bytes(32)), b"s" * 32, 64)
ENDS = frozenset(range(12))  # many: completions are short


def comparison(group: int, positions: int, error: float = 0.0, margin: float = 0.0, rollout: int = 0) -> Comparison:
    return Comparison(
        group,
        rollout,
        np.full((positions, 4), error, np.float32),
        np.zeros(positions, np.float32),
        np.ones(positions, np.float32),
        np.full(positions, margin),
    )


def rejecting(sample: Sequence[Comparison]) -> set[str]:
    return {statistic.name for statistic in coarse_bounds(sample) if statistic.rejects}


def test_a_rollout_or_a_group_with_enough_positions_is_held_alone() -> None:
    assert not coarse_error([comparison(1, 15, 1.0)]).rejects  # too few positions to say
    assert coarse_error([comparison(1, 8, 1.0), comparison(1, 8, 1.0)]).rejects
    assert coarse_error([comparison(1, 16, 0.31), comparison(2, 900)]).rejects
    assert not coarse_error([comparison(1, 16, 0.29), comparison(2, 16, 0.29)]).rejects
    found = coarse_error([comparison(7, 16, 0.4), comparison(8, 16)])
    assert (found.group, found.rollout, found.value, found.threshold) == (7, 0, 0.4, 0.3)
    assert not coarse_margin([comparison(1, 15, margin=4.0)]).rejects
    assert coarse_margin([comparison(1, 40, margin=1.5), comparison(1, 24, margin=1.5)]).rejects
    assert not coarse_margin([comparison(1, 35), comparison(1, 15, margin=4.0), comparison(1, 14)]).rejects  # 23 %
    assert coarse_margin([comparison(1, 49), comparison(1, 15, margin=4.0), comparison(1, 15, margin=4.0)]).rejects


def test_one_rollout_of_another_seed_stands_out_alone() -> None:
    honest, other = comparison(1, 31), comparison(1, 31)
    other.margins[:10] = 2.0
    found = coarse_margin([honest, honest, honest, other])
    assert (found.rejects, found.group, found.rollout) == (True, 1, 0)
    other.margins[:10] = 0.9
    assert not coarse_margin([other]).rejects


def test_single_rollouts_too_short_to_be_held_alone_are_held_together() -> None:
    assert coarse_error([comparison(g, 15, 1.0) for g in range(2)]).rejects
    found = coarse_error([comparison(g, 2, 1.0) for g in range(8)])
    assert (found.rejects, found.group, found.rollout) == (True, None, None)
    assert "single rollouts together" in found.detail
    assert not coarse_error([comparison(g, 2, 1.0) for g in range(7)]).rejects  # 14 positions
    assert coarse_margin([comparison(g, 2, margin=4.0) for g in range(8)]).rejects
    assert not coarse_margin([comparison(g, 2, margin=4.0) for g in range(7)]).rejects


def test_whole_honest_groups_do_not_hide_single_rollouts() -> None:
    honest = [comparison(100 + g, 30, rollout=r) for g in range(2) for r in range(16)]
    junk = [comparison(g, 15, 1.0, margin=4.0) for g in range(2)]
    assert rejecting([*honest, *junk]) == {"coarse_error", "coarse_margin"}


def test_very_short_junk_is_not_hidden_by_longer_honest_answers() -> None:
    """A liar chooses the lengths of what it makes up: one token each, beside honest answers of fifteen."""
    honest = [comparison(g, 15) for g in range(16)]
    junk = [comparison(50 + g, 1, 1.0, margin=4.0) for g in range(16)]
    assert rejecting([*honest, *junk]) == {"coarse_error", "coarse_error_share", "coarse_margin"}
    few = [*honest, *[comparison(60 + g, 1, 1.0, margin=4.0) for g in range(3)]]
    assert rejecting(few) == {"coarse_error_share"}  # three of nineteen, whose sixteen positions no pool has


@pytest.mark.parametrize(("bad", "of", "rejects"), [(2, 5, False), (3, 5, True), (3, 47, True), (3, 48, False), (4, 63, True)])
def test_more_than_one_in_sixteen_and_three_at_least_are_too_many(bad: int, of: int, rejects: bool) -> None:
    sample = [comparison(g, 4, *((1.0, 4.0) if g < bad else ())) for g in range(of)]
    for bound in (coarse_error_share(sample), coarse_margin_share(sample)):
        assert bound.rejects == rejects
        assert bound.value == pytest.approx(bad / of, abs=1e-6)
    short = [comparison(g, 3, 1.0, margin=4.0) for g in range(5)]
    assert coarse_error_share(short).rejects  # an error tells at any length
    assert not coarse_margin_share(short).rejects  # a margin does not: none of them is counted


def test_log_probabilities_are_held_without_a_table() -> None:
    sample = [comparison(g, 1) for g in range(16)]
    assert not coarse_logprob(sample).rejects
    for one in sample[:5]:
        one.logprob_errors[:] = -3.0
    assert not coarse_logprob(sample).rejects  # 15/16 of a nat
    sample[5].logprob_errors[:] = 2.0
    assert coarse_logprob(sample).rejects
    one_claim_is_no_number = [comparison(g, 30) for g in range(64)]
    one_claim_is_no_number[3].logprob_errors[7] = np.nan
    found = coarse_logprob(one_claim_is_no_number)
    assert (found.value, found.rejects) == (math.inf, True)


def test_a_state_without_a_sketch_counts_as_a_miss_and_a_margin_that_is_none_as_lost() -> None:
    for broken in (math.nan, math.inf, -math.inf):
        unprovable = comparison(1, 20)
        unprovable.errors[:] = broken
        unprovable.margins[:] = broken
        assert rejecting([unprovable]) == {"coarse_error", "coarse_margin"}
        assert math.isfinite(coarse_error([unprovable]).value)
    below = comparison(1, 20, margin=-5.0)  # no margin is: it would hide a lost position in a sum
    assert coarse_margin([below]).rejects


# On a real model


@pytest.fixture(scope="module")
def current() -> PolicyModel:
    return PolicyModel(in_bfloat16(random_model(SHAPE)))


@pytest.fixture(scope="module")
def prompts() -> list[tuple[int, ...]]:
    rng = np.random.default_rng(3)
    return [tuple(rng.integers(20, VOCABULARY, int(rng.integers(5, 40))).tolist()) for _ in range(34)]


def sampled(rows: list[HonestRow]) -> list[HonestRow]:
    """Two whole groups and one rollout of each other."""
    rng = np.random.default_rng(9)
    whole = [row for row in rows if row.group in (4, 11)]
    return whole + [rows[16 * g + int(rng.integers(16))] for g in range(len(rows) // 16) if g not in (4, 11)]


def without_a_table(model: PolicyModel, limit: int, rows: list[HonestRow]) -> list[Statistic]:
    return [s for s in evaluate(verify(model, GenerationPolicy(limit), rows, SIGNS), None) if s.rejects]


@pytest.mark.parametrize("limit", [1, 3, 15])
def test_the_shortest_honest_answers_are_accepted(current: PolicyModel, prompts: list[tuple[int, ...]], limit: int) -> None:
    rows = mine(current, GenerationPolicy(limit), ENDS, prompts, SIGNS)
    assert max(row.completion_length for row in rows) == limit
    assert without_a_table(current, limit, sampled(rows)) == []
    for start in range(0, len(rows), 16):
        assert without_a_table(current, limit, rows[start : start + 16]) == []  # a file of one group


@pytest.mark.parametrize("limit", [1, 3, 15])
def test_half_of_the_groups_made_up_are_rejected_without_a_table(
    current: PolicyModel, prompts: list[tuple[int, ...]], limit: int
) -> None:
    rows = mine(current, GenerationPolicy(limit), ENDS, prompts, SIGNS)
    rng = np.random.default_rng(5)

    def made_up(row: HonestRow) -> HonestRow:
        completion = rng.integers(20, VOCABULARY, row.completion_length).tolist()
        nothing = RolloutProof(bytes(len(row.proof.sketches)), np.zeros(row.completion_length, np.float32))
        return replace(row, tokens=(*row.tokens[: row.prompt_length], *completion), proof=nothing)

    def other_text(row: HonestRow) -> HonestRow:
        return replace(row, sampling_seed=row.sampling_seed ^ 12345)

    # The two whole groups are honest, so that the single rollouts are all there is against it.
    honest_groups = {4, 11, *range(0, 34, 2)}
    for change, checks in ((made_up, {"proof", "logprob", "sampling"}), (other_text, {"sampling"})):
        changed = [row if row.group in honest_groups else change(row) for row in rows]
        assert {s.check for s in without_a_table(current, limit, sampled(changed))} <= checks
        assert without_a_table(current, limit, sampled(changed)) != []
