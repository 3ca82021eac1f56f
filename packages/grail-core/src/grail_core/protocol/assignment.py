"""Section 3: which checkpoint a window is generated with.

Exactly one checkpoint is valid in a window, by a rule everybody evaluates on the same public times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.protocol.types import Digest, Window
from grail_core.protocol.windows import require_window


@dataclass(frozen=True)
class CheckpointCandidate:
    """A published checkpoint as far as the choice goes.

    `lead_block_time_ms` is the timestamp of block `valid_from` − CHECKPOINT_LEAD, `stored_at_ms` the store's time of the
    manifest's (only) write; both Unix milliseconds.
    """

    digest: Digest
    sequence: int  # 0: the first checkpoint of the network
    valid_from: Window
    stored_at_ms: int
    lead_block_time_ms: int

    def __post_init__(self) -> None:
        require_window(self.valid_from)
        if self.sequence < 0:
            raise ValueError(f"sequence number {self.sequence} is negative")

    @property
    def in_time(self) -> bool:
        """In the store before block `valid_from` − lead; the first checkpoint of a network needs no lead."""
        return self.sequence == 0 or self.stored_at_ms < self.lead_block_time_ms


def valid_checkpoint(candidates: Sequence[CheckpointCandidate], window: Window) -> CheckpointCandidate | None:
    """The checkpoint of a window: the greatest `valid_from` ≤ T among those in time; a late one is skipped for good.

    Returns:
        None if there is none: nobody can work in this window.

    Raises:
        ValueError: two candidates share a `valid_from` (a store cannot hold two objects under one key).
    """
    require_window(window)
    if len({candidate.valid_from for candidate in candidates}) != len(candidates):
        raise ValueError("two checkpoints share a valid_from")
    in_force = [c for c in candidates if c.valid_from <= window and c.in_time]
    return max(in_force, key=lambda c: c.valid_from, default=None)
