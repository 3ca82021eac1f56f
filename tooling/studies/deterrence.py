"""What a miner gains that saves work where only a coin looks: the figures of docs/pay.md, "Deterring 8-bit and 4-bit work".

    python -m tooling.studies.deterrence                     tables, in minutes
    python -m tooling.studies.deterrence --json              one flat object; also `hatch run bench deterrence`
    python -m tooling.studies.deterrence --windows 40 --replicas 16 --p 1.0      a first look

A cheat saves a share s of each rollout's cost (8-bit weights about 0.3, 4-bit about 0.5) and is found where its file is drawn,
the coin of the named alternatives falls (chance c) and the tests see it (power 1 here: read c as coin times power). Its windows
are lived by `grail_validator.simulation`, with the draw and the scores that validators run: look-backs, newcomers, audits that
speak for volume. Its income is held against honest work *of the same cost*: files that are as much smaller. Pay is a fourth
power of work, so who saves below the cap gains (1 − s)⁻⁴ while nobody looks; at the cap there is no more work to be paid for,
and the gain is 1 / (1 − s). Left out: what the tests see (docs/proof.md), and cheats by several hotkeys together.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from grail_core.protocol.constants import LOOKBACK_AUDITS, LOOKBACK_WINDOWS, SCORE_WINDOWS, SUPERLINEAR_EXPONENT
from grail_validator.simulation.measure import UNPAID_WINDOWS, Pay, Size, honest_pay, measured, pay_of
from grail_validator.simulation.plans import Floats, Plans, Strategy, View, plans
from grail_validator.simulation.replicas import live_replicas
from grail_validator.simulation.strategies import Sized, failed

CROWDS = {1.0: 34, 0.35: 99, 0.1: 349}
"""Honest full-time miners beside a full one whose check chance is then the key; 0.1 is also what every small file has."""
SAVED = (0.1, 0.2, 0.3, 0.5)
COINS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0)
FEES = (0.0, 4.0)
"""What a new hotkey costs, in windows of honest full-time work."""
DEFAULT = Size(replicas=64, windows=200)


@dataclass(frozen=True)
class Saving(Plans):
    """A plan whose work is done at a discount."""

    saved: Floats

    @property
    def cost(self) -> Floats:
        return super().cost * (1 - self.saved)


@dataclass(frozen=True)
class Cheating:
    """Full files. It cheats in this share of the windows, once so many clean audits stand; an audit of one finds it with
    chance `found`."""

    saves: float
    found: float
    windows: float = 1.0
    audits: int = 0
    idles: bool = False  # through each look-back; else it works on, and every further catch renews it

    def __call__(self, view: View) -> Plans:
        cheats = view.chance(self.windows) & (view.valid >= self.audits)
        size = np.where(view.in_lookback & self.idles, 0.0, 1.0)
        plan = plans(view, size, false_reject=np.where(cheats, self.found, 0.0))
        return Saving(**vars(plan), saved=np.where(cheats, self.saves, 0.0))


@dataclass(frozen=True)
class Way:
    """How a cheat goes about it. `share` of the windows, `rollouts` of each file that are not run as declared."""

    name: str
    share: float = 1.0
    rollouts: float = 1.0
    audits: int = 0
    idles: bool = False
    renews: bool = False  # a new hotkey after each catch


WAYS = (
    Way("cheats on"),
    Way("idles through look-backs", idles=True),
    Way("new hotkey", renews=True),
    Way("6 honest audits, cheats, new hotkey", audits=6, renews=True),
    Way("half of the windows", share=0.5),
    Way("a quarter of the windows", share=0.25),
    Way("half of the rollouts", rollouts=0.5),
    Way("a tenth of the rollouts", rollouts=0.1),
)


@dataclass(frozen=True)
class Cell:
    """One way at one saving, selection, coin and price of a hotkey; honest work of the same cost has income 1."""

    way: str
    saved: float
    p: float
    coin: float
    fee: float
    income: float
    pm: float  # half of a 95 % interval
    per_cost: float  # of full-time work: what who is at the cap compares


def honest_per_cost(share: float, crowd: int, size: Size) -> float:
    """Pay per cost of honest files of this share of the cap, full-time work being 1."""
    hundredths = round(share, 2)
    return _honest(hundredths, crowd, size) * (share / hundredths) ** (SUPERLINEAR_EXPONENT - 1)


@lru_cache(maxsize=256)
def _honest(share: float, crowd: int, size: Size) -> float:
    return measured(Strategy("honest", Sized(share)), crowd, size).per_cost


def cells(way: Way, saved: float, p: float, coin: float, size: Size, fees: Iterable[float] = FEES) -> list[Cell]:
    """One life of the cheat, paid for at each price of a hotkey; those that keep theirs have one price, 0."""
    crowd = CROWDS[p]
    cheat = Cheating(saved * way.rollouts, coin, way.share, way.audits, way.idles)
    strategy = Strategy(way.name, cheat, failed if way.renews else None)
    windows = UNPAID_WINDOWS + size.windows
    lived = live_replicas(strategy, crowd, windows, size.replicas, size.seed, unpaid=UNPAID_WINDOWS)
    worked = lived.cost[UNPAID_WINDOWS:]
    honest = honest_per_cost(float(worked[worked > 0].mean()), crowd, size)
    made = []
    for fee in fees if way.renews else (0.0,):
        billed = dataclasses.replace(lived, cost=lived.cost + fee * lived.registered)
        pay: Pay = pay_of(billed, honest_pay(crowd, size), UNPAID_WINDOWS)
        made.append(Cell(way.name, saved, p, coin, fee, pay.per_cost / honest, pay.per_cost_pm / honest, pay.per_cost))
    return made


def gain(saved: float) -> float:
    """G: uncaught income, below the cap, against honest work of the same cost."""
    return float((1 - saved) ** -SUPERLINEAR_EXPONENT)


def lost_windows(p: float, *, renews: bool, fee: float = 0.0) -> float:
    """L of the closed form: a look-back, or the growth of a new hotkey's work to the fourth power and its price."""
    if renews:
        return SCORE_WINDOWS - sum((k / SCORE_WINDOWS) ** SUPERLINEAR_EXPONENT for k in range(1, SCORE_WINDOWS + 1)) + fee
    least, most = LOOKBACK_WINDOWS
    return min(most, max(least, math.ceil(LOOKBACK_AUDITS / p - 1e-9)))


