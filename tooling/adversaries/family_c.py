"""C5, C7 to C10: choosing the work, by simulation with the protocol's own draw, sample and scores.

A try is accepted if its interval lies above honest work's pay. C1 to C4, C6 and C11 are about files, seals and seeds, and are
tried where those are judged.
"""

from __future__ import annotations

from typing import Any

from grail_validator.simulation.crowding import chance_beside_tiny_files
from grail_validator.simulation.hotkeys import cheapest_of, split
from grail_validator.simulation.measure import CROWDS, measured
from grail_validator.simulation.page import junk_in_a_file
from grail_validator.simulation.plans import FULL_GROUPS, Strategy, plans
from grail_validator.simulation.strategies import ONE_GROUP, on_and_off
from tooling.adversaries.simulated import CHANCES, add_figure, add_pay, row_with_twin, size_of

_ONE_GROUP_SLACK = 1.15
"""C8 of files of one group, relative to honest ones of one group: what a list costs varies most there, and pay is a cube of
the size, so that all of it is 10⁻⁷ of full-time work's."""
_TINY = (50, 150)
_DILUTION = 0.01


def split_hotkeys(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C5: up to the cap k hotkeys earn at most what one does."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C5", "operator of k hotkeys", size)
    for probability in CHANCES:
        for share in (1.0, 0.3):
            for count in (2, 3, 8):
                pay = split(share, count, CROWDS[probability], size)
                add_pay(row, f"{share:g} of the cap over {count}, p = {probability}", pay)
    return row.to_json()


def junk_groups(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C7: junk in j of G groups, relative to honest files of G groups."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C7", "files of G groups, j of them junk", size)
    every = (1, 2, 3, 4, 5, 8, 20, 34, 60, 100, 200, FULL_GROUPS)
    for groups in every[::3] if quick else every:
        for junk in sorted({1, -(-groups // 10), -(-groups // 2)}):
            add_pay(row, f"{junk} of {groups}", junk_in_a_file(groups, junk, size))
    return row.to_json()


def cheapest_hotkey(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C8: only the cheapest of k own lists are worked, relative to one hotkey of that size that works every list."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C8", "operator of k hotkeys", size)
    for share in (1.0, 0.2, 1 / FULL_GROUPS):
        for count, worked in ((2, 1), (8, 1), (8, 7), (20, 19)):
            pay = cheapest_of(count, worked, 1.0, share, CROWDS[0.14], size)
            bound = _ONE_GROUP_SLACK if share < 0.01 else 1.0
            add_pay(row, f"{worked} of {count} of size {share:.2g}", pay, bound)
    return row.to_json()


def bursts(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C9: full files in some windows and one group in the others."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C9", "rhythm of files", size)
    for probability in CHANCES:
        for on, off in ((1, 11), (6, 6), (12, 1), (12, 12), (12, 60), (30, 36), (60, 12)):
            plan = on_and_off(on, off, ONE_GROUP)
            add_pay(
                row,
                f"{on} full, {off} of one group, p = {probability}",
                measured(Strategy("", plan), CROWDS[probability], size),
            )
    return row.to_json()


def tiny_files(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C10: others' chance falls by no more than what the tiny files declare, and their own is the floor's."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C10", "hotkeys of one group beside 100 full miners", size)
    for count in _TINY:
        alone, beside, own = chance_beside_tiny_files(100, count)
        message = f"chance of a full miner {beside:.4f} in place of {alone:.4f}; own chance {own:g} for 16 rollouts"
        add_figure(row, f"{count} hotkeys", beside < alone * (1 - _DILUTION) or own < 0.1, "chances (section 10)", message)
    tiny = measured(Strategy("", lambda view: plans(view, ONE_GROUP)), CROWDS[0.14], size)
    add_pay(row, "pay of such a hotkey", tiny)
    return row.to_json()


ATTACKS = {"C5": split_hotkeys, "C7": junk_groups, "C8": cheapest_hotkey, "C9": bursts, "C10": tiny_files}
