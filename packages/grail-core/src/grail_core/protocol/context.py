"""What everybody derives alike for one window: block hash, verified beacon round, seeds, the valid checkpoint, the challenge.

A `WindowContext` is complete and immutable; whoever holds one needs no chain, beacon or store to derive work or to check it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.randomness import Randomness
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.windows import WindowTimes

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


def challenge_seed(context: WindowContext, challenge: Challenge, content_digest: Digest) -> Digest:
    """The seed that opens one file: bound to its bytes."""
    randomness = challenge.beacon.randomness if challenge.beacon else NO_BEACON
    return context.randomness.challenge_seed(challenge.block_hash, randomness, content_digest)
