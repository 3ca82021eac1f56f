"""Several hotkeys of one operator: work split over them, or done each window by the one whose list is cheapest.

Hotkeys of one operator do not know each other in sections 9 and 10, so each is a replica; their pay and their cost are added
up. The measure is relative to honest work of the same size by one hotkey.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grail_validator.simulation.measure import Pay, Size, measured
from grail_validator.simulation.plans import FULL_GROUPS, Plans, Strategy, View, plans
from grail_validator.simulation.skipping import list_costs


def _honest(size: float) -> Strategy:
    return Strategy(f"honest, {size:g} of the cap", lambda view: plans(view, size))


def scaled(pay: Pay, by: float) -> Pay:
    """Pay per cost and per slot in units of 1 / by."""
    return replace(
        pay,
        per_cost=pay.per_cost * by,
        per_cost_pm=pay.per_cost_pm * by,
        per_slot=pay.per_slot * by,
        per_slot_pm=pay.per_slot_pm * by,
    )


def of_the_same_size(strategy: Strategy, size: float, crowd: int, cell: Size) -> Pay:
    """A strategy's pay relative to honest files of this size, which cost `size` a window and are paid as section 10 says."""
    honest = measured(_honest(size), crowd, cell)
    pay = measured(strategy, crowd, cell)
    return replace(
        scaled(pay, 1 / honest.per_cost),
        per_slot=pay.per_slot / honest.per_slot,
        per_slot_pm=pay.per_slot_pm / honest.per_slot,
    )


def split(size: float, hotkeys: int, crowd: int, cell: Size) -> Pay:
    """Honest work of `size` divided among so many hotkeys, relative to one hotkey's: pay per cost, and per slot of each."""
    return scaled(measured(_honest(size / hotkeys), crowd, cell), 1 / measured(_honest(size), crowd, cell).per_cost)


def cheapest_of(hotkeys: int, worked: int, spread: float, size: float, crowd: int, cell: Size) -> Pay:
    """Each window the `worked` cheapest of so many own hotkeys' lists, of lognormal cost, are worked; the others are absent.

    Relative to one hotkey that works its list of this size in every window.
    """
    groups = max(1, round(size * FULL_GROUPS))
    rng = np.random.default_rng(cell.seed)
    costs = np.array([[list_costs(spread, 8.0, groups, rng).mean() for _ in range(hotkeys)] for _ in range(400)])
    cheap = np.sort(costs, axis=1)[:, :worked].mean() / costs.mean()

    def plan(view: View) -> Plans:
        return plans(view, np.where(view.chance(worked / hotkeys), size, 0))

    pay = of_the_same_size(Strategy("now and then", plan), size, crowd, cell)
    return replace(pay, per_cost=pay.per_cost / float(cheap), per_cost_pm=pay.per_cost_pm / float(cheap))
