"""Gradient work, section 10: from losses before and after to ranks in which equals are equal, in exact integers.

A difference d[s] = loss before − loss after of one sequence has the unit 2⁻²⁰ nats; a score is the sum over the common set. Who
is within two standard errors of the first of a rank shares it: the test is paired, sequence by sequence, since all are scored
on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

Differences = Sequence[int]

MAX_DIFFERENCE = 1 << 40
"""A million nats: a sequence's loss is capped far below."""


@dataclass(frozen=True)
class Score:
    """A miner's sum over the common set, its standard error (rounded down), and its rank from 1, the best."""

    score: int
    error: int
    rank: int

    @property
    def above_baseline(self) -> bool:
        """Did the update lower the loss? The baseline is the loss before it."""
        return self.score > 0


def ranked(differences: Mapping[int, Differences]) -> dict[int, Score]:
    """Scores and ranks by UID, in UID order.

    Sorted by score, then UID, the next miner opens a new rank iff it is significantly behind the first of the current one.
    Scores that are significantly negative share the last rank.

    Args:
        differences: of each checked and accepted miner, over the same common sequences in the same order.

    Raises:
        ValueError: lists of different lengths, fewer than two sequences, or a difference that no loss has.
    """
    lengths = {len(one) for one in differences.values()}
    if len(lengths) > 1 or any(length < 2 for length in lengths):
        raise ValueError(f"differences: over {sorted(lengths)} sequences; all are scored on the same ones, at least two")
    if any(abs(value) > MAX_DIFFERENCE for one in differences.values() for value in one):
        raise ValueError(f"differences: one is beyond {MAX_DIFFERENCE}")
    scores = {uid: sum(one) for uid, one in differences.items()}
    harmful = {uid for uid, one in differences.items() if significantly_negative(one)}
    ranks: dict[int, int] = {}
    rank, first = 0, None
    for uid in sorted(scores.keys() - harmful, key=lambda uid: (-scores[uid], uid)):
        if first is None or significant([a - b for a, b in zip(differences[first], differences[uid], strict=True)]):
            rank, first = rank + 1, uid
        ranks[uid] = rank
    ranks |= dict.fromkeys(harmful, rank + 1)
    return {uid: Score(scores[uid], standard_error(differences[uid]), ranks[uid]) for uid in sorted(scores)}


def significant(values: Differences) -> bool:
    """Is the sum positive by more than two standard errors? (Σδ)²(n − 1) > 4(nΣδ² − (Σδ)²)."""
    n, total, squares = len(values), sum(values), sum(value * value for value in values)
    return total > 0 and total * total * (n - 1) > 4 * (n * squares - total * total)


def significantly_negative(values: Differences) -> bool:
    """Does the update do harm, by the same test? Such a one the guard leaves out of a merge."""
    return significant([-value for value in values])


def standard_error(values: Differences) -> int:
    """Of the sum, rounded down: √((nΣδ² − (Σδ)²)/(n − 1))."""
    n, total = len(values), sum(values)
    return isqrt((n * sum(value * value for value in values) - total * total) // (n - 1))
