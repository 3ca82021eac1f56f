"""The rows of the table: what somebody may try who wants to be paid for less than honest work.

Each is a function of what the hotkey knows of itself (`plans.View`). The names are the table's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grail_core.protocol.constants import AUDITS_OF_A_PRODUCT, INCONCLUSIVE_FREE, UNIQUE_ROLLOUTS_CAP
from grail_validator.simulation.plans import FULL_GROUPS, Bools, IfDrawn, Plans, Strategy, View, plans

ONE_GROUP = 1e-9
"""As a size: rounded up to one group."""
LOOKBACK = -1
"""As a span of idling: for as long as the failure's look-back lasts."""


def failed(view: View) -> Bools:
    """The hotkey is worth less than a new one."""
    return view.failed > 0


def junk_in(share: float, *, if_drawn: IfDrawn = IfDrawn.JUDGED) -> Callable[[View], Plans]:
    """Full files, junk in this share of the windows."""

    def plan(view: View) -> Plans:
        junk = view.chance(share)
        return plans(view, junk=junk, if_drawn=np.where(junk, if_drawn, IfDrawn.JUDGED))

    return plan


def trust_spent(audits: int, idle: int, size: float = 1.0) -> Callable[[View], Plans]:
    """Honest files of `size` until so many clean audits stand, then full junk until caught, then idle."""

    def plan(view: View) -> Plans:
        junk = (view.valid >= audits) & (view.failed == 0)
        files = np.where(junk, 1.0, size)
        away = view.in_lookback if idle == LOOKBACK else view.since < idle
        return plans(view, np.where(away, 0, files), junk=junk)

    return plan


def on_and_off(on: int, off: int, small: float = 0.0) -> Callable[[View], Plans]:
    """Honest: full for `on` windows, `small` for `off`. Replicas stand at different places of the cycle."""

    def plan(view: View) -> Plans:
        phase = (view.t + np.arange(view.replicas) * 7) % (on + off)
        return plans(view, np.where(phase < on, 1.0, small))

    return plan


def junk_in_the_lookback(audits: int, idle: int) -> Callable[[View], Plans]:
    """Idle, then junk at the floor's chance while the look-back lasts, so that work stands when it ends."""

    def plan(view: View) -> Plans:
        junk = view.in_lookback | (view.valid >= audits)
        return plans(view, np.where(view.since < idle, 0, 1.0), junk=junk)

    return plan


def junk_groups(share: float, size: float = 1.0) -> Callable[[View], Plans]:
    """Junk in this share of the groups of every file, at least one; idle after a failure."""

    def plan(view: View) -> Plans:
        return plans(view, np.where(view.in_lookback, 0, size), junk=share)

    return plan


def mixed_sizes(full: float, small: float, *, junk_is_full: bool) -> Callable[[View], Plans]:
    """Full files in a share of the windows, small ones else; one of the two is junk."""

    def plan(view: View) -> Plans:
        big = view.chance(full)
        return plans(view, np.where(big, 1.0, small), junk=big if junk_is_full else ~big)

    return plan


def misfortune(
    *, false_reject: float = 0.0, absent: float = 0.0, no_file: float = 0.0, fault: float = 0.0
) -> Callable[[View], Plans]:
    """Honest full-time work to which this happens: to an audit, to a window, to a seal's file, on the validator's side."""

    def plan(view: View) -> Plans:
        if_drawn = np.where(view.chance(no_file), IfDrawn.NO_FILE, np.where(view.chance(fault), IfDrawn.INCONCLUSIVE, 0))
        return plans(view, np.where(view.chance(absent), 0, 1.0), if_drawn=if_drawn, false_reject=false_reject)

    return plan


def free_faults(budget: int = 1, audits: int = 4) -> Callable[[View], Plans]:
    """Junk that is inconclusive when drawn, while fewer than `budget` such windows stand; else honest."""

    def plan(view: View) -> Plans:
        junk = (view.inconclusive < budget) & (view.valid >= audits)
        return plans(view, junk=junk, if_drawn=np.where(junk, IfDrawn.INCONCLUSIVE, IfDrawn.JUDGED))

    return plan


def trust_then_faults(audits: int, tiny: int = 0) -> Callable[[View], Plans]:
    """Honest until so many full audits stand, after `tiny` of one group; then junk, inconclusive whenever it is drawn."""

    def plan(view: View) -> Plans:
        junk = (view.valid >= tiny + audits) & (view.supported >= AUDITS_OF_A_PRODUCT * UNIQUE_ROLLOUTS_CAP)
        size = np.where(view.valid < tiny, ONE_GROUP, 1.0)
        return plans(view, size, junk=junk, if_drawn=np.where(junk, IfDrawn.INCONCLUSIVE, IfDrawn.JUDGED))

    return plan


