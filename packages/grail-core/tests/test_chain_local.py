"""The development chain applies what is signed and allowed, includes it in the next block, and never changes a block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grail_core.chain.base import Chain, Metagraph
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.extrinsics import Call, sign_extrinsic
from grail_core.chain.development.local import LocalChain, StaleNonceError
from grail_core.chain.development.state import ChainRules
from grail_core.errors import ChainError
from grail_core.protocol.types import Block, Hotkey, Signature
from tooling.testing.keys import ALICE, BOB, CAROL

GENESIS_MS = 1_700_000_000_000
TAO = 10**9


def make(path: Path, **changes: Any) -> LocalChain:
    options: dict[str, Any] = {"seed": 7, "clock": ClockMode.VIRTUAL, "genesis_time_ms": GENESIS_MS, **changes}
    return LocalChain.create(path / "chain.sqlite", **options)


@pytest.fixture
def chain(tmp_path: Path) -> LocalChain:
    return make(tmp_path)


def test_it_is_a_chain(chain: LocalChain) -> None:
    typed: Chain = chain
    assert typed.netuid == 81
    assert len(typed.genesis_hash) == 32
    assert typed.block(Block(0)).hash == typed.genesis_hash


def test_a_seeded_chain_reproduces_whenever_it_is_made(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b", genesis_time_ms=GENESIS_MS + 12_345)
    other_seed, other_netuid = make(tmp_path / "c", seed=8), make(tmp_path / "d", netuid=82)
    for each in (first, second, other_seed, other_netuid):
        each.advance(5)
    assert first.genesis_hash == second.genesis_hash
    assert [first.block(Block(n)).hash for n in range(6)] == [second.block(Block(n)).hash for n in range(6)]
    assert len({each.genesis_hash for each in (first, other_seed, other_netuid)}) == 3
    assert len({first.block(Block(n)).hash for n in range(6)}) == 6


def test_block_times_are_regular_and_a_future_block_does_not_exist(chain: LocalChain) -> None:
    chain.advance(3)
    assert chain.block(Block(3)).timestamp_ms == GENESIS_MS + 3 * 1_500
    for missing in (4, -1):
        with pytest.raises(ChainError, match="no block"):
            chain.block(Block(missing))
    with pytest.raises(ChainError, match="no block"):
        chain.metagraph(Block(4))


def test_finality_lags_behind_the_head(tmp_path: Path) -> None:
    chain = make(tmp_path, finality_lag=3)
    assert chain.finalised_block() == 0
    chain.advance(10)
    assert (chain.current_block(), chain.finalised_block()) == (10, 7)


def test_an_extrinsic_is_in_force_from_the_block_after_it_and_no_block_changes(chain: LocalChain) -> None:
    chain.advance(4)
    before = chain.metagraph(Block(4))
    assert chain.register(ALICE) == 0
    chain.commit(ALICE, "fs:alice")
    assert chain.metagraph(Block(4)) == before
    assert before.neurons == ()
    chain.advance(1)
    neuron = chain.metagraph(Block(5)).by_hotkey(ALICE.hotkey)
    assert neuron is not None
    assert (neuron.uid, neuron.registered_at, neuron.commitment, neuron.commitment_block) == (0, 5, "fs:alice", 5)
    assert chain.metagraph(Block(4)) == before
    assert LocalChain.open(chain._path).metagraph(Block(4)) == before


def test_the_metagraph_of_a_past_block_shows_what_was_then(chain: LocalChain) -> None:
    chain.register(ALICE)
    chain.commit(ALICE, "fs:old")
    chain.advance(10)
    chain.commit(ALICE, "fs:new")
    chain.register(BOB)
    chain.advance(10)
    then, now = chain.metagraph(Block(10)), chain.metagraph()
    assert [n.commitment for n in then.neurons] == ["fs:old"]
    assert [n.commitment for n in now.neurons] == ["fs:new", None]
    assert now.block == 19


def test_a_forged_replayed_or_foreign_extrinsic_is_refused(chain: LocalChain, tmp_path: Path) -> None:
    genuine = sign_extrinsic(
        ALICE, genesis_hash=chain.genesis_hash, netuid=chain.netuid, call=Call.REGISTER, arguments={}, nonce=0
    )
    for forged in (
        dataclasses.replace(genuine, hotkey=BOB.hotkey),
        dataclasses.replace(genuine, call=Call.DEREGISTER),
        dataclasses.replace(genuine, arguments={"amount": 1}),
        dataclasses.replace(genuine, nonce=1),
        dataclasses.replace(genuine, signature=Signature(bytes(64))),
        dataclasses.replace(genuine, signature=Signature(b"short")),
        dataclasses.replace(genuine, hotkey=Hotkey(b"short")),
    ):
        with pytest.raises(ChainError, match="not signed"):
            chain.submit(forged)
    with pytest.raises(ChainError, match="not signed"):
        make(tmp_path / "other", seed=8).submit(genuine)
    assert chain.submit(genuine) == 1
    with pytest.raises(StaleNonceError):
        chain.submit(genuine)


def test_registration_gives_the_lowest_free_uid_once(tmp_path: Path) -> None:
    chain = make(tmp_path, rules=ChainRules(max_uids=2))
    assert [chain.register(ALICE), chain.register(BOB)] == [0, 1]
    with pytest.raises(ChainError, match="registered already"):
        chain.register(ALICE)
    with pytest.raises(ChainError, match="full"):
        chain.register(CAROL)
    chain.deregister(ALICE)
    assert chain.register(CAROL) == 0


@pytest.mark.parametrize("text", ["", "x" * 129, "é" * 65])
def test_a_commitment_has_1_to_128_bytes(chain: LocalChain, text: str) -> None:
    chain.register(ALICE)
    with pytest.raises(ChainError, match="128 bytes"):
        chain.commit(ALICE, text)
    chain.commit(ALICE, "é" * 64)


def test_only_registered_hotkeys_commit_stake_and_weigh(chain: LocalChain) -> None:
    attempts: list[Callable[[], None]] = [
        lambda: chain.commit(ALICE, "fs:a"),
        lambda: chain.stake(ALICE, TAO),
        lambda: chain.set_weights(ALICE, {0: 1}),
        lambda: chain.deregister(ALICE),
    ]
    for attempt in attempts:
        with pytest.raises(ChainError, match="not registered"):
            attempt()


def test_permits_go_to_the_most_staked_and_only_they_set_weights(tmp_path: Path) -> None:
    chain = make(tmp_path, rules=ChainRules(max_validators=1))
    for signer, stake in ((ALICE, TAO), (BOB, 2 * TAO), (CAROL, TAO // 2)):
        chain.register(signer)
        chain.stake(signer, stake)
    chain.advance(2)
    assert [n.validator_permit for n in chain.metagraph().neurons] == [False, True, False]
    with pytest.raises(ChainError, match="no validator permit"):
        chain.set_weights(ALICE, {2: 1})
    chain.set_weights(BOB, {2: 65535, 0: 1})
    chain.stake(BOB, -2 * TAO)
    chain.advance(2)
    assert [n.validator_permit for n in chain.metagraph().neurons] == [True, False, False]
    assert chain.weights() == {BOB.hotkey: {0: 1, 2: 65535}}
    with pytest.raises(ChainError, match="stake lies between"):
        chain.stake(BOB, -1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "at least one"),
        ({9: 1}, "UID 9"),
        ({0: 65536}, "65535"),
        ({0: -1}, "65535"),
        ({0: 0}, "all zero"),
        ({0: 1.5}, "encoded"),
    ],
)
def test_bad_weights_are_refused_and_do_not_count_for_the_rate_limit(
    chain: LocalChain, weights: dict[int, int], message: str
) -> None:
    chain.register(ALICE)
    chain.stake(ALICE, TAO)
    with pytest.raises(ChainError, match=message):
        chain.set_weights(ALICE, weights)
    chain.set_weights(ALICE, {0: 1})


def test_weights_are_rate_limited_from_inclusion_to_inclusion(tmp_path: Path) -> None:
    chain = make(tmp_path, rules=ChainRules(weights_rate_limit=5))
    chain.register(ALICE)
    chain.stake(ALICE, TAO)
    chain.set_weights(ALICE, {0: 1})
    for _ in range(5):
        with pytest.raises(ChainError, match="rate limit"):
            chain.set_weights(ALICE, {0: 2})
        chain.advance(1)
    chain.set_weights(ALICE, {0: 2})


def test_a_hotkey_that_leaves_loses_its_uid_and_the_weights_on_it(chain: LocalChain) -> None:
    for signer in (ALICE, BOB):
        chain.register(signer)
    chain.stake(ALICE, TAO)
    chain.set_weights(ALICE, {0: 1, 1: 3})
    chain.deregister(BOB)
    chain.advance(2)
    assert chain.metagraph().by_hotkey(BOB.hotkey) is None
    assert chain.weights() == {ALICE.hotkey: {0: 1}}


def test_earnings_follow_the_weights_from_the_block_they_are_in_force(chain: LocalChain) -> None:
    for signer in (ALICE, BOB):
        chain.register(signer)
    chain.stake(ALICE, TAO)
    chain.advance(9)
    chain.set_weights(ALICE, {1: 7})  # in force from block 10
    chain.advance(11)
    assert chain.earnings(Block(0), Block(9)) == {}
    assert chain.earnings(Block(0), Block(20)) == {ALICE.hotkey: 11 * TAO // 2, BOB.hotkey: 11 * TAO // 2}
    assert chain.emission().share == {0: chain.emission().share[1], 1: chain.emission().share[0]}


def test_opening_what_is_no_chain_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ChainError) as caught:
        LocalChain.open(tmp_path / "none")
    assert "BT_CHAIN_ENDPOINT" in caught.value.hint
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no database at all" * 100)
    empty = tmp_path / "empty"
    empty.touch()
    for path in (garbage, empty):
        with pytest.raises(ChainError) as caught:
            LocalChain.open(path)
        assert caught.value.where == str(path)


def test_creating_where_a_chain_is_changes_nothing(tmp_path: Path) -> None:
    chain = make(tmp_path)
    chain.register(ALICE)
    with pytest.raises(ChainError, match="already"):
        make(tmp_path, seed=9)
    assert chain.nonce(ALICE.hotkey) == 1


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 3)), max_size=14), data=st.data())
def test_whatever_people_do_past_blocks_never_change(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    chain = make(tmp_path_factory.mktemp("chain"), rules=ChainRules(weights_rate_limit=2))
    seen: dict[Block, tuple[Metagraph, Mapping[Hotkey, Mapping[int, int]]]] = {}
    for action, who, number in steps:
        signer = (ALICE, BOB, CAROL)[who]
        try:
            if action == 0:
                chain.register(signer)
            elif action == 1:
                chain.commit(signer, f"fs:{number}")
            elif action == 2:
                chain.stake(signer, number * TAO)
            elif action == 3:
                chain.set_weights(signer, {number: number})
            elif action == 4:
                chain.deregister(signer)
            else:
                chain.advance(number)
        except ChainError:
            pass
        head = chain.current_block()
        seen[head] = (chain.metagraph(head), chain.weights(head)) if head not in seen else seen[head]
    fresh = LocalChain.open(chain._path)
    for head in data.draw(st.permutations(sorted(seen))):
        assert (fresh.metagraph(head), fresh.weights(head)) == seen[head]
