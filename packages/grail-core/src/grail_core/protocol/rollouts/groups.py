"""Section 3: which groups a file may hold, and what they count.

Choosing problems does not pay: a missing group is deducted as one group more, and beyond an allowance the file rejects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM


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
