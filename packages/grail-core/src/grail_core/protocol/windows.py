"""Sections 1 and 2: windows, counted in blocks.

A window is named by its first block T, a multiple of WINDOW_LENGTH. Everything that happens in it has a block, never a
second: what second a block had is chain data, read by whoever owns a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Block, Window


class WindowOffsets(Protocol):
    """The part of `NetworkParameters` that places a window's events, in blocks after T and after the deadline D."""

    @property
    def seed_beacon_after_T(self) -> int: ...  # noqa: N802

    @property
    def first_sight_ends_after_D(self) -> int: ...  # noqa: N802

    @property
    def challenge_after_D(self) -> int: ...  # noqa: N802

    @property
    def void_after_D(self) -> int: ...  # noqa: N802


def window_of(block: int) -> Window:
    """The window a block lies in. Errors: ValueError for a negative block."""
    if block < 0:
        raise ValueError(f"no block has the number {block}")
    return Window(block - block % WINDOW_LENGTH)


def require_window(window: int) -> Window:
    """The window of this name. Errors: ValueError if it is no multiple of WINDOW_LENGTH, or negative."""
    if window < 0 or window % WINDOW_LENGTH:
        raise ValueError(f"{window} is no window: windows are multiples of {WINDOW_LENGTH} blocks")
    return Window(window)


@dataclass(frozen=True)
class WindowTimes:
    """The blocks at which a window's events happen on a network."""

    window: Window
    offsets: WindowOffsets

    def __post_init__(self) -> None:
        require_window(self.window)

    @property
    def first_block(self) -> Block:
        """T: its hash seeds the window; registrations and commitments are read as of it."""
        return Block(self.window)

    @property
    def seed_beacon_block(self) -> Block:
        """The seed beacon is the first round at or after this block's time."""
        return Block(self.window + self.offsets.seed_beacon_after_T)

    @property
    def deadline_block(self) -> Block:
        """D is this block's timestamp: a seal stored later does not count."""
        return Block(self.window + WINDOW_LENGTH)

    @property
    def first_sight_end_block(self) -> Block:
        """First sight is over with this block; its hash enters the select and the challenge seed."""
        return Block(self.deadline_block + self.offsets.first_sight_ends_after_D)

    @property
    def challenge_block(self) -> Block:
        """The select and challenge beacon is the first round at or after this block's time."""
        return Block(self.deadline_block + self.offsets.challenge_after_D)

    @property
    def void_block(self) -> Block:
        """A window whose rounds or final blocks cannot be had by this block is void for everyone."""
        return Block(self.deadline_block + self.offsets.void_after_D)

    @property
    def next_window(self) -> Window:
        return Window(self.window + WINDOW_LENGTH)
