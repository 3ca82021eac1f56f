"""Opening a window: the protocol's context and challenge, from chain, beacon and the trainer's checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from grail_core.beacon.base import Beacon
from grail_core.chain.base import BlockInfo, Chain
from grail_core.protocol import WindowTimes
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.context import NO_BEACON, Challenge, WindowContext
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Window


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
        beacon=round_at(chain, beacon, params, times.seed_beacon_block),
        manifest=valid_checkpoint(window),
    )


def open_challenge(chain: Chain, beacon: Beacon, context: WindowContext) -> Challenge:
    """The challenge of a window whose challenge block is final."""
    block = chain.block(context.times.first_sight_end_block)
    round_ = round_at(chain, beacon, context.params, context.times.challenge_block)
    return challenge_of(context, block, round_)


def challenge_of(context: WindowContext, block: BlockInfo, round_: SignedRound | None) -> Challenge:
    randomness = round_.randomness if round_ else NO_BEACON
    return Challenge(block.hash, round_, context.randomness.select_seed(block.hash, randomness))


def round_at(chain: Chain, beacon: Beacon, params: NetworkParameters, block: Block) -> SignedRound | None:
    """The beacon round of a block, None where the network has no beacon."""
    if params.beacon_policy == "off":
        return None
    return beacon.get(beacon.chain.round_at(chain.block(block).timestamp_ms))