def closed_form(saved: float, lost: float) -> float:
    """The least hazard of a window at which a cheat does not pay, by renewal: (G − 1) / (G − 1 + L)."""
    return (gain(saved) - 1) / (gain(saved) - 1 + lost)


def least_coin(row: list[Cell], value: Callable[[Cell], float]) -> float:
    """The least coin from which on `value` is at most 1, between two coins by their logarithms; infinite where none is."""
    row = sorted(row, key=lambda cell: cell.coin)
    above = [at for at, cell in enumerate(row) if value(cell) > 1]
    if not above:
        return row[0].coin
    if above[-1] == len(row) - 1:
        return math.inf
    low, high = row[above[-1]], row[above[-1] + 1]
    part = math.log(value(low)) / (math.log(value(low)) - math.log(max(value(high), 1e-6)))
    return math.exp(math.log(low.coin) + part * (math.log(high.coin) - math.log(low.coin)))


@dataclass(frozen=True)
class Least:
    """The least coin (times power) at which one way at one saving and selection does not pay; infinite where none does."""

    way: str
    saved: float
    p: float
    fee: float
    coin: float
    coin_at_cap: float  # for who could work honestly up to the cap

    @property
    def hazard(self) -> float:
        """Of a window; p is that of a full miner."""
        return self.p * self.coin


def least(found: list[Cell]) -> list[Least]:
    """Of every way, saving, selection and price."""
    rows: dict[tuple[str, float, float, float], list[Cell]] = {}
    for cell in found:
        rows.setdefault((cell.way, cell.saved, cell.p, cell.fee), []).append(cell)
    return [
        Least(*key, least_coin(row, lambda cell: cell.income), least_coin(row, lambda cell: cell.per_cost))
        for key, row in rows.items()
    ]


def run(size: Size, selections: Iterable[float], workers: int, say: Callable[[str], None]) -> list[Cell]:
    """Every cell; `say` gets a line for each way and selection as it comes."""
    jobs = list(itertools.product(WAYS, selections, SAVED))
    found: list[Cell] = []
    with ProcessPoolExecutor(workers) as pool:
        for (way, p, saved), made in zip(jobs, pool.map(_row, jobs, itertools.repeat(size)), strict=True):
            found += made
            say(f"{way.name}, p {p:g}, saves {saved:g}: income {' '.join(f'{c.income:.2f}' for c in made if not c.fee)}")
    return found


def _row(job: tuple[Way, float, float], size: Size) -> list[Cell]:
    way, p, saved = job
    return [cell for coin in COINS for cell in cells(way, saved, p, coin, size)]


