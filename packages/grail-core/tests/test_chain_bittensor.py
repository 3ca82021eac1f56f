"""The adapter to a real subnet, run through the SDK itself over an in-memory chain behind the SDK's `Substrate` seam."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import bittensor_core
import pytest

from grail_core.chain.base import Chain, weights_update
from grail_core.chain.bittensor import BittensorChain
from grail_core.errors import ChainError, ConfigurationError
from grail_core.keys import from_ss58
from grail_core.protocol.types import Block
from tooling.testing.keys import ALICE, BOB, EVE

bittensor = pytest.importorskip("bittensor")

NETUID, BLOCK_S, START_MS = 81, 12, 1_700_000_000_000
TAO = 10**9


class InMemorySubtensor:
    """What a node answers: storage by block, runtime calls, and extrinsics whose signatures are verified."""

    def __init__(self) -> None:
        self.token_symbols: dict[int, str] = {}
        self.head = 40
        self.finality_lag = 3
        self.neurons = [ALICE.ss58, BOB.ss58]
        self.commitments: list[tuple[int, str, list[Any]]] = []  # (block, hotkey, fields)
        self.weights: list[tuple[int, str, dict[int, int]]] = []
        self.weight_commits: list[tuple[str, int, str, int]] = []  # (hotkey, block, ciphertext, drand round)
        self.commits_are_updates = True
        self.commit_reveal = False
        self.does_nothing = False  # what is submitted is answered as always, and is in no block
        self.rate_limit = 5
        self.failures = 0  # so many requests fail before one succeeds
        self.connections = 0
        self.refusal: str | None = None

    # lifecycle and blocks

    async def connect(self) -> None:
        self.connections += 1
        self._maybe_fail()

    async def close(self) -> None:
        pass

    def balance(self, rao: int, netuid: int = 0) -> Any:
        return bittensor.Balance.from_rao(rao, netuid)

    def _maybe_fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise bittensor.RpcConnectionError("the socket broke")

    def hash_of(self, number: int) -> str:
        return "0x" + hashlib.sha256(b"block %d" % number).hexdigest()

    def number_of(self, block_hash: str | None) -> int:
        return self.head if block_hash is None else next(n for n in range(self.head + 1) if self.hash_of(n) == block_hash)

    async def block_hash(self, block: int | None = None) -> str:
        self._maybe_fail()
        return self.hash_of(self.head if block is None else block)

    async def block_number(self) -> int:
        self._maybe_fail()
        return self.head

    async def finalized_block_number(self) -> int:
        self._maybe_fail()
        return self.head - self.finality_lag

    async def block_time(self) -> float:
        return float(BLOCK_S)

    async def spec_version(self) -> int:
        return 435

    async def get_block(self, block_number: int | None = None, block_hash: str | None = None) -> dict[str, Any] | None:
        self._maybe_fail()
        number = self.head if block_number is None else block_number
        if number > self.head:
            return None
        stamp = {"call_module": "Timestamp", "call_args": [{"name": "now", "value": START_MS + number * BLOCK_S * 1000}]}
        return {"header": {"number": number, "hash": self.hash_of(number)}, "extrinsics": [{"call": stamp}]}

    # state

    async def query(self, module: str, name: str, params: list[Any] | None = None, block_hash: str | None = None) -> Any:
        self._maybe_fail()
        number = self.number_of(block_hash)
        values: dict[str, Any] = {
            "Now": START_MS + number * BLOCK_S * 1000,
            "Uids": self.neurons.index(params[1]) if params and len(params) > 1 and params[1] in self.neurons else None,
            "CommitRevealWeightsEnabled": self.commit_reveal,
            "WeightsSetRateLimit": self.rate_limit,
            "LastUpdate": self.last_updates(number),
            "MinAllowedWeights": 1,
            "MaxWeightsLimit": 65535,
            "SubnetEpochConsensus": "Yuma",
            "Tempo": 360,
            "RevealPeriodEpochs": 1,
        }
        return values.get(name)

    def last_updates(self, number: int) -> list[int]:
        made = [(block, hotkey) for block, hotkey, _ in self.weights]
        if self.commits_are_updates:
            made += [(block, hotkey) for hotkey, block, _, _ in self.weight_commits]
        return [max([b for b, h in made if h == key and b <= number], default=0) for key in self.neurons]

    async def query_map(
        self, module: str, name: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> list[tuple[Any, Any]]:
        self._maybe_fail()
        number = self.number_of(block_hash)
        if name == "TimelockedWeightCommits" and params == [NETUID]:
            return [(9, [commit for commit in self.weight_commits if commit[1] <= number]), (10, None)]
        if name != "CommitmentOf":
            return []
        latest = {hotkey: (block, fields) for block, hotkey, fields in self.commitments if block <= number}
        return [(h, {"block": b, "deposit": 0, "info": {"fields": fields}}) for h, (b, fields) in latest.items()]

    async def query_batch(self, *args: Any, **kwargs: Any) -> list[Any]:
        return []

    async def runtime_call(self, api: str, method: str, params: list[Any], block_hash: str | None = None) -> Any:
        self._maybe_fail()
        if params != [NETUID]:
            return None
        zero, address = bytes(32), "5" + "C" * 47
        return {
            "netuid": NETUID,
            "name": "grail",
            "symbol": "g",
            "block": self.number_of(block_hash),
            "tempo": 360,
            "last_step": 0,
            "blocks_since_last_step": 0,
            "owner_hotkey": address,
            "owner_coldkey": address,
            "network_registered_at": 0,
            "hotkeys": self.neurons,
            "coldkeys": [address] * len(self.neurons),
            "validator_permit": [True, False],
            "block_at_registration": [10, 20],
            "total_stake": [5 * TAO, 0],
            "last_update": self.last_updates(self.number_of(block_hash)),
            "unused": zero,
        }

    async def constant(self, module: str, name: str) -> Any:
        return None

    # writes

    async def compose(self, call: Any) -> Any:
        return call

    async def estimate_fee(self, call: Any, keypair: Any) -> Any:
        return bittensor.Balance.from_rao(0)

    async def submit(self, call: Any, keypair: Any, **options: Any) -> Any:
        self._maybe_fail()
        payload = repr((call, self.hash_of(0))).encode()
        signature = keypair.sign(payload)
        assert bittensor_core.verify(payload, bytes(signature), keypair.ss58_address)
        if self.refusal is not None:
            return bittensor.ExtrinsicResult(False, error=bittensor.ChainError(self.refusal))
        self.head += 1
        module, function, params = call
        if self.does_nothing:
            return bittensor.ExtrinsicResult(True)
        if function == "set_commitment":
            self.commitments.append((self.head, keypair.ss58_address, params["info"]["fields"][0]))
        elif function == "set_mechanism_weights":
            row = dict(zip(params["dests"], params["weights"], strict=True))
            self.weights.append((self.head, keypair.ss58_address, row))
        elif function == "commit_timelocked_mechanism_weights":
            entry = (keypair.ss58_address, self.head, "0x" + bytes(params["commit"]).hex(), params["reveal_round"])
            self.weight_commits.append(entry)
        else:
            raise AssertionError(f"{module}.{function}")
        return bittensor.ExtrinsicResult(True)


@pytest.fixture
def node() -> InMemorySubtensor:
    return InMemorySubtensor()


@pytest.fixture
def chain(node: InMemorySubtensor) -> Iterator[BittensorChain]:
    def make() -> tuple[Any, Any]:
        return bittensor.Client("local", substrate=node), node

    adapter = BittensorChain(make, netuid=NETUID, where="memory", retry_pauses=(0.0, 0.0))
    yield adapter
    adapter.close()


def test_blocks_have_the_nodes_hash_and_time(chain: BittensorChain, node: InMemorySubtensor) -> None:
    typed: Chain = chain
    assert (typed.current_block(), typed.finalised_block(), typed.netuid) == (40, 37, NETUID)
    assert typed.genesis_hash == hashlib.sha256(b"block 0").digest()
    info = typed.block(Block(30))
    assert info.hash == hashlib.sha256(b"block 30").digest()
    assert info.timestamp_ms == START_MS + 30 * BLOCK_S * 1000


def test_a_block_that_does_not_exist_is_an_error(chain: BittensorChain) -> None:
    for number in (41, -1):
        with pytest.raises(ChainError, match="no block"):
            chain.block(Block(number))


def test_only_what_is_final_is_remembered(
    chain: BittensorChain, node: InMemorySubtensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    final, best = chain.block(Block(37)), chain.block(Block(40))
    monkeypatch.setattr(node, "hash_of", lambda number: "0x" + hashlib.sha256(b"fork %d" % number).hexdigest())
    assert chain.block(Block(37)) == final
    assert chain.block(Block(40)) != best


def test_the_metagraph_is_that_of_its_block_with_commitments(chain: BittensorChain, node: InMemorySubtensor) -> None:
    chain.commit(BOB, "s3:0:bucket:key")
    assert node.head == 41
    then = chain.metagraph(Block(40))
    assert [n.commitment for n in then.neurons] == [None, None]
    node.head = 50
    now = chain.metagraph()
    assert now.block == 47
    alice, bob = now.neurons
    assert (alice.uid, alice.hotkey, alice.stake, alice.validator_permit, alice.registered_at) == (
        0,
        ALICE.hotkey,
        5 * TAO,
        True,
        10,
    )
    assert (bob.uid, bob.commitment, bob.commitment_block, bob.validator_permit) == (1, "s3:0:bucket:key", 41, False)
    assert now.by_hotkey(EVE.hotkey) is None


def test_a_commitment_of_any_length_to_128_bytes_survives(chain: BittensorChain, node: InMemorySubtensor) -> None:
    for text in ("x", "x" * 128, "é" * 64):
        chain.commit(ALICE, text)
        node.head += 5
        assert chain.metagraph().neurons[0].commitment == text
    for text in ("", "x" * 129):
        with pytest.raises(ChainError, match="128"):
            chain.commit(ALICE, text)


def test_a_sealed_or_strange_commitment_is_none(chain: BittensorChain, node: InMemorySubtensor) -> None:
    node.commitments = [
        (1, ALICE.ss58, [{"TimelockEncrypted": {"encrypted": "0x00", "reveal_round": 5}}]),
        (1, BOB.ss58, ["ResetBondsFlag"]),
    ]
    assert [n.commitment for n in chain.metagraph().neurons] == [None, None]


def test_weights_arrive_in_proportion_signed_by_the_hotkey(chain: BittensorChain, node: InMemorySubtensor) -> None:
    chain.set_weights(ALICE, {1: 6000, 0: 54000})
    ((block, hotkey, row),) = node.weights
    assert (block, from_ss58(hotkey)) == (41, ALICE.hotkey)
    assert row[0] == 65535
    assert abs(row[1] / row[0] - 6000 / 54000) < 1e-4


def test_weights_are_shown_from_the_block_that_includes_them(chain: BittensorChain, node: InMemorySubtensor) -> None:
    chain.set_weights(ALICE, {0: 1})  # included in block 41
    node.head = 50
    assert [weights_update(chain, ALICE.hotkey, Block(number)) for number in (40, 41, 47)] == [None, 41, 41]
    assert weights_update(chain, EVE.hotkey, Block(47)) is None
    assert chain.pending_weights(ALICE.hotkey) is None


def test_a_submission_that_says_success_and_does_nothing_is_shown_to_be_none(
    chain: BittensorChain, node: InMemorySubtensor
) -> None:
    node.does_nothing = True
    chain.set_weights(ALICE, {0: 1})
    node.head = 50
    assert weights_update(chain, ALICE.hotkey, Block(50)) is None


@pytest.mark.parametrize("updates", [True, False])
def test_with_commit_reveal_the_commit_is_what_is_shown(updates: bool, chain: BittensorChain, node: InMemorySubtensor) -> None:
    """A hostile validator's reveal round, which is no date, is not in the way of it."""
    node.commit_reveal, node.commits_are_updates = True, updates
    node.weight_commits.append((BOB.ss58, 30, "0x00", 2**64 - 1))
    chain.set_weights(ALICE, {0: 1})
    node.head = 50
    assert (chain.pending_weights(ALICE.hotkey), chain.pending_weights(ALICE.hotkey, Block(40))) == (41, None)
    assert (chain.pending_weights(BOB.hotkey), chain.pending_weights(EVE.hotkey)) == (30, None)
    assert weights_update(chain, ALICE.hotkey, Block(47)) == 41
    assert node.weights == []


