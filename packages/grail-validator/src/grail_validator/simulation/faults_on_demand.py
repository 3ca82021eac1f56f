"""What somebody may try who can make an audit inconclusive whenever it wants to, by whatever fault."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grail_core.protocol.constants import AUDITS_OF_A_PRODUCT, INCONCLUSIVE_FREE, UNIQUE_ROLLOUTS_CAP
from grail_validator.simulation.plans import Bools, IfDrawn, Plans, Strategy, View, plans
from grail_validator.simulation.strategies import ONE_GROUP, failed


@dataclass(frozen=True)
class FreeFaults:
    """Junk that is inconclusive when drawn, while fewer than `budget` such windows stand; else honest."""

    budget: int = 1
    audits: int = 4

    def __call__(self, view: View) -> Plans:
        junk = (view.inconclusive < self.budget) & (view.valid >= self.audits)
        return plans(view, junk=junk, if_drawn=np.where(junk, IfDrawn.INCONCLUSIVE, IfDrawn.JUDGED))


@dataclass(frozen=True)
class TrustThenFaults:
    """Honest until so many full audits stand, after `tiny` of one group; then junk, inconclusive whenever it is drawn."""

    audits: int
    tiny: int = 0

    def __call__(self, view: View) -> Plans:
        enough = view.supported >= AUDITS_OF_A_PRODUCT * UNIQUE_ROLLOUTS_CAP
        junk = (view.valid >= self.tiny + self.audits) & enough
        size = np.where(view.valid < self.tiny, ONE_GROUP, 1.0)
        return plans(view, size, junk=junk, if_drawn=np.where(junk, IfDrawn.INCONCLUSIVE, IfDrawn.JUDGED))


@dataclass(frozen=True)
class FaultAfterJunk:
    """Junk in the first windows, so that work stands early; honest until so many audits stand; junk whose first draw is
    inconclusive. It leaves once it failed."""

    before: int
    audits: int

    def __call__(self, view: View) -> Plans:
        first = view.age < self.before
        junk = first | (view.valid >= self.audits)
        free = junk & ~first & (view.inconclusive < INCONCLUSIVE_FREE)
        return plans(view, junk=junk, if_drawn=np.where(free, IfDrawn.INCONCLUSIVE, IfDrawn.JUDGED))


def faults_after_junk() -> list[Strategy]:
    """By windows of junk and by audits."""
    return [
        Strategy(f"{before} windows of junk, {audits} audits, junk", FaultAfterJunk(before, audits), failed)
        for before in (0, 3, 4, 5, 6, 7)
        for audits in (4, 6, 8, 10, 11, 12)
    ]


def second_fault(view: View) -> Bools:
    """A free one, where there was one, is spent, and another was counted."""
    return view.inconclusive > INCONCLUSIVE_FREE
