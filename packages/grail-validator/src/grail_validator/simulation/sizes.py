"""Files of every size: junk in j of G groups (C7), full files in bursts and tiny ones between (C9), tiny files alone (C10).

Junk in some groups of a file is compared with honest files of as many groups, under the same coins and the protocol's own
samples; bursts and small files with honest full-time work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grail_validator.simulation.hotkeys import honest_of, of_the_same_size
from grail_validator.simulation.measure import CROWDS, Pay, Size, measured
from grail_validator.simulation.plans import FULL_GROUPS, Strategy
from grail_validator.simulation.strategies import ONE_GROUP, JunkGroups, OnAndOff, WorkingIn, failed

CHANCES = (0.14, 0.29)
"""Of a full miner, in these tables."""
SMALL_FILES = (1, 2, 4, 5, 8)
"""Groups of a file, all of whose numbers of junk groups are tried."""
LARGE_FILES = (20, 33, 40, 312)
"""The same, ten numbers of each."""
_NUMBERS = 10
AT_RANDOM = 0
RHYTHMS = (AT_RANDOM, 20, 72)
"""Windows of a cycle in which the full files come together."""
SHARES = tuple(round(0.1 * n, 1) for n in range(1, 10))
HONEST_SIZES = (1 / FULL_GROUPS, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9)


@dataclass(frozen=True)
class JunkInFile:
    """Junk in `junk` of `groups` groups of every file, relative to honest files of `groups` groups."""

    groups: int
    junk: int
    probability: float  # a full miner's
    renewed: bool  # a new hotkey once it is caught; else it idles through the look-back
    pay: Pay


@dataclass(frozen=True)
class Burst:
    """Full files in `share` of the windows and one-group files in the others; `cycle` 0: at random."""

    share: float
    cycle: int
    probability: float
    pay: Pay


@dataclass(frozen=True)
class SmallFiles:
    """Honest files of one size, relative to full-time work."""

    size: float
    pay: Pay


def junk_numbers(groups: int) -> tuple[int, ...]:
    """Which numbers of junk groups are tried: all of a small file, ten of a large one, close together where they are few."""
    if groups <= max(SMALL_FILES):
        return tuple(range(1, groups + 1))
    chosen = {int(number) for number in np.rint(np.geomspace(1, groups, _NUMBERS))}
    missing = (number for number in range(1, groups + 1) if number not in chosen)
    while len(chosen) < _NUMBERS:
        chosen.add(next(missing))
    return tuple(sorted(chosen))


def junk_in_file(groups: int, junk: int, probability: float, renewed: bool, size: Size) -> JunkInFile:
    """One cell."""
    share = groups / FULL_GROUPS
    strategy = Strategy("", JunkGroups(junk / groups, share, idles=not renewed), failed if renewed else None)
    pay = of_the_same_size(strategy, share, CROWDS[probability], size)
    return JunkInFile(groups, junk, probability, renewed, pay)


def junk_in_files() -> list[tuple[int, int, float, bool]]:
    """All cells."""
    return [
        (groups, junk, probability, renewed)
        for groups in (*SMALL_FILES, *LARGE_FILES)
        for junk in junk_numbers(groups)
        for probability in CHANCES
        for renewed in (False, True)
    ]


def burst(share: float, cycle: int, probability: float, size: Size) -> Burst:
    """One cell."""
    on = round(share * cycle)
    plan = WorkingIn(share, ONE_GROUP) if cycle == AT_RANDOM else OnAndOff(on, cycle - on, ONE_GROUP)
    return Burst(share, cycle, probability, measured(Strategy("", plan), CROWDS[probability], size))


def bursts() -> list[tuple[float, int, float]]:
    """All cells."""
    return [(share, cycle, p) for p in CHANCES for cycle in RHYTHMS for share in SHARES]


def small_files(size: float, cell: Size) -> SmallFiles:
    """One cell, at the smallest chance a full miner can have."""
    return SmallFiles(size, honest_of(size, CROWDS[CHANCES[0]], cell))
