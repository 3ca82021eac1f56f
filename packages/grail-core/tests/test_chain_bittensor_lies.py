"""Nodes of a real subnet that tell numbers of blocks that are not, or that have no state: not believed, left, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.base import has_passed, weights_update
from grail_core.chain.bittensor.adapter import BittensorChain
from grail_core.chain.bittensor.heads import AGE_EVERY_BLOCKS
from grail_core.chain.bittensor.plausibility import FORGOTTEN_BLOCKS, SLACK_BLOCKS
from grail_core.chain.bittensor.reading import ELSEWHERE_SECONDS
from grail_core.errors import ChainError
from grail_core.protocol.types import Block
from tooling.testing.faults import events
from tooling.testing.keys import ALICE, BOB

pytest.importorskip("bittensor")

import bittensor

from tooling.testing.simulated_bittensor import extrinsics
from tooling.testing.simulated_bittensor.subnet import SimulatedSubnet
from tooling.testing.simulated_bittensor.substrate import SimulatedSubstrate

LIES: dict[str, dict[str, Any]] = {
    "blocks that are not": {"ahead": 1000},
    "invented blocks with hashes and times": {"ahead": 1000, "invents": True},
    "the finalised above the best": {"finality_above": 500},
    "a negative number": {"says": -5},
    "2^32": {"says": 2**32},
    "2^200": {"says": 2**200},
}


@pytest.fixture
def subnet(tmp_path: Path) -> SimulatedSubnet:
    return SimulatedSubnet(tmp_path, (ALICE, BOB))


@pytest.fixture
def opened(subnet: SimulatedSubnet) -> Iterator[Callable[..., BittensorChain]]:
    made: list[BittensorChain] = []

    def adapter(*names: str, **options: Any) -> BittensorChain:
        made.append(subnet.adapter(*names, **options))
        return made[-1]

    yield adapter
    for one in made:
        one.close()


@pytest.mark.parametrize("lie", LIES)
def test_an_endpoint_whose_numbers_cannot_be_is_left_and_none_of_them_is_believed(
    lie: str, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback")
    assert (chain.current_block(), chain.finalised_block()) == (40, 37)
    subnet.faults.set("primary", **LIES[lie])
    with events() as names:
        for _ in range(3):
            subnet.advance(1)
            assert chain.finalised_block() == subnet.chain.finalised_block()
            assert chain.current_block() == subnet.chain.current_block()
    assert names == ["chain_head_doubted", "chain_endpoint_left"]
    assert chain.endpoint == "fallback:1"
    assert chain.metagraph().block == 40


@pytest.mark.parametrize("lie", [name for name in LIES if "invented" not in name])
def test_nor_is_one_that_lies_from_the_start(lie: str, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]) -> None:
    """With hashes and times that fit it would be: nothing else is known then."""
    subnet.faults.set("primary", **LIES[lie])
    chain = opened("primary", "fallback")
    with events() as names:
        assert chain.finalised_block() == 37
    assert names == ["chain_head_doubted", "chain_endpoint_left"]


@pytest.mark.parametrize("lie", LIES)
def test_where_nobody_tells_a_head_that_can_be_there_is_an_error_and_no_number(
    lie: str, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary")
    chain.current_block()
    subnet.faults.set("primary", **LIES[lie])
    with events() as names:
        for _ in range(3):
            before = len(subnet.slept)
            with pytest.raises(ChainError, match="can be") as caught:
                chain.finalised_block()
            assert len(subnet.slept) > before  # nobody's loop is a busy one
    assert names == ["chain_head_doubted"]
    assert "BT_CHAIN_ENDPOINT" in caught.value.hint
    subnet.faults.clear()
    subnet.advance(1)
    assert chain.current_block() == subnet.chain.current_block()


def test_blocks_within_what_time_allows_are_found_out_where_their_time_is_asked_for(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    """A few blocks are an honest node's head start; it does not keep them for long."""
    chain = opened("primary", "fallback")
    chain.current_block()
    subnet.faults.set("primary", ahead=SLACK_BLOCKS)
    for _ in range(AGE_EVERY_BLOCKS):
        subnet.advance(1)
        chain.current_block()
    assert chain.endpoint == "fallback:1"


