"""Section 1's sample: which rollouts of a drawn file are checked. The challenge seed is bound to the file's bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from grail_core.protocol.constants import (
    CHECK_ALL_BELOW,
    MAX_ROLLOUTS_CHECKED,
    ROLLOUTS_PER_PROBLEM,
    SINGLE_ROLLOUTS_CHECKED,
    WHOLE_GROUPS_CHECKED,
)
from grail_core.protocol.randomness import DRAW_GROUPS, DRAW_SINGLES, draw, drawn

RESERVE_ROLLOUTS = MAX_ROLLOUTS_CHECKED
"""More replacements than can be asked for: over a quarter of 64 inconclusive, and the window does not count."""


@dataclass(frozen=True)
class RolloutSample:
    """Which rows of one file are checked. A row is (group id, r)."""

    whole_groups: tuple[int, ...]  # in drawn order; ascending where the whole file is checked
    singles: tuple[tuple[int, int], ...]  # in drawn order, each of another group
    reserve: tuple[
        tuple[int, int], ...
    ]  # what replaces inconclusive rollouts, in order: the draw's first RESERVE_ROLLOUTS left

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Every sampled row: whole groups in order of r, then the singles."""
        whole = ((group, r) for group in self.whole_groups for r in range(ROLLOUTS_PER_PROBLEM))
        return (*whole, *self.singles)


def sample_rollouts(challenge_seed: bytes, groups: Sequence[int]) -> RolloutSample:
    """Draw the rows to check from a file with these group ids (strictly increasing, file order).

    Files of at most CHECK_ALL_BELOW rows are checked whole. Otherwise two whole groups are drawn, and one row of each of up
    to 32 others: in the order of one draw over all rows of the other groups, the first row of each group not yet there.
    """
    n = len(groups)
    if n == 0 or any(a >= b for a, b in pairwise(groups)):
        raise ValueError("group ids must strictly increase, and a file has at least one")
    if n * ROLLOUTS_PER_PROBLEM <= CHECK_ALL_BELOW:
        return RolloutSample(tuple(groups), (), ())
    whole = draw(challenge_seed, DRAW_GROUPS, n, WHOLE_GROUPS_CHECKED)
    others = [group for position, group in enumerate(groups) if position not in whole]
    wanted = min(SINGLE_ROLLOUTS_CHECKED, len(others))
    singles: dict[int, tuple[int, int]] = {}
    passed_over: list[tuple[int, int]] = []
    order = _rows_in_drawn_order(challenge_seed, others)
    while len(singles) < wanted:
        row = next(order)
        if row[0] in singles:
            passed_over.append(row)
        else:
            singles[row[0]] = row
    while len(passed_over) < RESERVE_ROLLOUTS and (following := next(order, None)) is not None:
        passed_over.append(following)
    return RolloutSample(tuple(groups[i] for i in whole), tuple(singles.values()), tuple(passed_over[:RESERVE_ROLLOUTS]))


def _rows_in_drawn_order(challenge_seed: bytes, groups: Sequence[int]) -> Iterator[tuple[int, int]]:
    for index in drawn(challenge_seed, DRAW_SINGLES, ROLLOUTS_PER_PROBLEM * len(groups)):
        position, r = divmod(index, ROLLOUTS_PER_PROBLEM)
        yield groups[position], r
