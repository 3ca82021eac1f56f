"""Gradient work, section 2: rounds, counted in blocks.

A round is `round_windows` windows and is named by its first block T, a multiple of its length P. Seals are due `tail_blocks`
before it ends, updates and openings `reveal_blocks` later, and the merged checkpoint is stored while the round still lasts, so
that the next round trains it. Offsets after the deadline are the network's own (`WindowOffsets`), counted from this deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.types import Block, Window
from grail_core.protocol.windows import WindowOffsets


class RoundOffsets(WindowOffsets, Protocol):
    """The part of `NetworkParameters` that places a round's events."""

    @property
    def checkpoint_lead(self) -> int: ...

    @property
    def checkpoint_least_distance(self) -> int: ...


@dataclass(frozen=True)
class RoundTimes:
    """The blocks at which a round's events happen on a network: the sibling of `WindowTimes`.

    Raises ValueError for a round that the network's offsets leave no room for, or a block that begins none.
    """

    round: Window
    spec: GradientSpec
    offsets: RoundOffsets

    def __post_init__(self) -> None:
        require_round(self.round, self.spec)
        require_room(self.spec, self.offsets)

    @property
    def first_block(self) -> Block:
        """T: registrations, UIDs and the manifest are read as of it."""
        return Block(self.round)

    @property
    def seed_beacon_block(self) -> Block:
        """The seed beacon is the first round at or after this block's time."""
        return Block(self.round + self.offsets.seed_beacon_after_T)

    @property
    def deadline_block(self) -> Block:
        """D: a seal stored later does not count."""
        return Block(self.next_round - self.spec.tail_blocks)

    @property
    def first_sight_end_block(self) -> Block:
        """First sight of seals is over with this block; updates are not to be seen before."""
        return Block(self.deadline_block + self.offsets.first_sight_ends_after_D)

    @property
    def challenge_block(self) -> Block:
        """The select and challenge beacon is the first round at or after this block's time."""
        return Block(self.deadline_block + self.offsets.challenge_after_D)

    @property
    def reveal_block(self) -> Block:
        """V: an update or an opening stored later does not count."""
        return Block(self.deadline_block + self.spec.reveal_blocks)

    @property
    def second_sight_end_block(self) -> Block:
        """The sight of updates and openings is over with this block."""
        return Block(self.reveal_block + self.offsets.first_sight_ends_after_D)

    @property
    def checkpoint_block(self) -> Block:
        """The next checkpoint's manifest must be stored before this block."""
        return Block(self.next_round - self.offsets.checkpoint_lead)

    @property
    def void_block(self) -> Block:
        """A round whose beacon rounds or final blocks cannot be had by this block is void for everyone."""
        return Block(self.deadline_block + self.offsets.void_after_D)

    @property
    def next_round(self) -> Window:
        return Window(self.round + self.spec.round_blocks)


def round_of(block: int, spec: GradientSpec) -> Window:
    """The round that a block lies in. Errors: ValueError for a negative block."""
    if block < 0:
        raise ValueError(f"no block has the number {block}")
    return Window(block - block % spec.round_blocks)


def require_round(first: int, spec: GradientSpec) -> Window:
    """The round of this name. Errors: ValueError where none begins at the block."""
    if first < 0 or first % spec.round_blocks:
        raise ValueError(f"{first} is no round: rounds are multiples of {spec.round_blocks} blocks")
    return Window(first)


def require_room(spec: GradientSpec, offsets: RoundOffsets) -> None:
    """Do sight, challenge, reveal and the next checkpoint fit, in this order? Errors: ValueError saying what does not."""
    sight, lead = offsets.first_sight_ends_after_D, offsets.checkpoint_lead
    if offsets.challenge_after_D + 2 > spec.reveal_blocks:
        raise ValueError(
            f"reveal_blocks: {spec.reveal_blocks}, the network's challenge comes {offsets.challenge_after_D} blocks after the "
            f"deadline and leaves two less"
        )
    if spec.reveal_blocks + sight + lead + 2 > spec.tail_blocks:
        raise ValueError(
            f"tail_blocks: {spec.tail_blocks}, reveal, sight and checkpoint lead of this network take "
            f"{spec.reveal_blocks + sight + lead + 2}"
        )
    if offsets.checkpoint_least_distance > spec.round_windows:
        raise ValueError(
            f"round_windows: {spec.round_windows}, a checkpoint of this network comes into force "
            f"{offsets.checkpoint_least_distance} windows after its own at the earliest"
        )
