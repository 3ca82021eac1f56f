"""Guessing the next audit from what can be known before the deadline: one's own audits, one's own chance.

A coin is tossed after first sight from randomness that nobody has before, so these are guesses, and work that is left out when
no audit is expected is junk that an audit finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grail_validator.simulation.plans import Plans, Strategy, View, plans
from grail_validator.simulation.strategies import ONE_GROUP, failed


@dataclass(frozen=True)
class WhenDue:
    """Works only once no audit came for `wait` windows, as if audits came evenly; junk before."""

    wait: int

    def __call__(self, view: View) -> Plans:
        return plans(view, np.where(view.in_lookback, 0, 1.0), junk=view.since_audit < self.wait)


@dataclass(frozen=True)
class AfterAnAudit:
    """Junk for `windows` after an audit that found the work valid, as if another could not follow at once; else honest."""

    windows: int

    def __call__(self, view: View) -> Plans:
        just = (view.since_audit < self.windows) & (view.valid > 0) & ~view.in_lookback
        return plans(view, np.where(view.in_lookback, 0, 1.0), junk=just)


@dataclass(frozen=True)
class AfterAQuietSpell:
    """Junk once no audit came for `wait` windows, as if one had been forgotten; else honest."""

    wait: int

    def __call__(self, view: View) -> Plans:
        quiet = (view.since_audit >= self.wait) & (view.valid > 0) & ~view.in_lookback
        return plans(view, np.where(view.in_lookback, 0, 1.0), junk=quiet)


@dataclass(frozen=True)
class AtTheFloor:
    """Honest and full, but for junk of a size that is drawn at the least chance of all, in this share of the windows."""

    share: float
    size: float

    def __call__(self, view: View) -> Plans:
        small = view.chance(self.share)
        return plans(view, np.where(view.in_lookback, 0, np.where(small, self.size, 1.0)), junk=small)


def dodges() -> list[Strategy]:
    """Every guess, under a hotkey that idles through its look-back, and under one that is left for a new one."""
    guesses: list[tuple[str, Callable[[View], Plans]]] = [
        *((f"work only once no audit came for {n} windows, else junk", WhenDue(n)) for n in (2, 5, 10)),
        *((f"junk in the {n} windows after an audit, else work", AfterAnAudit(n)) for n in (1, 3)),
        *((f"junk once no audit came for {n} windows, else work", AfterAQuietSpell(n)) for n in (5, 15)),
        ("half-size junk in one window of ten, else work", AtTheFloor(0.1, 0.5)),
        ("junk of one group in one window of two, else work", AtTheFloor(0.5, ONE_GROUP)),
    ]
    return [
        Strategy(f"{name}; {after}", guess, leaves)
        for name, guess in guesses
        for after, leaves in (("idle when caught", None), ("new hotkey when caught", failed))
    ]
