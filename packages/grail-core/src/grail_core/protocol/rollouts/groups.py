"""Section 3: which groups a file may hold, and what they count.

Choosing problems does not pay: each missing group is deducted as ten groups more (with one group more, the best skipping of
problems of lognormal cost earned up to twice the honest weight at equal cost), and beyond an allowance the file rejects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.protocol.constants import GAP_DEDUCTION_GROUPS, ROLLOUTS_PER_PROBLEM


@dataclass(frozen=True)
class GroupCount:
    """What a file's group ids amount to."""

    groups: int  # n
    span: int  # N = highest group id + 1
    gaps: int  # N − n
    allowed_gaps: int  # max(1, ⌊N/20⌋)
    declared: int  # rollouts that count: 16 · max(0, n − 10 · gaps)


def allowed_gaps(span: int) -> int:
    """max(1, ⌊N/20⌋)."""
    return max(1, span // 20)


def declared_rollouts(groups: int, gaps: int) -> int:
    """16 · max(0, n − 10 · gaps): what a file of n groups with so many gaps counts."""
    return ROLLOUTS_PER_PROBLEM * max(0, groups - GAP_DEDUCTION_GROUPS * gaps)


def best_prefix(group_ids: Sequence[int]) -> int:
    """How many of these group ids, in increasing order, a miner's file should hold to declare most; the longest on a tie.

    A group that was lost late can cost more than all that follows it.
    """
    best = length = 0
    for count, group in enumerate(group_ids, start=1):
        span = group + 1
        gaps = span - count
        declared = declared_rollouts(count, gaps) if gaps <= allowed_gaps(span) else 0
        if declared and declared >= best:
            best, length = declared, count
    return length


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
    return GroupCount(n, span, gaps, allowed, declared_rollouts(n, gaps))
