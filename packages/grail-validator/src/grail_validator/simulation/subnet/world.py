"""What everybody shares: blocks, of which the best may be replaced, rounds of a beacon, and buckets with clocks of their own.

Time is a number that the run counts up. Validators see the chain through their node and buckets through their network, so
every question names who asks, and when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from grail_core.chain.base import Neuron
from grail_core.environment import EnvironmentSpec
from grail_core.errors import BeaconError, ChainError, StorageError
from grail_core.keys import LocalSigner
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.manifest import CheckpointManifest, FileRef, ManifestContent, ObjectRef, build
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.protocol.windows import WindowTimes
from grail_validator.simulation.subnet.faults import FINALITY, Faults

GENESIS_MS = 1_000_000  # of block 0
TRAINER = LocalSigner.from_seed(b"trainer".ljust(32))
_ANY = Digest(b"d" * 32)


@lru_cache(maxsize=1)
def parameters() -> NetworkParameters:
    """Localnet's, of a trainer that publishes one checkpoint and no more."""
    return replace(LOCALNET, trainer_hotkey=TRAINER.hotkey)


@lru_cache(maxsize=8)
def checkpoint(network_id: Digest) -> CheckpointManifest:
    content = ManifestContent(
        network_id=network_id,
        trainer=TRAINER.hotkey,
        sequence=0,
        window=Window(0),
        valid_from=Window(0),
        parent=None,
        base=None,
        architecture="Qwen2ForCausalLM",
        weights_root=_ANY,
        index=ObjectRef(1, _ANY),
        files=(),
        shards=(FileRef("model.safetensors", ObjectRef(1, _ANY)),),
        deltas=(),
        environment=EnvironmentSpec("made-up", 1),
        policy=GenerationPolicy(max_tokens=8),
        end_token_ids=(2,),
        tokenizer_digest=_ANY,
        chat_template_digest=_ANY,
        thinking_mode="none",
    )
    return build(content, TRAINER)


@dataclass(frozen=True)
class Stored:
    """One object: what its store says of it, and since when it is there."""

    data: bytes
    stored_at_ms: int  # on the store's clock
    put_ms: int  # on the world's


