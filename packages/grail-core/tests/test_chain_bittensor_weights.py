"""Weights through the SDK onto a simulated chain: in the open and committed, refused by name, lost, and never sent twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.base import weights_update
from grail_core.chain.bittensor.adapter import BittensorChain
from grail_core.chain.development.state import ChainRules
from grail_core.errors import ChainError
from grail_core.protocol.types import Block
from tooling.testing.keys import ALICE, BOB, EVE

pytest.importorskip("bittensor")

import bittensor

from tooling.testing.simulated_bittensor.epochs import EpochState, epochs_at
from tooling.testing.simulated_bittensor.extrinsics import NAMES
from tooling.testing.simulated_bittensor.subnet import SimulatedSubnet

HIDDEN = ChainRules(reveal_blocks=12, weights_rate_limit=5)


@pytest.fixture
def subnet(tmp_path: Path, request: pytest.FixtureRequest) -> SimulatedSubnet:
    return SimulatedSubnet(tmp_path, (ALICE, BOB), rules=getattr(request, "param", ChainRules(weights_rate_limit=5)))


@pytest.fixture
def chain(subnet: SimulatedSubnet) -> Iterator[BittensorChain]:
    adapter = subnet.adapter()
    yield adapter
    adapter.close()


def test_weights_arrive_in_proportion_signed_by_the_hotkey(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    chain.set_weights(ALICE, {1: 6000, 0: 54000})
    subnet.advance(5)
    ((hotkey, row),) = subnet.chain.weights().items()
    assert hotkey == ALICE.hotkey
    assert row[0] == 65535
    assert abs(row[1] / row[0] - 6000 / 54000) < 1e-4


def test_weights_are_shown_from_the_block_that_includes_them(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    chain.set_weights(ALICE, {0: 1})  # included in block 41
    subnet.advance(10)
    assert [weights_update(chain, ALICE.hotkey, Block(number)) for number in (40, 41, 47)] == [None, 41, 41]
    assert weights_update(chain, EVE.hotkey, Block(47)) is None
    assert chain.pending_weights(ALICE.hotkey) is None


def test_a_submission_that_says_success_and_does_nothing_is_shown_to_be_none(
    chain: BittensorChain, subnet: SimulatedSubnet
) -> None:
    subnet.faults.set("primary", loses=True)
    chain.set_weights(ALICE, {0: 1})
    subnet.advance(10)
    assert weights_update(chain, ALICE.hotkey, Block(50)) is None


@pytest.mark.parametrize("subnet", [HIDDEN], indirect=True)
def test_committed_weights_are_shown_by_their_commit_and_in_force_after_the_reveal(
    chain: BittensorChain, subnet: SimulatedSubnet
) -> None:
    chain.set_weights(ALICE, {0: 1, 1: 3})
    subnet.advance(4)
    assert (chain.pending_weights(ALICE.hotkey), chain.pending_weights(ALICE.hotkey, Block(40))) == (41, None)
    assert weights_update(chain, ALICE.hotkey, chain.finalised_block()) == 41
    assert subnet.chain.weights() == {}
    subnet.advance(12)
    assert chain.pending_weights(ALICE.hotkey) is None
    assert subnet.chain.weights()[ALICE.hotkey] == {0: 21845, 1: 65535}


@pytest.mark.parametrize("subnet", [HIDDEN], indirect=True)
def test_where_a_commit_is_no_update_it_is_shown_by_the_commits_that_wait(
    chain: BittensorChain, subnet: SimulatedSubnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tooling.testing.simulated_bittensor.answers.last_updates", lambda neurons: [0, 0])
    chain.set_weights(ALICE, {0: 1})
    subnet.advance(4)
    assert chain.metagraph().neurons[0].last_update == 0
    assert weights_update(chain, ALICE.hotkey, chain.finalised_block()) == 41


@pytest.mark.parametrize("subnet", [HIDDEN], indirect=True)
def test_a_hostile_validators_reveal_round_which_is_no_date_is_not_in_the_way(
    chain: BittensorChain, subnet: SimulatedSubnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = [(9, [(BOB.ss58, 30, "0x00", 2**64 - 1), (ALICE.ss58, 33, "0x00", 7)]), (10, None)]
    chain.current_block()
    monkeypatch.setattr("tooling.testing.simulated_bittensor.answers.query_map", lambda *arguments: commits)
    assert [chain.pending_weights(who.hotkey) for who in (ALICE, BOB, EVE)] == [33, 30, None]


def test_what_a_former_holder_of_the_uid_left_is_not_this_hotkeys(
    chain: BittensorChain, subnet: SimulatedSubnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subtensor keeps `LastUpdate` by UID: the former holder's block stands there for the newcomer."""
    monkeypatch.setattr("tooling.testing.simulated_bittensor.answers.last_updates", lambda neurons: [0, 1])
    assert chain.metagraph().neurons[1].last_update == 1 == chain.metagraph().neurons[1].registered_at
    assert weights_update(chain, BOB.hotkey, chain.finalised_block()) is None