@pytest.mark.parametrize("invents", [False, True])
def test_an_endpoint_that_invents_blocks_attracts_nobody_whose_own_stands(
    invents: bool, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback")
    chain.current_block()
    subnet.faults.set("fallback", ahead=10_000, invents=invents)
    subnet.faults.set("primary", head_at=40)
    with events() as names:
        for _ in range(6):
            subnet.advance(1)
            assert chain.current_block() == 40
    assert chain.endpoint == "primary:1"
    assert "chain_endpoint_left" not in names
    assert names.count("chain_head_doubted") == 1


def test_weights_that_were_lost_go_to_no_endpoint_that_invents_blocks(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "liar", "sound")
    subnet.faults.set("primary", loses=True)
    subnet.faults.set("liar", ahead=500)
    chain.set_weights(ALICE, {0: 1})
    subnet.advance(10)
    chain.set_weights(ALICE, {0: 1})
    assert chain.endpoint == "sound:1"
    subnet.advance(5)
    assert weights_update(chain, ALICE.hotkey, chain.finalised_block()) == 51


def test_a_block_of_the_clocks_future_is_not_shown_and_its_absence_is_no_pruned_nodes(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary")
    chain.current_block()
    subnet.faults.set("primary", ahead=1000, invents=True)
    for number in (800, 2**200):
        with pytest.raises(ChainError, match="there is no block") as caught:
            chain.block(Block(number))
        assert "archive" not in caught.value.hint


def test_no_block_is_final_for_ever_by_an_impossible_finality(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary")
    chain.current_block()
    subnet.faults.set("primary", forked=True, finality_above=500)
    assert chain.block(Block(40)).hash != subnet.chain.parameters.block_hash(40)
    subnet.faults.clear()
    assert chain.block(Block(40)).hash == subnet.chain.parameters.block_hash(40)


def test_what_everybody_contradicts_for_long_was_the_lie(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that told a low number as of now, and nothing afterwards, keeps nobody from the others for ever."""
    monkeypatch.setattr("tooling.testing.simulated_bittensor.node.Node.time_of", lambda node, number: subnet.chain.now_ms())
    subnet.faults.set("primary", head_at=5)
    chain = opened("primary", "fallback")
    assert chain.current_block() == 5
    monkeypatch.undo()
    subnet.faults.set("primary", unreachable=True)
    seen = []
    for _ in range(FORGOTTEN_BLOCKS + SLACK_BLOCKS):
        subnet.advance(1)
        try:
            seen.append(chain.current_block())
        except ChainError:
            assert not seen
    assert seen
    assert seen[-1] == subnet.chain.current_block()


def test_a_clock_that_jumps_with_its_blocks_accuses_nobody_and_polls_cost_one_request(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As localnet's does, and a machine that slept."""
    chain = opened("primary", "fallback")
    chain.current_block()
    asked: list[str] = []
    query = SimulatedSubstrate.query

    async def counted(substrate: SimulatedSubstrate, module: str, name: str, *rest: Any, **options: Any) -> Any:
        asked.append(name)
        return await query(substrate, module, name, *rest, **options)

    monkeypatch.setattr(SimulatedSubstrate, "query", counted)
    with events() as names:
        for blocks in (1, 300, 5000):
            subnet.advance(blocks)
            assert chain.current_block() == subnet.chain.current_block()
        jumps = len(asked)
        for _ in range(2 * AGE_EVERY_BLOCKS):
            subnet.advance(1)
            chain.current_block()
            chain.finalised_block()
    assert names == []
    assert (jumps, len(asked)) == (2, 4)


def test_a_clock_of_ones_own_that_is_behind_is_said(subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]) -> None:
    chain = opened("primary", "fallback", clock=lambda: subnet.chain.now_ms() - 3_599_000)
    with pytest.raises(ChainError, match=r"359\d s ahead of this machine's clock") as caught:
        chain.current_block()
    assert "time server" in caught.value.hint


@pytest.mark.parametrize("blocks", [0, 1000], ids=["of now", "invented"])
def test_a_block_has_passed_only_where_a_later_one_can_be_shown(
    blocks: int, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the adapter itself is deceived."""
    chain = opened("primary")
    assert not has_passed(chain, Block(40))
    assert has_passed(chain, Block(39))
    if blocks:
        monkeypatch.setattr(chain, "current_block", lambda: Block(40 + blocks))
        with pytest.raises(ChainError):
            has_passed(chain, Block(900))


# --- state that is broken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["none", "garbage", "trap"])
def test_an_endpoint_with_right_numbers_and_no_state_is_left_for_one_that_has_it(
    state: str, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback")
    chain.current_block()
    subnet.faults.set("primary", state=state)
    with events() as names:
        assert [neuron.hotkey for neuron in chain.metagraph().neurons] == [ALICE.hotkey, BOB.hotkey]
        chain.set_weights(ALICE, {0: 1})
    assert names == ["chain_endpoint_left"]
    assert chain.endpoint == "fallback:1"


@pytest.mark.parametrize(("state", "said"), [("none", "no subnet 81"), ("garbage", "cannot be read"), ("trap", "wasm trap")])
def test_what_nobody_can_answer_is_no_reason_to_leave_and_others_are_not_asked_each_time(
    state: str, said: str, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = opened("primary", "fallback")
    chain.current_block()
    for name in ("primary", "fallback"):
        subnet.faults.set(name, state=state)
    asked: list[str] = []
    runtime_call = SimulatedSubstrate.runtime_call

    async def counted(substrate: SimulatedSubstrate, *arguments: Any, **options: Any) -> Any:
        asked.append(substrate._node.name)
        return await runtime_call(substrate, *arguments, **options)

    monkeypatch.setattr(SimulatedSubstrate, "runtime_call", counted)
    with events() as names:
        for _ in range(3):
            with pytest.raises(ChainError, match=said):
                chain.metagraph()
        assert asked.count("fallback") == 1
        subnet.pass_seconds(ELSEWHERE_SECONDS)
        with pytest.raises(ChainError, match=said):
            chain.metagraph()
    assert asked.count("fallback") == 2
    assert names == []
    assert chain.endpoint == "primary:1"


def test_weights_that_an_endpoint_could_not_take_go_through_another_one(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = SimulatedSubstrate.submit

    async def broken(substrate: SimulatedSubstrate, *arguments: Any, **options: Any) -> Any:
        if substrate._node.name == "primary":
            raise bittensor.ChainError("Internal error: the pool is gone")
        return await submit(substrate, *arguments, **options)

    monkeypatch.setattr(SimulatedSubstrate, "submit", broken)
    chain = opened("primary", "fallback")
    with pytest.raises(ChainError, match="pool is gone"):
        chain.set_weights(ALICE, {0: 1})
    subnet.advance(10)
    chain.set_weights(ALICE, {0: 1})
    subnet.advance(5)
    assert weights_update(chain, ALICE.hotkey, chain.finalised_block()) == 51


# --- commitments whose answer was lost --------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [0, 2], ids=["at once", "two blocks later"])
def test_a_commitment_whose_answer_was_lost_is_found_on_the_chain_before_a_refusal_is_told(
    later: int, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, tries = SimulatedSubstrate.submit, 0
    sleep, held = subnet.pass_seconds, []

    async def cut_off(substrate: SimulatedSubstrate, *arguments: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            if later:
                held.append((substrate, arguments))
            else:
                await submit(substrate, *arguments, **options)
            raise bittensor.RpcConnectionError("connection reset")
        return extrinsics.refused("the chain refuses it: CommitmentSetRateLimitExceeded", "CommitmentSetRateLimitExceeded")

    def pass_seconds(seconds: float) -> None:
        sleep(seconds)
        if held and len(subnet.slept) == later:
            _, (call, keypair) = held.pop()
            extrinsics.submit(subnet.chain, tuple(call), keypair)

    monkeypatch.setattr(SimulatedSubstrate, "submit", cut_off)
    monkeypatch.setattr(subnet, "pass_seconds", pass_seconds)
    chain = opened("primary")
    chain.commit(ALICE, "s3:0:bucket:new")
    subnet.advance(5)
    assert chain.metagraph().neurons[0].commitment == "s3:0:bucket:new"


def test_a_commitment_that_was_refused_and_is_not_there_is_refused(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def cut_off(substrate: SimulatedSubstrate, *arguments: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise bittensor.RpcConnectionError("connection reset")
        return extrinsics.refused("the chain refuses it: CommitmentSetRateLimitExceeded", "CommitmentSetRateLimitExceeded")

    monkeypatch.setattr(SimulatedSubstrate, "submit", cut_off)
    with pytest.raises(ChainError, match="CommitmentSetRateLimitExceeded"):
        opened("primary").commit(ALICE, "s3:0:bucket:new")