def fault_after_junk(before: int, audits: int) -> Callable[[View], Plans]:
    """Junk in the first windows, so that work stands early; honest until so many audits stand; junk whose first draw is
    inconclusive. It leaves once it failed."""

    def plan(view: View) -> Plans:
        first = view.age < before
        junk = first | (view.valid >= audits)
        free = junk & ~first & (view.inconclusive < INCONCLUSIVE_FREE)
        return plans(view, junk=junk, if_drawn=np.where(free, IfDrawn.INCONCLUSIVE, IfDrawn.JUDGED))

    return plan


def faults_after_junk() -> list[Strategy]:
    """By windows of junk and by audits."""
    made = []
    for before in (0, 3, 4, 5, 6, 7):
        for audits in (4, 6, 8, 10, 11, 12):
            name = f"{before} windows of junk, {audits} audits, junk"
            made.append(Strategy(name, fault_after_junk(before, audits), failed))
    return made


def second_fault(view: View) -> Bools:
    """A free one, where there was one, is spent, and another was counted."""
    return view.inconclusive > INCONCLUSIVE_FREE


def floor_by_a_tiny_failure(audits: int, junk_windows: int) -> Callable[[View], Plans]:
    """Trusted, fail with a file of one group, which costs the products nothing; idle in the look-back, and for its last windows
    seal full junk at the floor's chance, so that work stands when it ends; then honest until the audits stand again."""

    def plan(view: View) -> Plans:
        spent = (view.valid >= audits) & ~view.in_lookback
        junk = view.in_lookback & (view.left <= junk_windows)
        size = np.where(spent, ONE_GROUP, np.where(view.in_lookback & ~junk, 0, 1.0))
        return plans(view, size, junk=spent | junk)

    return plan


def wound_down(age: int, absent: int, audits: int) -> Callable[[View], Plans]:
    """Honest, junk once so many audits stand, absent for the last windows of a hotkey's life, which older work still pays."""

    def plan(view: View) -> Plans:
        junk = (view.valid >= audits) & (view.failed == 0)
        return plans(view, np.where(view.age >= age - absent, 0, 1.0), junk=junk)

    return plan


def random_policy(number: int) -> Strategy:
    """A policy over size, own audits, failures, idling, faults and new hotkeys, drawn from its number."""
    g = np.random.default_rng(1000 + number)
    audits, volume = int(g.integers(0, 14)), float(g.choice([0, 1, 2, 4, 6]))
    share, junk_size = float(g.choice([0.1, 0.3, 0.6, 1])), float(g.choice([0.3, 0.6, 0.8, 1]))
    size, idle = float(g.choice([ONE_GROUP, 0.3, 0.6, 1, 1, 1])), int(g.choice([0, 8, 14, 24, 30, 36, 60]))
    most_failed, rotates, in_lookback = int(g.choice([0, 1, 99])), bool(g.integers(2)), bool(g.integers(2))

    def plan(view: View) -> Plans:
        trusted = (view.valid >= audits) & (view.supported >= volume * UNIQUE_ROLLOUTS_CAP) & (view.failed <= most_failed)
        junk = (trusted & view.chance(share)) | (view.in_lookback & in_lookback)
        files = np.where(junk, junk_size, size)
        return plans(view, files if rotates else np.where(view.since < idle, 0, files), junk=junk)

    words = f"junk {junk_size} in {share:g} of windows from {audits} audits, volume {volume:g}, failures ≤ {most_failed}"
    after = "new hotkey" if rotates else f"idle {idle}, look-back {'junk' if in_lookback else 'honest'}"
    return Strategy(f"{words}; else {size:.2g}; {after}", plan, failed if rotates else None)


def mixes_of_sizes() -> list[Strategy]:
    """Full files in some windows, smaller ones in the others, junk in one kind."""
    made = []
    for full in (0.2, 0.5, 0.8, 0.95):
        for small in (ONE_GROUP, 0.05, 0.2, 0.5):
            for big in (True, False):
                words = f"full in {full:g} of windows, else {max(small, 1 / FULL_GROUPS):.2g}"
                name = f"{words}, junk in the {'full' if big else 'small'} ones"
                made.append(Strategy(name, mixed_sizes(full, small, junk_is_full=big)))
    return made