def test_the_reasons_for_which_weights_are_refused_are_told(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    with pytest.raises(ChainError, match="not registered"):
        chain.set_weights(EVE, {0: 1})
    chain.set_weights(ALICE, {0: 1})
    subnet.advance(2)
    with pytest.raises(ChainError, match="rate limit") as caught:
        chain.set_weights(ALICE, {0: 1})
    assert "wait" in caught.value.hint
    with pytest.raises(ChainError, match="validator permit"):
        chain.set_weights(BOB, {0: 1})
    for weights in ({}, {0: 0}, {0: 65536}, {0: -1}):
        with pytest.raises(ChainError):
            chain.set_weights(ALICE, weights)
    assert list(subnet.chain.weights(Block(42))) == [ALICE.hotkey]


def test_an_endpoint_that_took_weights_which_the_chain_never_showed_is_not_given_the_next(subnet: SimulatedSubnet) -> None:
    chain = subnet.adapter("primary", "fallback")
    subnet.faults.set("primary", loses=True)
    for blocks in (2, 10):
        chain.set_weights(ALICE, {0: 1})
        assert chain.endpoint == "primary:1"  # not yet known, the first time
        subnet.advance(blocks)
    chain.set_weights(ALICE, {0: 1})
    assert chain.endpoint == "fallback:1"
    subnet.advance(5)
    assert weights_update(chain, ALICE.hotkey, chain.finalised_block()) == 53
    subnet.advance(5)
    chain.set_weights(ALICE, {0: 1})
    assert chain.endpoint == "fallback:1"
    chain.close()


def test_every_name_of_a_refusal_is_one_that_the_sdk_knows() -> None:
    for name in NAMES.values():
        assert bittensor.ChainError("words", name).code is not bittensor.ErrorCode.UNKNOWN, name


def test_weights_are_not_sent_again_after_a_broken_connection(chain: BittensorChain, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def submit(*arguments: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        raise bittensor.RpcConnectionError("gone while waiting for the block")

    monkeypatch.setattr("tooling.testing.simulated_bittensor.substrate.SimulatedSubstrate.submit", submit)
    with pytest.raises(ChainError, match="gone"):
        chain.set_weights(ALICE, {0: 1})
    assert sent == 1


@pytest.mark.parametrize("subnet", [ChainRules(weights_rate_limit=5), HIDDEN], indirect=True, ids=["open", "committed"])
def test_a_tempo_that_changes_changes_nothing(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    """Epochs are the chain's: an adapter that reckoned with them would wait, or name another block."""
    for tempo in (99, 7, 360, 1200):
        chain.set_weights(ALICE, {0: 1, 1: tempo})
        sent_at = subnet.chain.current_block()
        subnet.faults.set_tempo(sent_at + 1, tempo)
        subnet.advance(17)
        assert weights_update(chain, ALICE.hotkey, chain.finalised_block()) == sent_at + 1
        assert set(subnet.chain.weights()[ALICE.hotkey]) == {0, 1}


def test_the_simulated_epochs_follow_the_tempo_of_their_time() -> None:
    tempos = ((0, 100), (250, 10), (300, 1000))
    assert [epochs_at(block, tempos) for block in (99, 100, 249, 250, 259, 260, 299, 300, 1289, 1290)] == [
        EpochState(100, 0, 0),
        EpochState(100, 100, 1),
        EpochState(100, 200, 2),
        EpochState(10, 250, 3),
        EpochState(10, 250, 3),
        EpochState(10, 260, 4),
        EpochState(10, 290, 7),
        EpochState(1000, 290, 7),
        EpochState(1000, 290, 7),
        EpochState(1000, 1290, 8),
    ]
