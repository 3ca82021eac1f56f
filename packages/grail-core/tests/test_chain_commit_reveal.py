"""The development chain with commit-reveal, on a full subnet, and where a call says success and does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.base import Chain, weights_update
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.extrinsics import Call, sign_extrinsic
from grail_core.chain.development.local import LocalChain
from grail_core.chain.development.state import MAX_PENDING, ChainRules
from grail_core.chain.development.timelock import MAX_COMMIT_BYTES, close_weights
from grail_core.errors import ChainError
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block
from tooling.testing.keys import ALICE, BOB, CAROL, EVE

TAO = 10**9


def make(path: Path, *registered: Signer, **rules: Any) -> LocalChain:
    """A chain at block 10 with these hotkeys, the first of them with a permit."""
    chain = LocalChain.create(
        path / "chain.sqlite", seed=7, clock=ClockMode.VIRTUAL, genesis_time_ms=0, rules=ChainRules(**rules)
    )
    for signer in registered:
        chain.register(signer)
    chain.stake(registered[0], TAO)
    chain.advance(10)
    return chain


def commit(chain: LocalChain, signer: Signer, data: bytes | str, reveal: int) -> Block:
    text = data.hex() if isinstance(data, bytes) else data
    return chain.submit(
        sign_extrinsic(
            signer,
            genesis_hash=chain.genesis_hash,
            netuid=chain.netuid,
            call=Call.COMMIT_WEIGHTS,
            arguments={"commit": text, "reveal": reveal},
            nonce=chain.nonce(signer.hotkey),
        )
    )


# --- commit-reveal ----------------------------------------------------------------------------------------------------


def test_committed_weights_are_in_force_from_the_reveal_block_and_hidden_before(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB, reveal_blocks=6)
    typed: Chain = chain
    typed.set_weights(ALICE, {0: 1, 1: 3})  # at block 10: included in 11, revealed in 16
    chain.advance(1)
    assert chain.pending_weights(ALICE.hotkey, Block(10)) is None
    assert chain.pending_weights(ALICE.hotkey, Block(11)) == 11
    assert weights_update(chain, ALICE.hotkey, Block(11)) == 11
    chain.advance(10)
    assert chain.weights(Block(15)) == {}
    assert chain.weights(Block(16)) == {ALICE.hotkey: {0: 1, 1: 3}}
    assert chain.pending_weights(ALICE.hotkey, Block(16)) is None
    assert weights_update(chain, ALICE.hotkey, Block(20)) == 11  # the reveal is no update
    fresh = LocalChain.open(tmp_path / "chain.sqlite")
    assert (fresh.weights(Block(15)), fresh.weights(Block(16))) == (chain.weights(Block(15)), chain.weights(Block(16)))
    on_disk = (tmp_path / "chain.sqlite").read_bytes() + (tmp_path / "chain.sqlite-wal").read_bytes()
    assert b"[[0,1],[1,3]]" not in on_disk
    assert b"[[0, 1], [1, 3]]" not in on_disk


def test_earnings_follow_revealed_weights_from_the_reveal_block(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB, reveal_blocks=6)
    chain.set_weights(ALICE, {1: 7})
    chain.advance(15)
    assert chain.earnings(Block(0), Block(15)) == {}
    assert chain.earnings(Block(0), Block(20)) == {ALICE.hotkey: 5 * TAO // 2, BOB.hotkey: 5 * TAO // 2}
    assert chain.earnings(Block(14), Block(17)) == {ALICE.hotkey: TAO, BOB.hotkey: TAO}


def test_the_rate_limit_counts_from_commit_to_commit(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, reveal_blocks=2, weights_rate_limit=5)
    chain.set_weights(ALICE, {0: 1})
    chain.advance(4)  # revealed meanwhile
    with pytest.raises(ChainError, match="rate limit"):
        chain.set_weights(ALICE, {0: 2})
    chain.advance(1)
    chain.set_weights(ALICE, {0: 2})
    chain.advance(3)
    assert chain.weights() == {ALICE.hotkey: {0: 2}}


def test_a_uid_that_changed_hands_between_commit_and_reveal_gets_nothing(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB, CAROL, reveal_blocks=6)
    chain.set_weights(ALICE, {0: 1, 1: 3, 2: 5})
    chain.advance(1)
    chain.deregister(BOB)
    assert chain.register(EVE) == 1
    chain.advance(10)
    assert chain.weights() == {ALICE.hotkey: {0: 1, 2: 5}}


@pytest.mark.parametrize("what", ["permit", "registration"])
def test_a_commit_of_who_may_not_weigh_any_more_is_dropped(what: str, tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB, reveal_blocks=6)
    chain.set_weights(ALICE, {0: 1})
    if what == "permit":
        chain.stake(ALICE, -TAO)
    else:
        chain.deregister(ALICE)
        chain.register(ALICE)
        chain.stake(ALICE, TAO)
    chain.advance(10)
    assert chain.weights() == {}
    assert chain.pending_weights(ALICE.hotkey) is None


def test_a_commit_that_does_not_open_costs_nobody_anything(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB, reveal_blocks=6, weights_rate_limit=0)
    key = chain.parameters.block_hash(16)
    for data in (
        b"\x00",
        bytes(200),
        close_weights([[0, 1]], chain.parameters.block_hash(17), ALICE.hotkey),  # of another block
        close_weights([[0, 1]], key, BOB.hotkey),  # somebody else's, copied
        close_weights([[0, 70_000]], key, ALICE.hotkey),
        close_weights([[99, 1]], key, ALICE.hotkey),
        close_weights([[0]], key, ALICE.hotkey),
        close_weights([], key, ALICE.hotkey),
    ):
        commit(chain, ALICE, data, 16)
    chain.advance(10)
    assert chain.weights() == {}
    chain.set_weights(ALICE, {0: 1})
    chain.advance(10)
    assert chain.weights() == {ALICE.hotkey: {0: 1}}


def test_commits_are_bounded_and_come_where_the_subnet_wants_them(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB, reveal_blocks=6, weights_rate_limit=0)
    for data, reveal_at, words in (
        ("", 16, "1 to"),
        ("00" * (MAX_COMMIT_BYTES + 1), 16, "1 to"),
        ("no hex", 16, "hexadecimal"),
        ("00", 11, "reveal block"),
        ("00", 18, "reveal block"),
    ):
        with pytest.raises(ChainError, match=words):
            commit(chain, ALICE, data, reveal_at)
    with pytest.raises(ChainError, match="no validator permit"):
        commit(chain, BOB, b"x", 16)
    for _ in range(MAX_PENDING):
        commit(chain, ALICE, b"x", 16)
    with pytest.raises(ChainError, match="wait for their reveal"):
        commit(chain, ALICE, b"x", 16)
    with pytest.raises(ChainError, match="committed on this subnet"):
        chain._send(ALICE, Call.SET_WEIGHTS, {"weights": [[0, 1]]})
    with pytest.raises(ChainError, match="set in the open"):
        commit(make(tmp_path / "open", ALICE), ALICE, b"x", 16)


# --- a full subnet ----------------------------------------------------------------------------------------------------


def test_on_a_full_subnet_who_earns_least_past_its_immunity_loses_its_uid(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB, CAROL, max_uids=3, immunity_blocks=15)
    chain.set_weights(ALICE, {1: 5, 2: 1})
    chain.advance(4)
    with pytest.raises(ChainError, match="full") as caught:
        chain.register(EVE)
    assert "15 blocks" in caught.value.hint
    chain.advance(1)
    assert chain.register(EVE) == 2
    chain.advance(2)
    graph = chain.metagraph()
    assert [n.hotkey for n in graph.neurons] == [ALICE.hotkey, BOB.hotkey, EVE.hotkey]
    assert graph.neurons[2].registered_at == 16
    assert chain.weights() == {ALICE.hotkey: {1: 5}}
    assert chain.metagraph(Block(15)).neurons[2].hotkey == CAROL.hotkey


def test_the_owners_uid_is_never_taken_and_ties_go_to_who_is_there_longest(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, max_uids=3, immunity_blocks=0)
    chain.register(BOB)
    chain.advance(1)
    chain.register(CAROL)
    chain.advance(1)
    assert chain.register(EVE) == 1
    owner_only = make(tmp_path / "one", ALICE, max_uids=1, immunity_blocks=0)
    with pytest.raises(ChainError, match="full"):
        owner_only.register(BOB)


# --- what the chain shows ---------------------------------------------------------------------------------------------


def test_a_set_of_weights_moves_last_update_to_the_block_that_includes_it(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB)
    assert weights_update(chain, ALICE.hotkey, Block(10)) is None
    assert weights_update(chain, EVE.hotkey, Block(10)) is None
    chain.set_weights(ALICE, {1: 1})
    chain.advance(1)
    assert (weights_update(chain, ALICE.hotkey, Block(10)), weights_update(chain, ALICE.hotkey, Block(11))) == (None, 11)


def test_a_lost_call_says_success_and_the_chain_shows_that_it_was_none(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB)
    chain.lose_weights(ALICE.hotkey, 2)
    elsewhere = LocalChain.open(tmp_path / "chain.sqlite")
    for process in (chain, elsewhere):
        process.set_weights(ALICE, {1: 1})
        chain.advance(2)
        assert weights_update(chain, ALICE.hotkey, chain.current_block()) is None
    chain.set_weights(ALICE, {1: 1})
    chain.advance(1)
    assert weights_update(chain, ALICE.hotkey, chain.current_block()) == chain.current_block()


def test_a_registration_is_no_update(tmp_path: Path) -> None:
    chain = make(tmp_path, ALICE, BOB)
    chain.set_weights(ALICE, {1: 1})
    chain.advance(1)
    chain.deregister(ALICE)
    chain.register(ALICE)
    chain.advance(2)
    assert weights_update(chain, ALICE.hotkey, chain.current_block()) is None
