"""The table: its rows, the most that each may be paid, and how the best of many policies is measured.

The best of many is found at a small size and measured at the full one under other coins, so that luck in the search is not
counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grail_validator.simulation import faults_on_demand as on_demand
from grail_validator.simulation import strategies as do
from grail_validator.simulation.dodging import dodges
from grail_validator.simulation.measure import CROWDS, HONEST, Pay, Size, measured
from grail_validator.simulation.plans import Bools, IfDrawn, Plans, Strategy, View

RANDOM_POLICIES = 94
_SEARCH_SEED = 7
_ONE_FREE_FAULT = 1.05
"""What one inconclusive window that counts nothing is worth, to who can bring it about when it is drawn with junk."""


@dataclass(frozen=True)
class Row:
    """One line: a strategy or the best of several, and the most that it may be paid per cost and per slot.

    Where a bound is above 1, `why` states the exception.
    """

    name: str
    strategies: tuple[Strategy, ...]
    bound: float = 1.0
    why: str = ""
    honest: bool = False  # nothing is tried: it shows what misfortune costs


@dataclass(frozen=True)
class Cell:
    """A row at one check probability of a full miner."""

    row: str
    probability: float
    pay: Pay
    bound: float
    honest: bool
    best: str  # of several, which one; else empty

    @property
    def pays(self) -> bool:
        """Is more paid than may be?"""
        return not self.honest and self.pay.beats_honest_work(self.bound)


def _one(
    name: str,
    plan: Callable[[View], Plans],
    leaves: Callable[[View], Bools] | None = None,
    *,
    bound: float = 1.0,
    why: str = "",
) -> Row:
    return Row(name, (Strategy(name, plan, leaves),), bound, why)


def _old(view: View) -> Bools:
    return (view.age >= 30) | do.failed(view)


def attacks() -> tuple[Row, ...]:
    """What somebody may try, in the order of the page."""
    judged = (
        _one("junk in half of the windows", do.JunkIn(0.5)),
        _one("junk in four of five", do.JunkIn(0.8)),
        _one("junk in one of five", do.JunkIn(0.2)),
        _one("earn trust (4 audits), junk until caught, idle 36", do.TrustSpent(4, 36)),
        _one("earn trust (8 audits), junk until caught, idle 36", do.TrustSpent(8, 36)),
        _one("earn trust (4 audits), junk until caught, idle through the look-back", do.TrustSpent(4, do.LOOKBACK)),
        _one("earn trust (8 audits), junk until caught, idle through the look-back", do.TrustSpent(8, do.LOOKBACK)),
        _one("honest, 30 windows on and 36 off", do.OnAndOff(30, 36)),
        _one("4 audits with one group, full junk until caught, new hotkey", do.TrustSpent(4, 0, do.ONE_GROUP), do.failed),
        _one("4 full audits, junk until caught, new hotkey", do.TrustSpent(4, 0), do.failed),
        _one("6 full audits, junk until caught, new hotkey", do.TrustSpent(6, 0), do.failed),
        _one("10 full audits, junk until caught, new hotkey", do.TrustSpent(10, 0), do.failed),
        _one("a hotkey of 30 windows: honest, junk from 6 audits, absent for the last 8", do.WoundDown(30, 8, 6), _old),
        _one("junk while 8 clean audits stand, idle 24", do.TrustSpent(8, 24)),
        _one("junk while 12 clean audits stand, idle 24", do.TrustSpent(12, 24)),
        _one("idle 24, then junk inside the look-back too, 12 valid audits", do.JunkInTheLookback(12, 24)),
        _one("idle 6, then junk inside the look-back too, 12 valid audits", do.JunkInTheLookback(12, 6)),
        _one("fail one group on purpose, then 12 windows of junk at the floor", do.FloorByATinyFailure(8, 12)),
        _one("fail one group on purpose, then 6 windows of junk at the floor", do.FloorByATinyFailure(8, 6)),
        _one("junk in 1 of 313 groups of each file", do.JunkGroups(1 / 313)),
        _one("junk in 10 of 313 groups of each file", do.JunkGroups(10 / 313)),
        _one("another's rollouts in half of the windows, idle when caught", do.CopiedIn(0.5)),
        _one("another's rollouts in one of ten, new hotkey when caught", do.CopiedIn(0.1), do.failed),
        _one("a file that cannot be read in half of the windows", do.UnreadableIn(0.5)),
        _one("a file that cannot be read in one of ten", do.UnreadableIn(0.1)),
        _one("a file that cannot be read in one of ten, new hotkey when caught", do.UnreadableIn(0.1), do.failed),
        _one("honest in half of the windows, at random", do.WorkingIn(0.5)),
        _one("honest in nine of ten windows, at random", do.WorkingIn(0.9)),
    )
    guesses = tuple(Row(one.name, (one,)) for one in dodges())
    several = (
        Row("best of 32 mixes of sizes, junk in the large or the small ones", tuple(do.mixes_of_sizes())),
        Row(f"best of {RANDOM_POLICIES} random policies", tuple(map(do.RandomPolicy.mixed, range(RANDOM_POLICIES)))),
    )
    return judged + guesses + several + faults_on_demand()


def faults_on_demand() -> tuple[Row, ...]:
    """For who can make an audit inconclusive whenever it wants to, by any fault of the validator's that is left."""
    after_two = "then junk, inconclusive when drawn, new hotkey after two"
    return (
        _one("junk in four of five, inconclusive when drawn", do.JunkIn(0.8, if_drawn=IfDrawn.INCONCLUSIVE)),
        _one("junk in one of five, inconclusive when drawn", do.JunkIn(0.2, if_drawn=IfDrawn.INCONCLUSIVE)),
        _one(
            "junk, inconclusive when drawn, while the free one is left",
            on_demand.FreeFaults(1, 10),
            bound=_ONE_FREE_FAULT,
            why="stated exception, one free fault on demand",
        ),
        _one(f"4 audits, {after_two}", on_demand.TrustThenFaults(4), on_demand.second_fault),
        _one(f"4 audits of one group and 4 full ones, {after_two}", on_demand.TrustThenFaults(4, 4), on_demand.second_fault),
        _one(f"8 audits, {after_two}", on_demand.TrustThenFaults(8), on_demand.second_fault),
        Row(
            "best of 36: junk at first, honest until audits stand, junk, once inconclusive when drawn, new hotkey",
            tuple(on_demand.faults_after_junk()),
            bound=_ONE_FREE_FAULT,
            why="stated exception, one free fault on demand and new hotkeys at no price",
        ),
    )


