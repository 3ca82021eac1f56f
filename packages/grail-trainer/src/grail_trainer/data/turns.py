"""Whose groups a batch is made of: hotkeys take turns, and none gives more than its share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from grail_core.protocol.types import Hotkey

MAX_SHARE = Fraction(1, 10)
"""Of a batch, from one hotkey."""
HOTKEYS_FOR_SHARE = 10
"""With fewer active hotkeys a tenth each cannot fill a batch: then none gives more than twice an even share."""


@dataclass(frozen=True)
class Candidate:
    """A group of an accepted file whose claimed rewards vary."""

    hotkey: Hotkey
    group: int


def fair_order(offered: Mapping[Hotkey, Sequence[int]]) -> list[Candidate]:
    """Hotkeys in turn (in order of their bytes), each with its groups as they come."""
    rounds = max((len(groups) for groups in offered.values()), default=0)
    return [
        Candidate(hotkey, offered[hotkey][turn])
        for turn in range(rounds)
        for hotkey in sorted(offered)
        if turn < len(offered[hotkey])
    ]


def first_of(order: Sequence[Candidate], failed: Collection[Candidate], max_groups: int, from_one: int) -> list[Candidate]:
    """The candidates that fill a batch as far as is known: those that did not fail, `from_one` of a hotkey at most.

    Who is not verified yet counts as if it passed, so nobody is verified who would not be if all were, one after the other.
    """
    planned: list[Candidate] = []
    given: dict[Hotkey, int] = {}
    for candidate in order:
        if len(planned) == max_groups:
            break
        if candidate not in failed and given.get(candidate.hotkey, 0) < from_one:
            planned.append(candidate)
            given[candidate.hotkey] = given.get(candidate.hotkey, 0) + 1
    return planned


def max_share(active: int) -> Fraction:
    """Of a batch from one hotkey, with so many active: a tenth, or twice an even share with fewer than ten."""
    return MAX_SHARE if active >= HOTKEYS_FOR_SHARE else min(Fraction(1), Fraction(2, max(1, active)))


def max_from_one(max_groups: int, active: int) -> int:
    """Groups of one hotkey in a full batch."""
    return max(1, int(max_share(active) * max_groups))


def within_share(hotkeys: Sequence[Hotkey], *, active: int) -> list[int]:
    """Indices to keep so that no hotkey has more than its share of what is kept (but one group each at least): the latest
    groups of the hotkeys with the most go first."""
    share = max_share(active)
    kept = list(range(len(hotkeys)))
    while kept:
        counts: dict[Hotkey, int] = {}
        for index in kept:
            counts[hotkeys[index]] = counts.get(hotkeys[index], 0) + 1
        allowed = max(1, int(share * len(kept)))
        over = {hotkey for hotkey, count in counts.items() if count > allowed}
        if not over:
            return kept
        most = max(counts[hotkey] for hotkey in over)
        heaviest = {hotkey for hotkey in over if counts[hotkey] == most}
        last = {hotkey: max(index for index in kept if hotkeys[index] == hotkey) for hotkey in heaviest}
        kept = [index for index in kept if index not in last.values()]
    return kept