def figures(found: list[Cell]) -> dict[str, float]:
    """Flat, for `--json`. A least coin that does not exist has no key; `deterrence.undeterred` counts those."""
    result: dict[str, float] = {}
    lines = least(found)
    for one in lines:
        key = _key(one.way, one.saved, one.p, one.fee)
        if one.coin <= 1:
            result[f"deterrence.least_coin.{key}"] = one.coin
            result[f"deterrence.least_hazard.{key}"] = one.hazard
        if one.coin_at_cap <= 1:
            result[f"deterrence.least_coin_at_cap.{key}"] = one.coin_at_cap
    result["deterrence.undeterred"] = sum(one.coin > 1 for one in lines)
    for cell in found:
        key = f"{_key(cell.way, cell.saved, cell.p, cell.fee)}.c{cell.coin:g}"
        result[f"deterrence.income.{key}"], result[f"deterrence.income.{key}.pm"] = cell.income, cell.pm
    return result


def _key(way: str, saved: float, p: float, fee: float) -> str:
    return f"{way.replace(',', '').replace(' ', '_')}.s{saved:g}.p{p:g}.fee{fee:g}"


def markdown(found: list[Cell]) -> str:
    """The tables of the page: least coins beside the closed form, the same at the cap, incomes of who saves as 8-bit does."""
    lines = least(found)
    selections = sorted({one.p for one in lines}, reverse=True)
    closed = [
        _row_of(label, ([closed_form(s, lost_windows(p, renews=renews)) / p for s in SAVED] for p in selections))
        for label, renews in (("closed form, a look-back lost", False), ("closed form, a new hotkey", True))
    ]
    out = [*_coins("below the cap", lines, selections, lambda one: one.coin), *closed, ""]
    out += [*_coins("at the cap", lines, selections, lambda one: one.coin_at_cap), ""]
    out += ["| s = 0.3, income | " + " | ".join(f"c = {c:g}" for c in COINS) + " |", "| --- " * (len(COINS) + 1) + "|"]
    for name, p, fee in dict.fromkeys((cell.way, cell.p, cell.fee) for cell in found):
        chosen = sorted((c for c in found if (c.way, c.p, c.fee, c.saved) == (name, p, fee, 0.3)), key=lambda c: c.coin)
        label = f"{_label(name, fee)}, p = {p:g}"
        out.append(f"| {label} | " + " | ".join(f"{c.income:.2f} ± {c.pm:.2f}" for c in chosen) + " |")
    return "\n".join(out)


def _coins(what: str, lines: list[Least], selections: list[float], value: Callable[[Least], float]) -> list[str]:
    """A row for each way and price, a column for each selection, in it a coin for each saving."""
    head = [f"p = {p:g}, s = " + ", ".join(f"{s:g}" for s in SAVED) for p in selections]
    out = [f"| {what} | " + " | ".join(head) + " |", "| --- " * (len(head) + 1) + "|"]
    for name, fee in dict.fromkeys((one.way, one.fee) for one in lines):
        by = {(one.p, one.saved): value(one) for one in lines if (one.way, one.fee) == (name, fee)}
        out.append(_row_of(_label(name, fee), ([by[p, s] for s in SAVED] for p in selections)))
    return out


def _row_of(label: str, columns: Iterable[list[float]]) -> str:
    return f"| {label} | " + " | ".join(", ".join(map(_coin, coins)) for coins in columns) + " |"


def _label(name: str, fee: float) -> str:
    return f"{name} at {fee:g} windows" if fee else name


def _coin(coin: float) -> str:
    return "none" if coin > 1 else f"≤ {coin:.2f}" if coin <= COINS[0] else f"{coin:.2f}"


def measure() -> dict[str, float]:
    """Every figure of `hatch run bench deterrence`."""
    return figures(run(DEFAULT, CROWDS, 2, lambda line: print(line, file=sys.stderr)))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tooling.studies.deterrence", description="What a coin has to be.")
    parser.add_argument("--windows", type=int, default=DEFAULT.windows)
    parser.add_argument("--replicas", type=int, default=DEFAULT.replicas)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--p", type=float, choices=list(CROWDS), action="append", help="check chance of a full miner; all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    size = Size(options.replicas, options.windows, options.seed)
    found = run(size, options.p or CROWDS, options.workers, lambda line: print(line, file=sys.stderr))
    print(json.dumps(figures(found)) if options.as_json else markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
