"""Pay per cost and per slot, relative to honest full-time work in the same network under the same coins, with intervals.

Pay is a hotkey's power relative to an honest full-time miner's (in either weight mode shares are proportional to it); cost is
work really done, honest full-time being 1: junk, idling and new registrations cost nothing. Replicas are independent, so 95 %
intervals come from their spread; the first windows of each are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from grail_validator.simulation.network import Lived
from grail_validator.simulation.plans import Floats, Strategy, plans
from grail_validator.simulation.replicas import live_replicas

CROWDS = {0.10: 349, 0.14: 249, 0.29: 120, 1.0: 34}
"""Honest full-time miners beside a full one whose check probability is then the key. 0.10 takes more than 256 UIDs."""

HONEST = Strategy("honest full-time work", plans)
UNPAID_WINDOWS = 160
"""Longer than memory, look-back and the longest idling of a strategy together."""


@dataclass(frozen=True)
class Size:
    """Of one cell: `replicas` times `windows` are counted."""

    replicas: int = 64
    windows: int = 320
    seed: int = 1

    @property
    def counted(self) -> int:
        return self.replicas * self.windows


@dataclass(frozen=True)
class Pay:
    """A strategy's measure, honest full-time work being 1; ± is half of a 95 % interval."""

    per_cost: float
    per_cost_pm: float
    per_slot: float
    per_slot_pm: float
    cost: float
    registrations: float  # new hotkeys a window
    windows: int

    def beats_honest_work(self, bound: float = 1.0) -> bool:
        """Does an interval, of pay per cost or per slot, lie above the bound?"""
        return self.per_cost - self.per_cost_pm > bound or self.per_slot - self.per_slot_pm > bound


def ratio(values: Floats, costs: Floats) -> tuple[float, float]:
    """Σ values / Σ costs over independent replicas, and half of its 95 % interval. Infinite where pay costs nothing."""
    if costs.sum() <= 0:
        return (float("inf") if values.sum() > 0 else 0.0), 0.0
    found = values.sum() / costs.sum()
    rest = values - found * costs
    return float(found), float(1.96 * rest.std(ddof=1) / (len(rest) ** 0.5 * costs.mean()))


def pay_of(lived: Lived, honest: float, unpaid: int) -> Pay:
    """Measure what was lived from window `unpaid` on; `honest` is an honest full-time miner's mean pay there."""
    pay, cost = lived.pay[unpaid:].mean(0) / honest, lived.cost[unpaid:].mean(0)
    per_cost, per_cost_pm = ratio(pay, cost)
    per_slot, per_slot_pm = ratio(pay, np.ones_like(pay))
    registrations = float(lived.registered[unpaid:].mean())
    return Pay(per_cost, per_cost_pm, per_slot, per_slot_pm, float(cost.mean()), registrations, lived.pay[unpaid:].size)


@lru_cache(maxsize=32)
def honest_pay(crowd: int, size: Size) -> float:
    """Mean power of an honest full-time miner in such a network; below 1 only where its audits happen to be few."""
    lived = live_replicas(HONEST, crowd, UNPAID_WINDOWS + size.windows, size.replicas, size.seed, unpaid=UNPAID_WINDOWS)
    return float(lived.pay[UNPAID_WINDOWS:].mean())


def measured(strategy: Strategy, crowd: int, size: Size) -> Pay:
    """One cell of the table."""
    windows = UNPAID_WINDOWS + size.windows
    lived = live_replicas(strategy, crowd, windows, size.replicas, size.seed, unpaid=UNPAID_WINDOWS)
    return pay_of(lived, honest_pay(crowd, size), UNPAID_WINDOWS)
