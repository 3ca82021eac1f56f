"""Several hotkeys of one operator: work split over them, or done each window by the one whose list is cheapest.

Hotkeys of one operator do not know each other in sections 9 and 10, so each is a replica; their pay and their cost are added
up. The measure is relative to honest work of the same size by one hotkey.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from grail_validator.simulation.measure import CROWDS, Pay, Size, measured
from grail_validator.simulation.plans import FULL_GROUPS, Plans, Strategy, View, plans
from grail_validator.simulation.skipping import list_costs
from grail_validator.simulation.strategies import Sized

ONE_GROUP_SLACK = 1.15
"""What the cheapest of several lists of one group may be paid, relative to honest files of one group: what a list costs varies
most there, and pay is a cube of the size, so that all of it is 10⁻⁷ of full-time work's."""
HOTKEYS = (2, 4, 8, 16)
"""Of one operator, in the tables."""


@dataclass(frozen=True)
class Operator:
    """One line: what an operator of several hotkeys is paid, relative to one hotkey that works every list of this size.

    `worked` None: each hotkey has its part of one list of `size`; else the so many cheapest lists of `size` are worked.
    """

    size: float
    hotkeys: int
    worked: int | None
    probability: float
    pay: Pay

    @property
    def bound(self) -> float:
        """The most that it may be paid per cost."""
        return ONE_GROUP_SLACK if self.worked is not None and round(self.size * FULL_GROUPS) <= 1 else 1.0


@lru_cache(maxsize=64)
def honest_of(size: float, crowd: int, cell: Size) -> Pay:
    """What honest files of this size are paid, full-time work being 1."""
    return measured(Strategy(f"honest, {size:g} of the cap", Sized(size)), crowd, cell)


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
    honest = honest_of(size, crowd, cell)
    pay = measured(strategy, crowd, cell)
    return replace(
        scaled(pay, 1 / honest.per_cost),
        per_slot=pay.per_slot / honest.per_slot,
        per_slot_pm=pay.per_slot_pm / honest.per_slot,
    )


def split(size: float, hotkeys: int, crowd: int, cell: Size) -> Pay:
    """Honest work of `size` divided among so many hotkeys, relative to one hotkey's: pay per cost, and per slot of each."""
    return scaled(honest_of(size / hotkeys, crowd, cell), 1 / honest_of(size, crowd, cell).per_cost)


def cheapest_of(hotkeys: int, worked: int, spread: float, size: float, crowd: int, cell: Size) -> Pay:
    """Each window the `worked` cheapest of so many own hotkeys' lists, of lognormal cost, are worked; the others are absent.

    Relative to one hotkey that works its list of this size in every window.
    """
    groups = max(1, round(size * FULL_GROUPS))
    rng = np.random.default_rng(cell.seed)
    costs = np.array([[list_costs(spread, 8.0, groups, rng).mean() for _ in range(hotkeys)] for _ in range(400)])
    cheap = np.sort(costs, axis=1)[:, :worked].mean() / costs.mean()

    class NowAndThen(Sized):
        def __call__(self, view: View) -> Plans:
            return plans(view, np.where(view.chance(worked / hotkeys), self.size, 0))

    pay = of_the_same_size(Strategy("now and then", NowAndThen(size)), size, crowd, cell)
    return replace(pay, per_cost=pay.per_cost / float(cheap), per_cost_pm=pay.per_cost_pm / float(cheap))


def operator(size: float, hotkeys: int, worked: int | None, probability: float, cell: Size) -> Operator:
    """One line of the tables."""
    crowd = CROWDS[probability]
    pay = split(size, hotkeys, crowd, cell) if worked is None else cheapest_of(hotkeys, worked, 1.0, size, crowd, cell)
    return Operator(size, hotkeys, worked, probability, pay)


def operators() -> list[tuple[float, int, int | None, float]]:
    """All lines: work split over hotkeys (C5), the cheapest of several lists (C8)."""
    splits: list[tuple[float, int, int | None, float]] = [
        (size, count, None, p) for p in (0.14, 0.29) for size in (1.0, 0.3) for count in HOTKEYS
    ]
    cheapest = [
        (size, count, worked, 0.14)
        for size in (1.0, 0.2, 1 / FULL_GROUPS)
        for count in HOTKEYS
        for worked in sorted({1, count // 2, count - 1})
    ]
    return splits + cheapest