def honest_rows() -> tuple[Row, ...]:
    """What misfortune costs who works."""
    plans: dict[str, Callable[[View], Plans]] = {
        "honest full-time work": HONEST.plan,
        "honest, 1 false reject in 1,000 audits": do.Misfortune(false_reject=1e-3),
        "honest, 1 false reject in 100 audits": do.Misfortune(false_reject=1e-2),
        "honest, absent in 1 of 50 windows": do.Misfortune(absent=0.02),
        "honest, sealed too late in 1 of 50 windows": do.Misfortune(late=0.02),
        "honest, 1 of 100 rollouts equal to a counted one": do.Misfortune(equal=0.01),
        "honest, 1 of 10 rollouts equal to a counted one": do.Misfortune(equal=0.1),
        "honest, a seal without file in 1 of 50 windows": do.Misfortune(no_file=0.02),
        "honest, a fault of the validator in 1 of 100 audits": do.Misfortune(fault=0.01),
        "honest, a fault of the validator in 1 of 20 audits": do.Misfortune(fault=0.05),
    }
    return tuple(Row(name, (Strategy(name, plan),), honest=True) for name, plan in plans.items())


def rows() -> tuple[Row, ...]:
    return (*attacks(), *honest_rows())


def cell(row: Row, probability: float, size: Size) -> Cell:
    """Measure one row at one check probability (a key of `CROWDS`)."""
    crowd = CROWDS[probability]
    chosen, best = row.strategies[0], ""
    if len(row.strategies) > 1:
        search = Size(max(8, size.replicas // 2), max(40, size.windows // 4), _SEARCH_SEED)
        chosen = max(row.strategies, key=lambda one: measured(one, crowd, search).per_cost)
        best = chosen.name
    return Cell(row.name, probability, measured(chosen, crowd, size), row.bound, row.honest, best)


def numbered_cell(number: int, probability: float, size: Size) -> Cell:
    """The same of the row with this number, for a process that is handed no closures."""
    return cell(rows()[number], probability, size)
