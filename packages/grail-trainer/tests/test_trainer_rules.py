"""Whose word a trainer takes, whose groups it learns from, where a checkpoint goes, and whose state it refuses."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError
from grail_core.keys import LocalSigner
from grail_core.protocol import MinerStatus, MinerVerdict, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.types import Block, Digest, Hotkey, Signature, Window
from grail_core.protocol.verdicts import Versions
from grail_trainer.batch import fair_order, max_share, within_share
from grail_trainer.intake import accepted_digests, have_spoken
from grail_trainer.publication import first_reachable
from grail_trainer.state import TrainerState
from grail_trainer.steps import Beginning

# --- who decides ------------------------------------------------------------------------------------------------------

A, B, C, MINER, OTHER = (Hotkey(bytes([i]) * 32) for i in range(1, 6))
FILE, REPLACED = Digest(b"f" * 32), Digest(b"r" * 32)


def _says(*entries: tuple[Hotkey, Digest, MinerStatus], status: WindowStatus = WindowStatus.SCORED) -> SignedVerdict:
    miners = tuple(
        MinerVerdict(hotkey, uid, state, content_digest=digest, checked=state is not MinerStatus.NOT_SELECTED, active=True)
        for uid, (hotkey, digest, state) in enumerate(entries)
    )
    body = VerdictBody(Digest(bytes(32)), Window(30), status, Versions("0", "0", "0"), miners=miners)
    return SignedVerdict(body, A, Signature(bytes(64)))


YES, NO, UNSEEN = MinerStatus.ACCEPTED, MinerStatus.FAILED, MinerStatus.NOT_SELECTED


def test_a_file_needs_more_than_half_of_the_stake_that_judged_it() -> None:
    stake = {A: 5, B: 3, C: 2}
    assert (
        accepted_digests({A: _says((MINER, FILE, YES)), B: _says((MINER, FILE, NO)), C: _says((MINER, FILE, NO))}, stake) == {}
    )
    assert accepted_digests({A: _says((MINER, FILE, YES)), B: _says((MINER, FILE, NO))}, stake) == {MINER: FILE}
    assert accepted_digests({A: _says((MINER, FILE, NO)), B: _says((MINER, FILE, YES))}, stake) == {}


def test_a_validator_that_did_not_judge_a_file_does_not_count() -> None:
    stake = {A: 5, B: 3}
    for silent in (_says((MINER, FILE, UNSEEN)), _says(status=WindowStatus.INCONCLUSIVE), _says()):
        assert accepted_digests({A: silent, B: _says((MINER, FILE, YES))}, stake) == {MINER: FILE}


def test_two_contents_of_one_miner_are_two_files_and_neither_is_taken() -> None:
    stake = {A: 5, B: 5}
    assert accepted_digests({A: _says((MINER, FILE, YES)), B: _says((MINER, REPLACED, YES))}, stake) == {}


def test_validators_with_half_of_the_stake_are_not_enough_to_go_on_without_the_rest() -> None:
    stake = {A: 5, B: 3, C: 2}
    assert not have_spoken({A: _says()}, stake)
    assert have_spoken({A: _says(), C: _says()}, stake)


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
