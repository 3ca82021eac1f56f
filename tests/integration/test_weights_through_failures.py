"""Weights reach a real subnet's chain whatever its nodes do: the validator's own weight setting, through the SDK."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.bittensor.adapter import BittensorChain
from grail_core.chain.development.state import ChainRules
from grail_core.errors import ChainError
from grail_core.keys import LocalSigner
from grail_validator.weight_setting import WeightSetting
from tooling.testing.faults import events
from tooling.testing.judged_network import ME, MINER, judged, setting
from tooling.testing.simulated_bittensor.subnet import SILENCE_S, SimulatedSubnet
from tooling.testing.small_network import SmallNetwork, make_model

FAULTS: dict[str, dict[str, Any]] = {
    "no connection": {"unreachable": True},
    "connections that break": {"fails": 5},
    "no answer": {"silent": True},
    "traffic refused": {"throttled": 20},
    "a head that stands": {"head_at": 70},
    "finality that stands": {"finality_at": 68},
    "a node that lags": {"behind": 8},
    "a fork": {"forked": True},
    "another chain": {"other_chain": True},
    "success that is none": {"loses": True},
    "a refusal": {"refuses": "ServingRateLimitExceeded"},
    "state thrown away": {"keeps_state": 1},
}
BLOCKS_BROKEN = 14


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose weights are due, to be copied for each test."""
    root = tmp_path_factory.mktemp("made")
    network = judged(SmallNetwork(root, model=make_model(tmp_path_factory.mktemp("model")), miners=2, validators=1))
    network.chain.close()
    return root


@pytest.fixture
def network(tmp_path: Path, made: Path) -> SmallNetwork:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return SmallNetwork.reopened(tmp_path, miners=2, validators=1)


@pytest.fixture
def subnet(network: SmallNetwork) -> SimulatedSubnet:
    return SimulatedSubnet(network.root, chain=network.chain)


@pytest.fixture
def opened(subnet: SimulatedSubnet) -> Iterator[Callable[..., BittensorChain]]:
    adapters: list[BittensorChain] = []

    def adapter(*names: str, fault: str = "") -> BittensorChain:
        silent: dict[str, Any] = {"read_seconds": SILENCE_S} if "silent" in FAULTS.get(fault, {}) else {}
        adapters.append(subnet.adapter(*names, **silent))
        return adapters[-1]

    yield adapter
    for one in adapters:
        one.close()


def live(validator: WeightSetting, subnet: SimulatedSubnet, blocks: int) -> list[str]:
    """A validator between windows, for so many blocks; what it said."""
    with events() as names:
        for _ in range(blocks):
            validator.turn()
            subnet.advance(1)
    return names


def weight_of(network: SmallNetwork, signer: LocalSigner) -> int:
    row = network.chain.weights().get(network.signers[ME].hotkey, {})
    neuron = network.chain.metagraph().by_hotkey(signer.hotkey)
    assert neuron is not None
    return row.get(neuron.uid, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_reach_the_chain_after_any_failure_ends(
    fault: str, network: SmallNetwork, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    validator = setting(network, opened("primary", fault=fault))
    subnet.faults.set("primary", **FAULTS[fault])
    live(validator, subnet, BLOCKS_BROKEN)
    subnet.faults.clear()
    live(validator, subnet, network.params.weight_interval + 5)  # at most an interval later
    assert weight_of(network, network.signers[MINER]) > 0


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in ("a refusal", "a fork", "state thrown away")])
def test_with_another_endpoint_weights_are_set_while_the_first_is_broken(
    fault: str, network: SmallNetwork, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "fallback", fault=fault)
    assert chain.genesis_hash == network.chain.genesis_hash
    chain.close()
    subnet.faults.set("primary", **FAULTS[fault])
    names = live(setting(network, chain), subnet, BLOCKS_BROKEN)
    assert weight_of(network, network.signers[MINER]) > 0
    assert "chain_endpoint_left" in names
    assert names.count("weights_sent") <= 2


def test_committed_weights_come_into_force_after_an_outage_between_commit_and_reveal(tmp_path: Path) -> None:
    network = judged(SmallNetwork(tmp_path, miners=2, validators=1, rules=ChainRules(reveal_blocks=6)))
    subnet = SimulatedSubnet(network.root, chain=network.chain)
    chain = subnet.adapter("primary")
    validator = setting(network, chain)
    assert "weights_sent" in live(validator, subnet, 1)
    subnet.faults.set("primary", unreachable=True)
    live(validator, subnet, BLOCKS_BROKEN)
    assert weight_of(network, network.signers[MINER]) > 0  # the chain reveals them, whoever is away
    subnet.faults.clear()
    subnet.pass_seconds(60)
    assert "weights_set" in live(validator, subnet, 3)
    chain.close()


def test_a_validator_that_lost_its_permit_or_its_uid_is_told_by_name(
    network: SmallNetwork, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary")
    network.chain.stake(network.signers[ME], -1_000_000_000_000)
    subnet.advance(3)
    with pytest.raises(ChainError, match="no validator permit"):
        chain.set_weights(network.signers[ME], {0: 1})
    network.chain.deregister(network.signers[ME])
    subnet.advance(3)
    with pytest.raises(ChainError, match="not registered"):
        chain.set_weights(network.signers[ME], {0: 1})