@dataclass
class World:
    """`keys` are the miners' by UID and owner, then the validators'; buckets belong to hotkeys."""

    faults: Faults
    registered: Mapping[tuple[int, int], LocalSigner]  # miners, by UID and how often it changed hands
    validators: tuple[LocalSigner, ...]
    now: int = 0  # the newest block
    buckets: dict[Hotkey, dict[str, Stored]] = field(default_factory=dict)
    verdicts: list[tuple[int, Window, bytes]] = field(default_factory=list)  # put by validators, and not looked at yet
    weights: dict[int, dict[int, int]] = field(default_factory=dict)  # on the chain, by validator
    weights_block: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.params = parameters()
        seed = self.faults.seed.to_bytes(8, "big", signed=True)
        self._seed = seed
        self.network_id = self.params.network_id(hashlib.sha256(b"genesis" + seed).digest())
        self.uids = sorted({uid for uid, _ in self.registered})

    # --- time -----------------------------------------------------------------------------------------------------------

    def time_ms(self, block: int) -> int:
        """Of a block, as its timestamp says; a little off the schedule, and never back."""
        return GENESIS_MS + block * self.params.block_time_ms + int(self.faults.chance("time", block) * 300)

    def times(self, window: int) -> WindowTimes:
        return WindowTimes(Window(window), self.params)

    # --- the chain ------------------------------------------------------------------------------------------------------

    def _node(self, validator: int, call: str) -> int:
        """Which block its node takes for the newest. Raises ChainError."""
        if self.faults.partitioned(validator, self.now) or self.faults.refuses(validator, self.now, call):
            raise ChainError("the node does not answer")
        return self.faults.head_stands_since(validator, self.now)

    def current_block(self, validator: int) -> int:
        """The best block, as this validator's node has it; it goes back where blocks are replaced."""
        head = self._node(validator, "head")
        ends = max((depth for depth in range(1, FINALITY + 1) if self.faults.fork(head - depth + 1) == depth), default=0)
        return head - ends

    def finalised_block(self, validator: int) -> int:
        return self.final_at(self._node(validator, "final"))

    def final_at(self, block: int) -> int:
        """The last final block where `block` is the newest."""
        return max(0, min(block, self.faults.stalled_since(block)) - FINALITY)

    def final_hash(self, block: int) -> bytes:
        return hashlib.sha256(b"block" + self._seed + block.to_bytes(8, "big")).digest()

    def best_hash(self, block: int) -> bytes:
        """As whoever does not wait for finality reads it: another one where the block is to be replaced."""
        final = block <= self.final_at(self.now)
        forked = any(self.faults.fork(block - back) > back for back in range(FINALITY))
        return hashlib.sha256(b"fork" + self.final_hash(block)).digest() if forked and not final else self.final_hash(block)

    def neurons(self, block: int) -> tuple[Neuron, ...]:
        """Registered miners with a bucket, by UID."""
        return tuple(_neuron(uid, self.owner(uid, block).hotkey) for uid in self.uids)

    def owner(self, uid: int, block: int) -> LocalSigner:
        return self.registered[uid, min(self.faults.owner(uid, block), max(n for u, n in self.registered if u == uid))]

    def set_weights(self, validator: int, weights: dict[int, int]) -> None:
        """Raises ChainError. May say that it did and not have done it."""
        self._node(validator, "weights")
        if not self.faults.says_and_does_nothing(validator, self.now):
            self.weights[validator], self.weights_block[validator] = weights, self.now

    def last_update(self, validator: int) -> int | None:
        """When the chain's weights of this validator were set."""
        self._node(validator, "update")
        return self.weights_block.get(validator)

    # --- the beacon -----------------------------------------------------------------------------------------------------

    def round_at(self, block: int) -> SignedRound:
        """The first round at or after a block's time. Raises BeaconError where it is not out yet."""
        beacon = self.params.beacon
        number = beacon.round_at(self.time_ms(block))
        late = self.faults.rounds_end(self.now)
        if late or GENESIS_MS + self.now * self.params.block_time_ms < beacon.time_of_ms(number):
            raise BeaconError(f"round {number} is not out yet")
        return self.signed_round(number)

    def signed_round(self, number: int) -> SignedRound:
        """Its signature is made up; who verifies rounds is not asked here."""
        return SignedRound(number, hashlib.shake_256(b"round" + self._seed + number.to_bytes(8, "big")).digest(48))

    # --- what follows from both -----------------------------------------------------------------------------------------

    def context(self, window: int, block_hash: bytes | None = None) -> WindowContext:
        """Of a window whose block and round are there; of the final block, unless another hash is given."""
        number = self.params.beacon.round_at(self.time_ms(self.times(window).seed_beacon_block))
        block = self.final_hash(window) if block_hash is None else block_hash
        return WindowContext(
            self.params, self.network_id, Window(window), block, self.signed_round(number), checkpoint(self.network_id)
        )

    def challenge(self, context: WindowContext) -> Challenge:
        times = context.times
        number = self.params.beacon.round_at(self.time_ms(times.challenge_block))
        block, beacon = self.final_hash(times.first_sight_end_block), self.signed_round(number)
        return Challenge(block, beacon, context.randomness.select_seed(block, beacon.randomness))

    # --- buckets --------------------------------------------------------------------------------------------------------

    def put(self, owner: Hotkey, key: str, data: bytes, at_ms: int, clock_off_ms: int = 0) -> None:
        self.buckets.setdefault(owner, {})[key] = Stored(data, at_ms + clock_off_ms, at_ms)

    def remove(self, owner: Hotkey, key: str) -> None:
        self.buckets.get(owner, {}).pop(key, None)

    def publish(self, validator: int, window: Window, verdict: bytes) -> None:
        """A validator's verdict of a window. Raises StorageError."""
        self.put_own(validator, verdict_key(window), verdict)
        self.verdicts.append((validator, window, verdict))

    def put_own(self, validator: int, key: str, data: bytes) -> None:
        """A validator into its own bucket. Raises StorageError."""
        if self.faults.partitioned(validator, self.now):
            raise StorageError("the store does not answer")
        self.put(self.validators[validator].hotkey, key, data, self.time_ms(self.now))

    def read(self, reader: int, owner: Hotkey, key: str, lag_ms: int = 0) -> Stored | None:
        """As this validator sees it now; None where nothing is there. Raises StorageError."""
        if self.faults.partitioned(reader, self.now):
            raise StorageError("the store does not answer")
        there = self.buckets.get(owner, {}).get(key)
        return None if there is None or there.put_ms + lag_ms > self.time_ms(self.now) else there


def verdict_key(window: int) -> str:
    return f"verdict/{window}"


@lru_cache(maxsize=4096)
def _neuron(uid: int, hotkey: Hotkey) -> Neuron:
    return Neuron(uid, hotkey, 0, False, Block(0), f"bucket {uid}", Block(0), Block(0))
