"""Heads that stand behind a live connection, lag, or are replaced: noticed, said, left within five block times, healed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.bittensor.adapter import BittensorChain
from grail_core.chain.bittensor.heads import AGE_EVERY_BLOCKS, STANDS_BLOCKS
from grail_core.errors import ChainError
from grail_core.protocol.types import Block
from tooling.testing.faults import events
from tooling.testing.keys import ALICE, BOB

pytest.importorskip("bittensor")

from tooling.testing.simulated_bittensor.node import Node
from tooling.testing.simulated_bittensor.subnet import BLOCK_S, PassingStop, SimulatedSubnet

NOTICED_BLOCKS = 5
"""Block times within which a head that stands is left."""


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


def fields_of(record: logging.LogRecord) -> str:
    return str(vars(record))


@pytest.mark.parametrize("far", [2, 500], ids=["near the block", "far from it"])
@pytest.mark.parametrize("finalised", [False, True])
def test_a_frozen_head_is_left_within_five_block_times(
    finalised: bool, far: int, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback")
    chain.current_block()
    chain.finalised_block()
    subnet.faults.set("primary", head_at=40)
    frozen_ms = subnet.chain.now_ms()
    left_ms: list[int] = []

    def look(_: int) -> None:
        if not left_ms and chain.endpoint == "fallback:1":
            left_ms.append(subnet.chain.now_ms())
            stop.set()

    stop = PassingStop(subnet, most=200, each=look)
    with events() as names:
        chain.wait_for_block(Block(40 + far), stop=stop, finalised=finalised)
        if not left_ms:
            look(0)
    assert left_ms[0] - frozen_ms <= NOTICED_BLOCKS * BLOCK_S * 1000
    assert set(names) >= {"chain_endpoint_left"}
    assert {"chain_head_stands", "chain_finality_stands"} & set(names)
    assert chain.current_block() == subnet.chain.current_block()


def test_an_endpoint_whose_head_stood_before_anybody_looked_is_left_at_first_sight(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    subnet.faults.set("primary", head_at=30)
    chain = opened("primary", "fallback")
    with events() as names:
        assert chain.current_block() == 40
    assert names == ["chain_head_old", "chain_endpoint_left"]


def test_an_endpoint_that_lags_and_goes_on_lagging_is_left(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback")
    chain.current_block()
    subnet.faults.set("primary", behind=STANDS_BLOCKS + 1)
    seen = 0
    for _ in range(AGE_EVERY_BLOCKS + STANDS_BLOCKS + 2):
        subnet.advance(1)
        seen = chain.current_block()
    assert chain.endpoint == "fallback:1"
    assert seen == subnet.chain.current_block()


def test_where_every_head_stands_it_is_said_once_and_rarely_again_and_the_wait_heals(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], caplog: pytest.LogCaptureFixture
) -> None:
    chain = opened("primary", "fallback")
    chain.current_block()
    for name in ("primary", "fallback"):
        subnet.faults.set(name, head_at=41)
    thaw_after_s = 3 * 3600

    def thaw(_: int) -> None:
        if sum(stop.naps) >= thaw_after_s:
            subnet.faults.clear()

    stop = PassingStop(subnet, most=20_000, each=thaw)
    caplog.set_level(logging.INFO, "grail_core")
    assert chain.wait_for_block(Block(43), stop=stop)
    said = [record for record in caplog.records if record.getMessage() == "chain_head_stands"]
    assert 2 <= len(said) <= 12  # in three hours
    assert all(record.levelno == logging.ERROR for record in said)
    assert "none is further" in fields_of(said[0])
    assert "primary:1" in fields_of(said[0])
    assert 2 <= sum(record.getMessage() == "chain_wait_long" for record in caplog.records) <= 12
    assert chain.endpoint == "primary:1"
    with events() as names:
        for _ in range(3):
            subnet.advance(1)
            chain.current_block()
    assert "chain_head_goes_on" in names or any(record.getMessage() == "chain_head_goes_on" for record in caplog.records)
    assert min(stop.naps) >= BLOCK_S / 4  # and nobody was asked in a busy loop


def test_finality_that_stands_while_best_blocks_go_on_is_noticed_and_left(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback")
    chain.finalised_block()
    subnet.faults.set("primary", finality_at=37)
    with events() as names:
        for _ in range(NOTICED_BLOCKS):
            subnet.advance(1)
            chain.current_block()
            chain.finalised_block()
    assert "chain_finality_stands" in names
    assert "chain_head_stands" not in names
    assert chain.finalised_block() == subnet.chain.finalised_block()


def test_a_clock_that_is_moved_by_hand_and_stands_trips_nothing(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback")
    with events() as names:
        for _ in range(50):
            chain.current_block()
            chain.finalised_block()
        subnet.advance(100)
        chain.current_block()
        chain.finalised_block()
    assert names == []


def test_a_clock_that_jumps_while_a_number_is_asked_for_trips_nothing(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = opened("primary", "fallback")
    chain.finalised_block()
    final = Node.finalised

    def jumped(node: Node) -> int:
        before = final(node)
        monkeypatch.undo()
        subnet.advance(27)  # after the node has looked, and before its answer is here
        return before

    monkeypatch.setattr(Node, "finalised", jumped)
    with events() as names:
        assert chain.finalised_block() == 37
        assert chain.wait_for_block(Block(67), stop=PassingStop(subnet))
    assert names == []


def test_one_missed_slot_or_two_are_nothing(subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]) -> None:
    chain = opened("primary", "fallback")
    chain.current_block()
    subnet.faults.set("primary", head_at=40)
    with events() as names:
        subnet.pass_seconds(STANDS_BLOCKS * BLOCK_S - 1)
        assert chain.current_block() == 40
    assert names == []


def test_a_wrong_clock_of_ones_own_leaves_nobody(subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]) -> None:
    chain = opened("primary", "fallback", clock=lambda: subnet.chain.now_ms() + 3_600_000)
    with events() as names:
        for _ in range(2 * AGE_EVERY_BLOCKS):
            chain.current_block()
            subnet.advance(1)
    assert chain.endpoint == "primary:1"
    assert set(names) == {"chain_head_old"}
    assert len(names) <= 2


def test_a_clock_that_was_set_back_a_day_hides_no_head_that_stands(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    back_ms = 0
    chain = opened("primary", "fallback", clock=lambda: subnet.chain.now_ms() - back_ms)
    chain.current_block()
    back_ms = 86_400_000
    subnet.faults.set("primary", head_at=40)
    for _ in range(NOTICED_BLOCKS):
        chain.current_block()
        subnet.advance(1)
    assert chain.endpoint == "fallback:1"


@pytest.mark.parametrize("seconds", [0.0, -12.0, 1e9, float("nan")])
def test_a_node_that_says_that_a_block_takes_for_ever_is_not_waited_by(
    seconds: float, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def block_time(substrate: Any) -> float:
        return seconds

    monkeypatch.setattr("tooling.testing.simulated_bittensor.substrate.SimulatedSubstrate.block_time", block_time)
    stop = PassingStop(subnet)
    with pytest.raises(ChainError, match="a block takes"):
        opened("primary").wait_for_block(Block(50), stop=stop)
    assert stop.naps == []


def test_only_what_is_final_is_remembered_and_a_replaced_block_is_noticed(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary")
    subnet.faults.set("primary", forked=True)
    final, best = chain.block(Block(37)), chain.block(Block(40))
    assert best.hash != subnet.chain.parameters.block_hash(40)
    subnet.faults.clear()  # the node has come over to the network's branch
    with events() as names:
        assert chain.block(Block(37)) == final
        assert chain.block(Block(40)).hash == subnet.chain.parameters.block_hash(40)
    assert names == ["chain_block_replaced"]
    subnet.advance(5)
    with events() as names:
        assert chain.block(Block(40)).hash == subnet.chain.parameters.block_hash(40)
    assert names == []


def test_no_block_is_remembered_as_final_by_the_word_of_another_endpoint(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    """The first endpoint says that block 40 is final and goes; the second, which is asked for it, is on a branch of its own."""
    chain = opened("primary", "fallback")
    subnet.advance(3)
    assert chain.finalised_block() == 40
    subnet.faults.set("fallback", forked=True, finality_at=37)
    subnet.faults.set("primary", unreachable=True)
    assert chain.block(Block(40)).hash != subnet.chain.parameters.block_hash(40)
    subnet.faults.clear()
    assert chain.block(Block(40)).hash == subnet.chain.parameters.block_hash(40)


def test_waiting_naps_towards_the_block_and_ends_when_stopped(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary")
    stop = PassingStop(subnet)
    assert chain.wait_for_block(Block(43), stop=stop)
    assert chain.wait_for_block(Block(43), stop=stop, finalised=True)
    assert chain.finalised_block() >= 43
    assert all(BLOCK_S / 4 <= nap <= BLOCK_S for nap in stop.naps)
    stop.set()
    assert not chain.wait_for_block(Block(10**6), stop=stop)


def test_a_wait_ends_with_an_error_where_no_endpoint_answers(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback")
    for name in ("primary", "fallback"):
        subnet.faults.set(name, unreachable=True)
    with pytest.raises(ChainError, match="cannot be reached"):
        chain.wait_for_block(Block(43), stop=PassingStop(subnet))
