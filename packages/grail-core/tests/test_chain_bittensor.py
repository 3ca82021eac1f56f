"""The adapter to a real subnet, run through the SDK itself over a simulated network behind its `Substrate` seam: reads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.base import Chain
from grail_core.chain.bittensor.adapter import BittensorChain
from grail_core.errors import ChainError, ConfigurationError
from grail_core.protocol.types import Block
from tooling.testing.keys import ALICE, BOB, EVE

pytest.importorskip("bittensor")

from tooling.testing.simulated_bittensor.subnet import (
    BLOCK_S,
    NETUID,
    STAKE,
    START_MS,
    SimulatedSubnet,
    url_of,
)


@pytest.fixture
def subnet(tmp_path: Path) -> SimulatedSubnet:
    return SimulatedSubnet(tmp_path, (ALICE, BOB))


@pytest.fixture
def chain(subnet: SimulatedSubnet) -> Iterator[BittensorChain]:
    adapter = subnet.adapter()
    yield adapter
    adapter.close()


def test_blocks_have_the_nodes_hash_and_time(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    typed: Chain = chain
    assert (typed.current_block(), typed.finalised_block(), typed.netuid) == (40, 37, NETUID)
    assert typed.genesis_hash == subnet.chain.genesis_hash
    info = typed.block(Block(30))
    assert info.hash == subnet.chain.parameters.block_hash(30)
    assert info.timestamp_ms == START_MS + 30 * BLOCK_S * 1000
    assert typed.now_ms() == subnet.chain.now_ms()


def test_a_block_that_does_not_exist_is_an_error(chain: BittensorChain) -> None:
    for number in (41, -1):
        with pytest.raises(ChainError, match="no block"):
            chain.block(Block(number))


def test_the_metagraph_is_that_of_its_block_with_commitments(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    chain.commit(BOB, "s3:0:bucket:key")
    then = chain.metagraph(Block(40))
    assert [n.commitment for n in then.neurons] == [None, None]
    subnet.advance(10)
    now = chain.metagraph()
    assert now.block == 47
    assert now == subnet.chain.metagraph(Block(47)) or now.neurons[0].last_update == 0
    alice, bob = now.neurons
    assert (alice.uid, alice.hotkey, alice.stake, alice.validator_permit, alice.registered_at) == (
        0,
        ALICE.hotkey,
        STAKE,
        True,
        1,
    )
    assert (bob.uid, bob.commitment, bob.commitment_block, bob.validator_permit) == (1, "s3:0:bucket:key", 41, False)
    assert now.by_hotkey(EVE.hotkey) is None


def test_a_uid_that_changed_hands_is_its_new_holders_from_that_block_on(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    subnet.chain.deregister(BOB)
    subnet.chain.register(EVE)
    subnet.advance(10)
    assert [n.hotkey for n in chain.metagraph(Block(40)).neurons] == [ALICE.hotkey, BOB.hotkey]
    now = chain.metagraph()
    assert [(n.hotkey, n.registered_at) for n in now.neurons] == [(ALICE.hotkey, 1), (EVE.hotkey, 41)]


def test_a_commitment_of_any_length_to_128_bytes_survives(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    for text in ("x", "x" * 128, "é" * 64):
        chain.commit(ALICE, text)
        subnet.advance(5)
        assert chain.metagraph().neurons[0].commitment == text
    for text in ("", "x" * 129):
        with pytest.raises(ChainError, match="128"):
            chain.commit(ALICE, text)


def test_a_sealed_or_strange_commitment_is_none(
    chain: BittensorChain, subnet: SimulatedSubnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(chain: Any, number: int, name: str, params: list[Any]) -> list[tuple[str, Any]]:
        if name != "CommitmentOf":
            return []
        sealed = {"TimelockEncrypted": {"encrypted": "0x00", "reveal_round": 5}}
        fields = {ALICE.ss58: [sealed], BOB.ss58: ["ResetBondsFlag"]}
        return [(hotkey, {"block": 1, "deposit": 0, "info": {"fields": [field]}}) for hotkey, field in fields.items()]

    chain.current_block()
    monkeypatch.setattr("tooling.testing.simulated_bittensor.answers.query_map", strange)
    assert [n.commitment for n in chain.metagraph().neurons] == [None, None]


def test_a_refused_commitment_is_an_error_with_the_chains_name_for_it(chain: BittensorChain, subnet: SimulatedSubnet) -> None:
    with pytest.raises(ChainError, match="not registered"):
        chain.commit(EVE, "x")
    subnet.faults.set("primary", refuses="CommitmentSetRateLimitExceeded")
    with pytest.raises(ChainError, match=r"refused the commitment.*CommitmentSetRateLimitExceeded") as caught:
        chain.commit(ALICE, "x")
    assert "wait" in caught.value.hint


def test_a_subnet_that_is_not_there_names_the_setting(subnet: SimulatedSubnet) -> None:
    adapter = BittensorChain(subnet.world.client, endpoints=[url_of("primary")], netuid=5)
    with pytest.raises(ChainError, match="no subnet 5") as caught:
        adapter.metagraph()
    assert "NETUID" in caught.value.hint
    adapter.close()


def test_threads_share_one_connection(subnet: SimulatedSubnet) -> None:
    made: list[str] = []

    def counted(url: str) -> tuple[Any, Any]:
        made.append(url)
        return subnet.world.client(url)

    adapter = subnet.adapter(make_client=counted)
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(adapter.current_block())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [40] * 8
    assert len(made) == 1
    adapter.close()


def test_a_named_network_brings_its_fall_backs_and_archives() -> None:
    adapter = BittensorChain.connect("finney", netuid=NETUID)
    urls = [endpoint.url for endpoint in adapter._connection.endpoints.every]
    assert urls[0] == "wss://entrypoint-finney.opentensor.ai:443"
    assert len(urls) > 1
    assert len(adapter._archives) > len(urls)
    assert adapter.genesis_hash.hex().startswith("2f0555cc76fc2840")  # without asking anybody: a node of another chain is left
    own = BittensorChain.connect("wss://one.example, wss://two.example,wss://one.example", netuid=NETUID)
    assert [endpoint.url for endpoint in own._connection.endpoints.every] == ["wss://one.example", "wss://two.example"]


@pytest.mark.parametrize(
    "network", ["atlantis", "http://node", "", "wss://one.example,", "wss://one.example,http://two.example"]
)
def test_a_network_that_does_not_exist_is_named(network: str) -> None:
    with pytest.raises(ConfigurationError):
        BittensorChain.connect(network, netuid=NETUID)


@pytest.mark.parametrize(
    "endpoint", ["http://me:hidden@node", "wss:/me:hidden@node", "me:hidden@node:99", "node/ws?key=hidden"]
)
def test_an_endpoint_that_is_none_is_not_repeated_since_it_may_hold_a_key(endpoint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BittensorChain.connect(endpoint, netuid=NETUID)
    assert caught.value.where == "BT_CHAIN_ENDPOINT"
    assert "hidden" not in str(caught.value)
    adapter = BittensorChain.connect("wss://me:hidden@node/ws?key=hidden", netuid=NETUID)
    assert adapter.endpoint == "node"


def test_connecting_is_cold_and_a_dead_endpoint_is_a_clear_error() -> None:
    adapter = BittensorChain.connect("ws://127.0.0.1:9", netuid=NETUID)
    with pytest.raises(ChainError, match="cannot be reached") as caught:
        adapter._connection.run("current block", lambda client, substrate: client.block())
    assert caught.value.where == "127.0.0.1:9"
    adapter.close()


def test_importing_the_adapter_does_not_import_the_sdk() -> None:
    code = "import sys, grail_core.chain.bittensor.adapter; print('bittensor' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
