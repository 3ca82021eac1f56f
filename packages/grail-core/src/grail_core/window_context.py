"""What every participant of a window derives alike: block hash, verified beacon round, seeds, and the valid checkpoint.

A `WindowContext` is complete and immutable; whoever holds one needs no chain, beacon or store to derive work or to check it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from grail_core.beacon.base import Beacon, SignedRound
from grail_core.chain.base import BlockInfo, Chain
from grail_core.checkpoints.manifest import CheckpointManifest
from grail_core.network import NetworkParameters
from grail_core.protocol import Randomness, WindowTimes
from grail_core.protocol.types import Block, Digest, Hotkey, Window

NO_BEACON = bytes(32)
"""The randomness of a network whose beacon policy is `off`."""


@dataclass(frozen=True)
class WindowContext:
    params: NetworkParameters
    network_id: Digest
    window: Window
    block_hash: bytes  # of block T
    beacon: SignedRound | None  # None where the network's policy is `off`
    manifest: CheckpointManifest  # the checkpoint valid in this window

    @cached_property
    def randomness(self) -> Randomness:
        return Randomness(self.network_id)

    @cached_property
    def times(self) -> WindowTimes:
        return WindowTimes(self.window, self.params)

    @cached_property
    def window_seed(self) -> Digest:
        return self.randomness.window_seed(self.block_hash, self.beacon.randomness if self.beacon else NO_BEACON)

    @property
    def checkpoint_digest(self) -> Digest:
        return self.manifest.digest

    @property
    def env_digest(self) -> Digest:
        return self.manifest.env_digest

    def problem_seed(self, hotkey: Hotkey, group: int) -> int:
        return self.randomness.problem_seed(self.window_seed, hotkey, self.env_digest, group)

    def sampling_seed(self, hotkey: Hotkey, group: int, rollout: int) -> int:
        return self.randomness.sampling_seed(self.window_seed, hotkey, self.checkpoint_digest, self.env_digest, group, rollout)


@dataclass(frozen=True)
class Challenge:
    """What is unknown until first sight is over: selects the miners to check and the positions to open."""

    block_hash: bytes  # of the block in which first sight ends
    beacon: SignedRound | None
    select_seed: Digest


def block_time_ms(chain: Chain, params: NetworkParameters, block: Block) -> int:
    """Time of a block by the chain; for one to come, the best known block's time plus the nominal block time."""
    head = chain.current_block()
    if block <= head:
        return chain.block(block).timestamp_ms
    return chain.block(head).timestamp_ms + (block - head) * params.block_time_ms


def open_window(
    chain: Chain,
    beacon: Beacon,
    params: NetworkParameters,
    window: Window,
    valid_checkpoint: Callable[[Window], CheckpointManifest],
) -> WindowContext:
    """The context of a window whose seed-beacon block exists.

    Raises:
        ChainError, BeaconError, CheckpointError: an input cannot be had; the caller decides whether to wait or to record
            the window as void.
    """
    times = WindowTimes(window, params)
    return WindowContext(
        params=params,
        network_id=params.network_id(chain.genesis_hash),
        window=window,
        block_hash=chain.block(times.first_block).hash,
        beacon=_round_at(chain, beacon, params, times.seed_beacon_block),
        manifest=valid_checkpoint(window),
    )


def open_challenge(chain: Chain, beacon: Beacon, context: WindowContext) -> Challenge:
    """The challenge of a window whose challenge block is final."""
    block = chain.block(context.times.first_sight_end_block)
    round_ = _round_at(chain, beacon, context.params, context.times.challenge_block)
    return challenge_of(context, block, round_)


def challenge_of(context: WindowContext, block: BlockInfo, round_: SignedRound | None) -> Challenge:
    randomness = round_.randomness if round_ else NO_BEACON
    return Challenge(block.hash, round_, context.randomness.select_seed(block.hash, randomness))


def challenge_seed(context: WindowContext, challenge: Challenge, content_digest: Digest) -> Digest:
    """The seed that opens one file: bound to its bytes."""
    randomness = challenge.beacon.randomness if challenge.beacon else NO_BEACON
    return context.randomness.challenge_seed(challenge.block_hash, randomness, content_digest)


def _round_at(chain: Chain, beacon: Beacon, params: NetworkParameters, block: Block) -> SignedRound | None:
    if params.beacon_policy == "off":
        return None
    return beacon.get(beacon.chain.round_at(chain.block(block).timestamp_ms))