def test_what_a_former_holder_of_the_uid_left_is_not_this_hotkeys(chain: BittensorChain, node: InMemorySubtensor) -> None:
    node.weights.append((19, BOB.ss58, {0: 1}))  # BOB's UID was registered at block 20
    assert chain.metagraph().neurons[1].last_update == 19
    assert weights_update(chain, BOB.hotkey, chain.finalised_block()) is None


def test_the_reasons_for_which_weights_are_refused_are_told(chain: BittensorChain, node: InMemorySubtensor) -> None:
    with pytest.raises(ChainError, match="not registered"):
        chain.set_weights(EVE, {0: 1})
    chain.set_weights(ALICE, {0: 1})
    with pytest.raises(ChainError, match="rate limit") as caught:
        chain.set_weights(ALICE, {0: 1})
    assert "wait" in caught.value.hint
    node.head += 100
    node.refusal = "NeuronNoValidatorPermit"
    with pytest.raises(ChainError, match="NeuronNoValidatorPermit"):
        chain.set_weights(ALICE, {0: 1})
    for weights in ({}, {0: 0}, {0: 65536}, {0: -1}):
        with pytest.raises(ChainError):
            chain.set_weights(ALICE, weights)
    assert len(node.weights) == 1


def test_a_refused_commitment_is_an_error(chain: BittensorChain, node: InMemorySubtensor) -> None:
    node.refusal = "CommitmentSetRateLimitExceeded"
    with pytest.raises(ChainError, match="refused the commitment"):
        chain.commit(ALICE, "x")


