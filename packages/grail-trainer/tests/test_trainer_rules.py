"""Whose groups a trainer learns from, where a checkpoint goes, and whose state it refuses."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError
from grail_core.keys import LocalSigner
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_trainer.data.turns import Candidate, fair_order, first_of, max_share, within_share
from grail_trainer.publishing.publication import first_reachable
from grail_trainer.state import TrainerState
from grail_trainer.steps import Beginning


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_no_hotkey_gives_more_than_its_share(counts: list[int]) -> None:
    offered = {Hotkey(bytes([i]) * 32): range(count) for i, count in enumerate(counts)}
    order = [candidate.hotkey for candidate in fair_order(offered)]
    assert len(order) == sum(counts)
    kept = within_share(order, active=len(counts))
    assert kept == sorted(set(kept))
    for hotkey in offered:
        mine = sum(order[index] == hotkey for index in kept)
        assert Fraction(mine) <= max(Fraction(1), max_share(len(counts)) * len(kept))


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5))),
    st.integers(1, 12),
    st.integers(1, 4),
)
def test_file_by_file_the_batch_is_the_one_that_verifying_in_turn_gives(
    counts: list[int], bad: set[tuple[int, int]], max_groups: int, from_one: int
) -> None:
    """And no group is verified for it that would not be."""
    hotkeys = [Hotkey(bytes([i]) * 32) for i in range(len(counts))]
    order = fair_order({hotkey: range(count) for hotkey, count in zip(hotkeys, counts, strict=True)})
    fails = {Candidate(hotkeys[i], group) for i, group in bad if i < len(hotkeys)}
    in_turn: list[Candidate] = []
    tried: set[Candidate] = set()
    for candidate in order:
        if len(in_turn) == max_groups:
            break
        if sum(one.hotkey == candidate.hotkey for one in in_turn) < from_one:
            tried.add(candidate)
            if candidate not in fails:
                in_turn.append(candidate)
    known: set[Candidate] = set()
    planned = first_of(order, known & fails, max_groups, from_one)
    while not known.issuperset(planned):
        known.update(planned)
        planned = first_of(order, known & fails, max_groups, from_one)
    assert planned == in_turn
    assert known == tried


def test_shares_are_a_tenth_or_twice_an_even_one() -> None:
    assert [max_share(n) for n in (1, 2, 3, 9, 10, 50)] == [
        Fraction(1),
        Fraction(1),
        Fraction(2, 3),
        Fraction(2, 9),
        Fraction(1, 10),
        Fraction(1, 10),
    ]


def test_a_checkpoint_takes_the_first_window_it_can_reach() -> None:
    from grail_core.protocol.network import LOCALNET, SUBNET_81

    lead = LOCALNET.checkpoint_lead
    least = 30 + LOCALNET.checkpoint_least_distance * 30
    assert first_reachable(Window(30), Block(least - lead - 2), LOCALNET, spare=1) == least
    assert first_reachable(Window(30), Block(least - lead - 1), LOCALNET, spare=1) == least + 30
    assert first_reachable(Window(30), Block(0), SUBNET_81, spare=0) == 90


def test_the_state_of_another_network_is_refused(tmp_path: Path) -> None:
    owner = LocalSigner.from_seed(bytes(32)).hotkey
    TrainerState(tmp_path, network_id=Digest(bytes(32)), trainer=owner).take(Beginning(Window(0)))
    with pytest.raises(ConfigurationError, match="another network"):
        TrainerState(tmp_path, network_id=Digest(b"x" * 32), trainer=owner)
    (tmp_path / "journal.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        TrainerState(tmp_path, network_id=Digest(bytes(32)), trainer=owner)
