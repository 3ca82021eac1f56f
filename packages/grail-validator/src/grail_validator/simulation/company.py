"""Section 10's chances: what is an operator paid that moves its own chance by other hotkeys of its own?

Newcomers share a chance. Beside many of one's own that seal the cap a newcomer is seldom drawn, and where they idle it soon is.
So: junk beside them; honest work without them until audits support just less than it is going to seal, so that it stays a
newcomer; junk beside them until it is caught; then a new hotkey.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grail_core.protocol.constants import AUDITS_OF_A_PRODUCT
from grail_validator.simulation.measure import UNPAID_WINDOWS, Pay, Size, honest_pay, pay_of
from grail_validator.simulation.plans import Bools, Ints, Plans, Strategy, View, plans
from grail_validator.simulation.replicas import live_replicas
from grail_validator.simulation.strategies import failed

_JUST_LESS = 0.99
SLOTS = 250
"""Of a network with which it is measured: honest full-time miners, the hotkey, and its company."""


def audited_alone(company: int, before: int) -> Strategy:
    """Junk for so many windows at first, honest until four audits stand, junk again; company while it is junk."""

    def honest(view: View) -> Bools:
        working: Bools = (view.age >= before) & (view.valid < AUDITS_OF_A_PRODUCT)
        return working

    def plan(view: View) -> Plans:
        works = honest(view)
        return plans(view, np.where(works, _JUST_LESS, 1.0), junk=~works)

    def beside(view: View) -> Ints:
        return np.where(honest(view), 0, company)

    return Strategy(f"junk beside {company} of its own", plan, failed, beside)


@dataclass(frozen=True)
class Accompanied:
    """Pay of the one hotkey; its slot, and those of its company."""

    honest: int
    company: int
    before: int  # windows of junk at first, the best of some
    pay: Pay

    @property
    def per_slot(self) -> float:
        """All slots that it takes counted."""
        return self.pay.per_slot / (1 + self.company)


def accompanied(honest: int, size: Size) -> Accompanied:
    """The best found beside so many honest full-time miners, every other slot being the operator's."""
    company = SLOTS - honest - 1
    windows = UNPAID_WINDOWS + size.windows
    found = []
    for before in (0, 6, 8, 10, 12):
        lived = live_replicas(audited_alone(company, before), honest, windows, size.replicas, size.seed, unpaid=UNPAID_WINDOWS)
        found.append(Accompanied(honest, company, before, pay_of(lived, honest_pay(honest, size), UNPAID_WINDOWS)))
    return max(found, key=lambda one: one.pay.per_cost)
