"""Section 10's coins and section 1's sample: which miners are checked, and which of their rollouts.

Who is checked depends on the select seed, which nobody knows before first sight is over, and follows the money: a miner
that declares more is checked more. Which rows are checked depends on the challenge seed, which is bound to the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from grail_core.protocol.constants import (
    CHECK_ALL_BELOW,
    CHECK_PROBABILITY_FLOOR,
    CHECKED_MINERS_EXPECTED,
    CHECKED_MINERS_LEAST,
    MAX_ROLLOUTS_CHECKED,
    ROLLOUTS_PER_PROBLEM,
    SINGLE_ROLLOUTS_CHECKED,
    WHOLE_GROUPS_CHECKED,
)
from grail_core.protocol.randomness import DRAW_GROUPS, DRAW_MINERS, DRAW_SINGLES, draw, drawn, stream_words
from grail_core.protocol.types import Hotkey

RESERVE_ROWS = MAX_ROLLOUTS_CHECKED
"""More replacements than can be asked for: over a quarter of 64 inconclusive, and the window does not count."""


@dataclass(frozen=True)
class Selection:
    """One announced miner's chance of being checked, its coin, and the outcome."""

    hotkey: Hotkey
    probability: Fraction
    coin: int  # 0 … 2⁶⁴ − 1; below probability · 2⁶⁴ is checked
    selected: bool


def check_probability(declared: int, total: int) -> Fraction:
    """p_i = clamp(35 · declared_i / Σ declared, 1/10, 1), exact; 1/10 where nobody declares anything."""
    floor = Fraction(*CHECK_PROBABILITY_FLOOR)
    if total == 0:
        return floor
    return min(Fraction(1), max(floor, Fraction(CHECKED_MINERS_EXPECTED * declared, total)))


def miner_coin(select_seed: bytes, hotkey: bytes) -> int:
    """The first 8-byte word of SHAKE-256 over ("grail/draw/miners", select_seed, hotkey), lengths in front."""
    return next(stream_words(select_seed, DRAW_MINERS, hotkey))


def select_miners(select_seed: bytes, declared: Mapping[Hotkey, int]) -> tuple[Selection, ...]:
    """Toss every announced miner's coin.

    Args:
        select_seed: 32 bytes.
        declared: rollouts declared in this window's announced files with a readable header, by hotkey.

    Returns:
        One entry per hotkey, in order of hotkey bytes. At least two are selected (all, if there are fewer): where the
        coins select fewer, the lowest coins are taken in addition, ties by hotkey bytes.
    """
    for hotkey, count in declared.items():
        if len(hotkey) != 32 or count < 0:
            raise ValueError(f"{hotkey.hex()}: {count} declared by a hotkey of {len(hotkey)} bytes")
    total = sum(declared.values())
    tossed = [(miner_coin(select_seed, hotkey), hotkey) for hotkey in declared]
    chances = {hotkey: check_probability(declared[hotkey], total) for hotkey in declared}
    selected = {hotkey for coin, hotkey in tossed if coin * chances[hotkey].denominator < chances[hotkey].numerator << 64}
    for _, hotkey in sorted(tossed):
        if len(selected) >= CHECKED_MINERS_LEAST:
            break
        selected.add(hotkey)
    return tuple(
        Selection(hotkey, chances[hotkey], coin, hotkey in selected)
        for coin, hotkey in sorted(tossed, key=lambda entry: entry[1])
    )


@dataclass(frozen=True)
class RowSample:
    """Which rows of one file are checked. A row is (group id, r)."""

    whole_groups: tuple[int, ...]  # in drawn order; ascending where the whole file is checked
    singles: tuple[tuple[int, int], ...]  # in drawn order, each of another group
    reserve: tuple[tuple[int, int], ...]  # what replaces inconclusive rollouts, in order: the draw's first RESERVE_ROWS left

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """Every sampled row: whole groups in order of r, then the singles."""
        whole = ((group, r) for group in self.whole_groups for r in range(ROLLOUTS_PER_PROBLEM))
        return (*whole, *self.singles)


def sample_rows(challenge_seed: bytes, groups: Sequence[int]) -> RowSample:
    """Draw the rows to check from a file with these group ids (strictly increasing, file order).

    Files of at most CHECK_ALL_BELOW rows are checked whole. Otherwise two whole groups are drawn, and one row of each of up
    to 32 others: in the order of one draw over all rows of the other groups, the first row of each group not yet there.
    """
    n = len(groups)
    if n == 0 or any(a >= b for a, b in pairwise(groups)):
        raise ValueError("group ids must strictly increase, and a file has at least one")
    if n * ROLLOUTS_PER_PROBLEM <= CHECK_ALL_BELOW:
        return RowSample(tuple(groups), (), ())
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
    while len(passed_over) < RESERVE_ROWS and (following := next(order, None)) is not None:
        passed_over.append(following)
    return RowSample(tuple(groups[i] for i in whole), tuple(singles.values()), tuple(passed_over[:RESERVE_ROWS]))


def _rows_in_drawn_order(challenge_seed: bytes, groups: Sequence[int]) -> Iterator[tuple[int, int]]:
    for index in drawn(challenge_seed, DRAW_SINGLES, ROLLOUTS_PER_PROBLEM * len(groups)):
        position, r = divmod(index, ROLLOUTS_PER_PROBLEM)
        yield groups[position], r
