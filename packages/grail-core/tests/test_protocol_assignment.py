"""Choosing problems does not pay, and one checkpoint is valid in a window."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import (
    CheckpointCandidate,
    Digest,
    MinerWindow,
    Window,
    allowed_gaps,
    best_prefix,
    count_groups,
    score_inputs,
    valid_checkpoint,
)


@given(st.integers(1, 300), st.sets(st.integers(0, 298), max_size=30))
def test_each_gap_costs_ten_groups_more(span: int, left_out: set[int]) -> None:
    ids = [g for g in range(span) if g not in left_out or g == span - 1]
    gaps = span - len(ids)
    if gaps > max(1, span // 20):
        with pytest.raises(ValueError, match="missing"):
            count_groups(ids)
        return
    counted = count_groups(ids)
    assert (counted.groups, counted.span, counted.gaps) == (len(ids), span, gaps)
    assert counted.declared == 16 * max(0, span - 11 * gaps)


@pytest.mark.parametrize("ids", [[], [-1], [0, 0], [1, 0], [0, 1, 1], [5], [0, 3], [10**12]])
def test_ids_out_of_order_or_far_ahead_reject(ids: list[int]) -> None:
    with pytest.raises(ValueError):
        count_groups(ids)


def test_one_gap_is_allowed_in_the_smallest_file_and_leaves_nothing() -> None:
    assert count_groups([1]).declared == 0
    assert [allowed_gaps(n) for n in (1, 39, 40, 60, 1250)] == [1, 1, 2, 3, 62]


@given(st.sets(st.integers(0, 400), max_size=400).map(sorted))
@settings(max_examples=200)
def test_no_beginning_of_a_file_declares_more_than_the_best_one(ids: list[int]) -> None:
    declared = []
    for length in range(len(ids) + 1):
        try:
            declared.append(count_groups(ids[:length]).declared)
        except ValueError:
            declared.append(0)
    best = best_prefix(ids)
    assert declared[best] == max(declared)
    # The longest one of those: what is paid alike is worked alike, and audited volume is the same.
    assert best == max(length for length, count in enumerate(declared) if count == max(declared) and (count or not length))


def test_a_group_lost_late_ends_the_file_and_one_lost_early_does_not() -> None:
    whole = list(range(313))
    assert best_prefix(whole) == 313
    assert best_prefix([g for g in whole if g != 310]) == 310
    assert best_prefix([g for g in whole if g != 100]) == 312
    assert best_prefix([g for g in whole if g != 302]) == 312  # 302 groups before it, 312 − 10 with it: the longer one
    assert best_prefix([g for g in whole if g != 303]) == 303
    assert best_prefix([]) == best_prefix([5]) == 0


@given(st.integers(1, 313), st.data())
def test_a_lost_group_costs_at_most_what_follows_it_and_at_most_eleven(span: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, span - 1))
    ids = [g for g in range(span) if g != lost]
    kept = ids[: best_prefix(ids)]
    declared = count_groups(kept).declared if kept else 0
    assert declared == 16 * max(lost, span - 11 if lost < span - 1 else 0)


def test_a_gap_is_not_given_back_by_the_rows_that_are_there() -> None:
    skipper = count_groups([g for g in range(40) if g not in (3, 9)])
    entry = MinerWindow(Window(300), skipper.declared, True, True, 16 * skipper.groups, False, Fraction(1, 3))
    inputs = score_inputs([entry], Window(300))
    assert Fraction(inputs.product_valid, inputs.product_declared) == 1
    assert inputs.work == inputs.supported == 16 * 18


def candidate(sequence: int, valid_from: int, stored: int, lead: int) -> CheckpointCandidate:
    return CheckpointCandidate(Digest(bytes([sequence]) * 32), sequence, Window(valid_from), stored, lead)


def valid_sequence(chain: list[CheckpointCandidate], window: int) -> int | None:
    chosen = valid_checkpoint(chain, Window(window))
    return None if chosen is None else chosen.sequence


def test_the_newest_checkpoint_in_force_is_valid() -> None:
    chain = [candidate(0, 0, 50, 0), candidate(1, 60, 5, 10), candidate(2, 120, 5, 10)]
    assert [valid_sequence(chain, t) for t in (0, 30, 60, 90, 120, 3000)] == [0, 0, 1, 1, 2, 2]


def test_a_checkpoint_stored_at_or_after_its_lead_block_is_skipped_for_good() -> None:
    chain = [candidate(0, 0, 50, 0), candidate(1, 60, 10, 10)]
    assert valid_sequence(chain, 60) == 0
    assert valid_sequence(chain, 60_000) == 0
    assert valid_sequence([candidate(1, 60, 9, 10)], 60) == 1


def test_only_the_first_checkpoint_needs_no_lead() -> None:
    assert valid_sequence([candidate(0, 60, 10**12, 0)], 60) == 0
    assert valid_sequence([candidate(0, 60, 10**12, 0)], 30) is None
    assert valid_sequence([candidate(1, 60, 10**12, 0)], 60) is None
    assert valid_sequence([], 60) is None


def test_order_of_listing_does_not_matter_and_doubles_are_refused() -> None:
    chain = [candidate(s, 60 * s, 0, 10) for s in range(5)]
    assert valid_checkpoint(chain, Window(180)) == valid_checkpoint(chain[::-1], Window(180)) == chain[3]
    with pytest.raises(ValueError, match="share"):
        valid_checkpoint([*chain, candidate(9, 60, 0, 10)], Window(180))
    with pytest.raises(ValueError, match="no window"):
        candidate(1, 61, 0, 10)