def test_a_broken_connection_is_made_anew_and_the_read_repeated(chain: BittensorChain, node: InMemorySubtensor) -> None:
    assert chain.current_block() == 40
    node.failures = 2
    assert chain.current_block() == 40
    assert node.connections >= 2
    node.failures = 1000
    with pytest.raises(ChainError, match="cannot be reached") as caught:
        chain.current_block()
    assert caught.value.where == "memory"
    node.failures = 0
    assert chain.finalised_block() == 37


def test_weights_are_not_sent_again_after_a_broken_connection(
    chain: BittensorChain, node: InMemorySubtensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.current_block()
    sent = 0

    async def submit(call: Any, keypair: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        raise bittensor.RpcConnectionError("gone while waiting for the block")

    monkeypatch.setattr(node, "submit", submit)
    with pytest.raises(ChainError, match="gone"):
        chain.set_weights(ALICE, {0: 1})
    assert sent == 1


def test_the_newest_metagraph_answers_for_a_while_when_nobody_else_does(
    chain: BittensorChain, node: InMemorySubtensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = chain.metagraph()
    node.head += 10
    node.failures = 10**6
    assert chain.metagraph() == known
    with pytest.raises(ChainError):
        chain.metagraph(Block(45))
    monkeypatch.setattr("grail_core.chain.bittensor.STALE_METAGRAPH_SECONDS", -1.0)
    with pytest.raises(ChainError):
        chain.metagraph()


def test_a_subnet_that_is_not_there_names_the_setting(node: InMemorySubtensor) -> None:
    adapter = BittensorChain(lambda: (bittensor.Client("local", substrate=node), node), netuid=5, where="memory")
    with pytest.raises(ChainError, match="no subnet 5") as caught:
        adapter.metagraph()
    assert "NETUID" in caught.value.hint
    adapter.close()


def test_waiting_naps_towards_the_block_and_ends_when_stopped(chain: BittensorChain, node: InMemorySubtensor) -> None:
    naps: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            naps.append(timeout or 0.0)
            node.head += max(1, int((timeout or 0.0) / BLOCK_S))
            return self.is_set()

    stop = Stop()
    assert chain.wait_for_block(Block(43), stop=stop)
    assert chain.wait_for_block(Block(43), stop=stop, finalised=True)
    assert chain.finalised_block() >= 43
    assert all(BLOCK_S / 4 <= nap <= 30 for nap in naps)
    stop.set()
    assert not chain.wait_for_block(Block(10**6), stop=stop)


def test_threads_share_one_connection(chain: BittensorChain, node: InMemorySubtensor) -> None:
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(chain.current_block())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [40] * 8
    assert node.connections == 1


@pytest.mark.parametrize("network", ["atlantis", "http://node", ""])
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
    assert BittensorChain.connect("wss://me:hidden@node/ws?key=hidden", netuid=NETUID)._where == "node/ws"


def test_connecting_is_cold_and_a_dead_endpoint_is_a_clear_error() -> None:
    adapter = BittensorChain.connect("ws://127.0.0.1:9", netuid=NETUID)
    adapter._retry_pauses = ()
    with pytest.raises(ChainError, match="cannot be reached"):
        adapter.current_block()
    adapter.close()


def test_importing_the_adapter_does_not_import_the_sdk() -> None:
    code = "import sys, grail_core.chain.bittensor; print('bittensor' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
