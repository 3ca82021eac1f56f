"""C5 to C10: choosing the work, by simulation with the protocol's own draw, sample and scores.

A try is accepted if its interval lies above honest work's pay. C1 to C4 and C11 are about files, seals and seeds, and are tried
where those are judged.
"""

from __future__ import annotations

from typing import Any

from grail_validator.simulation.crowding import chance_beside_tiny_files
from grail_validator.simulation.dodging import dodges
from grail_validator.simulation.hotkeys import operator, operators
from grail_validator.simulation.measure import CROWDS, measured
from grail_validator.simulation.plans import FULL_GROUPS, Strategy
from grail_validator.simulation.sizes import AT_RANDOM, HONEST_SIZES, burst, bursts, junk_in_file, junk_in_files, small_files
from grail_validator.simulation.strategies import ONE_GROUP, OnAndOff
from tooling.adversaries.simulated import CHANCES, add_figure, add_pay, row_with_twin, size_of

_TINY = (50, 150)
_DILUTION = 0.01


def split_hotkeys(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C5: up to the cap k hotkeys earn at most what one does."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C5", "operator of k hotkeys", size)
    for share, count, worked, probability in operators():
        if worked is None:
            found = operator(share, count, None, probability, size)
            add_pay(row, f"{share:g} of the cap over {count}, p = {probability}", found.pay, found.bound)
    return row.to_json()


def only_when_checked(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C6: work only in windows in which one will be checked, as far as that can be guessed before the deadline."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C6", "guess at the next audit", size)
    for one in dodges():
        for probability in CHANCES:
            add_pay(row, f"{one.name}, p = {probability}", measured(one, CROWDS[probability], size))
    return row.to_json()


def junk_groups(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C7: junk in j of G groups, relative to honest files of G groups; idle once caught, or under a new hotkey."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C7", "files of G groups, j of them junk", size)
    for groups, junk, probability, renewed in junk_in_files()[:: 7 if quick else 1]:
        found = junk_in_file(groups, junk, probability, renewed, size)
        add_pay(row, f"{junk} of {groups}{', new hotkey' * renewed}, p = {probability}", found.pay)
    return row.to_json()


def cheapest_hotkey(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C8: only the cheapest of k own lists are worked, relative to one hotkey of that size that works every list."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C8", "operator of k hotkeys", size)
    cheapest = [one for one in operators() if one[2] is not None]
    for share, count, worked, probability in cheapest[:: 3 if quick else 1]:
        found = operator(share, count, worked, probability, size)
        add_pay(row, f"{worked} of {count} of size {share:.2g}", found.pay, found.bound)
    return row.to_json()


def in_bursts(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C9: full files in some windows and one group in the others."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C9", "rhythm of files", size)
    for share, cycle, probability in bursts()[:: 5 if quick else 1]:
        rhythm = "at random" if cycle == AT_RANDOM else f"cycle of {cycle}"
        found = burst(share, cycle, probability, size)
        add_pay(row, f"full in {share:g} of windows, {rhythm}, p = {probability}", found.pay)
    for probability in CHANCES:
        for on, off in ((1, 11), (6, 6), (12, 1), (12, 60), (30, 36), (60, 12)):
            pay = measured(Strategy("", OnAndOff(on, off, ONE_GROUP)), CROWDS[probability], size)
            add_pay(row, f"{on} full, {off} of one group, p = {probability}", pay)
    return row.to_json()


def tiny_files(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """C10: others' chance falls by no more than what the tiny files declare, and their own is the floor's."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("C10", "hotkeys of one group beside 100 full miners", size)
    for count in _TINY:
        alone, beside, own = chance_beside_tiny_files(100, count)
        message = f"chance of a full miner {beside:.4f} in place of {alone:.4f}; own chance {own:g} for 16 rollouts"
        add_figure(row, f"{count} hotkeys", beside < alone * (1 - _DILUTION) or own < 0.1, "chances (section 10)", message)
    for share in HONEST_SIZES[:2] if quick else HONEST_SIZES:
        add_pay(row, f"files of {max(1, round(share * FULL_GROUPS))} groups", small_files(share, size).pay)
    return row.to_json()


ATTACKS = {
    "C5": split_hotkeys,
    "C6": only_when_checked,
    "C7": junk_groups,
    "C8": cheapest_hotkey,
    "C9": in_bursts,
    "C10": tiny_files,
}
