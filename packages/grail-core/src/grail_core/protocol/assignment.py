"""Section 3: which groups a file may hold, what they count, and which checkpoint a window is generated with.

Choosing problems does not pay: a missing group is deducted as one group more, and beyond an allowance the file rejects.
Exactly one checkpoint is valid in a window, by a rule everybody evaluates on the same public times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.types import Digest, Window
from grail_core.protocol.windows import require_window


@dataclass(frozen=True)
class GroupCount:
    """What a file's group ids amount to."""

    groups: int  # n
    span: int  # N = highest group id + 1
    gaps: int  # N − n
    allowed_gaps: int  # max(1, ⌊N/20⌋)
    declared: int  # rollouts that count: 16 · max(0, n − gaps)


def allowed_gaps(span: int) -> int:
    """max(1, ⌊N/20⌋)."""
    return max(1, span // 20)


def count_groups(group_ids: Sequence[int]) -> GroupCount:
    """Apply the gap rule to a file's group ids, one entry per group in file order.

    Raises:
        ValueError: no group, a negative or not strictly increasing id, or more gaps than allowed.
    """
    n = len(group_ids)
    if n == 0:
        raise ValueError("a file has at least one group")
    previous = -1
    for group in group_ids:
        if group <= previous:
            raise ValueError(
                f"group {group} is negative" if group < 0 else f"group {group} follows {previous}: ids must strictly increase"
            )
        previous = int(group)
    span = previous + 1
    gaps = span - n
    allowed = allowed_gaps(span)
    if gaps > allowed:
        raise ValueError(f"{gaps} of {span} assigned groups are missing, at most {allowed} may be")
    return GroupCount(n, span, gaps, allowed, ROLLOUTS_PER_PROBLEM * max(0, n - gaps))


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
