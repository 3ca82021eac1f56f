"""Section 10's chances: what is an operator paid that moves its own chance by other hotkeys of its own?

Newcomers share a chance. Beside many of one's own that seal the cap a newcomer is seldom drawn, and where they idle it soon is.
So: junk beside them for some windows; honest work without them until some audits stand; junk beside them until it is caught;
then a new hotkey. Who seals a little more than its audits support stays a newcomer. Section 10's Σ⌊v/p⌋ is against this: an
audit that had to come speaks for one window.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from grail_validator.simulation.measure import UNPAID_WINDOWS, Pay, Size, honest_pay, pay_of
from grail_validator.simulation.plans import Bools, Ints, Plans, Strategy, View, plans
from grail_validator.simulation.replicas import live_replicas
from grail_validator.simulation.strategies import failed

SLOTS = 250
"""Of a network with which it is measured: honest full-time miners, the hotkey, and its company."""
CROWDS_OF_IT = (199, 99, 34)
"""Honest full-time miners; every other slot is the operator's."""
_BEFORE = (0, 8, 12)
_AUDITS = (2, 4, 6, 10, 20)
_SIZES = (0.99, 1.0)
_SEARCH_SEED = 7


def audited_alone(company: int, before: int, audits: int, size: float) -> Strategy:
    """Junk for `before` windows, honest files of `size` until so many audits stand, junk again; company while it is junk."""

    def honest(view: View) -> Bools:
        working: Bools = (view.age >= before) & (view.valid < audits)
        return working

    def plan(view: View) -> Plans:
        works = honest(view)
        return plans(view, np.where(works, size, 1.0), junk=~works)

    def beside(view: View) -> Ints:
        return np.where(honest(view), 0, company)

    words = f"junk in the first {before}, {audits} audits with files of {size:g}, junk until caught"
    return Strategy(f"{words}, {company} beside it", plan, failed, beside)


@dataclass(frozen=True)
class Accompanied:
    """Pay of the one hotkey, for its own cost and slot; and its company."""

    honest: int
    company: int
    best: str
    pay: Pay

    @property
    def per_slot(self) -> float:
        """All slots that it takes counted."""
        return self.pay.per_slot / (1 + self.company)


def accompanied(honest: int, size: Size) -> Accompanied:
    """The best of thirty beside so many honest full-time miners, found under other coins than it is measured with."""
    company = SLOTS - honest - 1

    def pay(strategy: Strategy, cell: Size) -> Pay:
        windows = UNPAID_WINDOWS + cell.windows
        lived = live_replicas(strategy, honest, windows, cell.replicas, cell.seed, unpaid=UNPAID_WINDOWS)
        return pay_of(lived, honest_pay(honest, cell), UNPAID_WINDOWS)

    search = Size(max(8, size.replicas // 2), max(40, size.windows // 4), _SEARCH_SEED)
    tried = [audited_alone(company, *policy) for policy in product(_BEFORE, _AUDITS, _SIZES)]
    best = max(tried, key=lambda one: pay(one, search).per_cost)
    return Accompanied(honest, company, best.name, pay(best, size))
