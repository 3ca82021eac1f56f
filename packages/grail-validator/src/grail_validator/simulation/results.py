"""Everything that a run measures, as one value and as JSON; what of it is paid more than it may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from grail_validator.simulation.company import CROWDS_OF_IT, Accompanied, accompanied
from grail_validator.simulation.crowding import Crowding, chance_beside_tiny_files, crowded, sealers
from grail_validator.simulation.hotkeys import Operator, operator, operators
from grail_validator.simulation.measure import Pay, Size
from grail_validator.simulation.newcomers import BESIDE, Beginning, beginning
from grail_validator.simulation.sizes import (
    HONEST_SIZES,
    Burst,
    JunkInFile,
    SmallFiles,
    burst,
    bursts,
    junk_in_file,
    junk_in_files,
    small_files,
)
from grail_validator.simulation.skipping import CUTS, SPREADS, Skipping, best_skipping
from grail_validator.simulation.table import Cell, numbered_cell, rows

BESIDE_100 = (50, 150)
"""Hotkeys that seal and bring nothing, beside 100 honest miners."""
_POSSIBLE = 0.14
"""A full miner's chance is never below it among 256 UIDs."""

T = TypeVar("T")


@dataclass(frozen=True)
class Results:
    """Of one run; reproduced by its size and seed."""

    size: Size
    cells: tuple[Cell, ...]
    junk_in_files: tuple[JunkInFile, ...]
    bursts: tuple[Burst, ...]
    small_files: tuple[SmallFiles, ...]
    operators: tuple[Operator, ...]
    skippings: tuple[Skipping, ...]
    crowdings: tuple[tuple[int, str, Crowding], ...]
    tiny_files: tuple[float, float, float]
    companies: tuple[Accompanied, ...]
    beginnings: tuple[Beginning, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def pays(self) -> list[tuple[str, Pay, float]]:
        """Every figure that is pay for work not done, or not done as honest work is, with the most that it may be."""
        listed = [(f"{one.row}, p = {one.probability:g}", one.pay, one.bound) for one in self.cells if _counts(one)]
        listed += [
            (f"junk in {one.junk} of {one.groups} groups{', new hotkey' * one.renewed}, p = {one.probability:g}", one.pay, 1.0)
            for one in self.junk_in_files
        ]
        listed += [
            (f"full in {one.share:g} of windows, cycle {one.cycle}, p = {one.probability:g}", one.pay, 1.0)
            for one in self.bursts
        ]
        listed += [(f"files of {one.size:.2g} of the cap", one.pay, 1.0) for one in self.small_files]
        listed += [
            (f"{one.size:.2g} of the cap, {_worked(one)}, p = {one.probability:g}", one.pay, one.bound)
            for one in self.operators
        ]
        listed += [(f"{one.company} hotkeys beside it, {one.best}", one.pay, 1.0) for one in self.companies]
        return listed

    @property
    def paid_too_much(self) -> list[str]:
        """What has an interval above its bound, with figures."""
        paid = [
            f"{name}: {pay.per_cost:.3f} ± {pay.per_cost_pm:.3f} per cost, {pay.per_slot:.3f} per slot; at most {bound:g}"
            for name, pay, bound in self.pays
            if pay.beats_honest_work(bound)
        ]
        return paid + [line for one in self.skippings for line in one.paid_too_much]


def _worked(one: Operator) -> str:
    return f"split over {one.hotkeys}" if one.worked is None else f"{one.worked} of {one.hotkeys} worked"


def _counts(cell: Cell) -> bool:
    return not cell.honest and cell.probability >= _POSSIBLE


@dataclass
class _Progress:
    """Hands results on as they come, and says how far the run is."""

    say: Callable[[str], None]
    total: int
    come: int = 0

    def of(self, what: str, found: Iterator[T], words: Callable[[T], str] = lambda _: "") -> Iterator[T]:
        for one in found:
            self.come += 1
            self.say(f"{self.come}/{self.total}  {what}  {words(one)}".rstrip())
            yield one


def _words(pay: Pay) -> str:
    return f"{pay.per_cost:6.3f} ± {pay.per_cost_pm:.3f} per cost, {pay.per_slot:.3f} per slot"


def measure_all(size: Size, probabilities: tuple[float, ...], workers: int, say: Callable[[str], None]) -> Results:
    """Everything; `say` gets one line for each figure as it comes."""
    wanted = list(product(range(len(rows())), probabilities))
    lists = min(1000, max(20, size.counted // 20))
    sealing, cuts = list(product(BESIDE_100, sealers())), list(product(CUTS, SPREADS))
    jobs: tuple[Sequence[object], ...] = (
        junk_in_files(),
        bursts(),
        operators(),
        cuts,
        sealing,
        CROWDS_OF_IT,
        BESIDE,
        HONEST_SIZES,
    )
    progress = _Progress(say, len(wanted) + sum(len(one) for one in jobs))
    with ProcessPoolExecutor(workers) as pool:
        # Everything is handed out at once; what takes longest comes first.
        companies = pool.map(accompanied, CROWDS_OF_IT, [size] * len(CROWDS_OF_IT))
        crowdings = pool.map(_crowded, *zip(*((count, name, size) for count, name in sealing), strict=True))
        cells = pool.map(numbered_cell, *zip(*((row, p, size) for row, p in wanted), strict=True))
        in_files = pool.map(junk_in_file, *zip(*((*one, size) for one in junk_in_files()), strict=True))
        rhythms = pool.map(burst, *zip(*((*one, size) for one in bursts()), strict=True))
        several = pool.map(operator, *zip(*((*one, size) for one in operators()), strict=True))
        skipped = pool.map(best_skipping, *zip(*((spread, cut, lists, size.seed) for cut, spread in cuts), strict=True))
        begun = pool.map(beginning, *zip(*((*one, size) for one in BESIDE), strict=True))
        small = pool.map(small_files, HONEST_SIZES, [size] * len(HONEST_SIZES))
        return Results(
            size=size,
            companies=tuple(progress.of("operator of all other slots", companies, lambda one: _words(one.pay))),
            crowdings=tuple(
                (count, name, found)
                for (count, name), found in zip(sealing, progress.of("beside 100 honest miners", crowdings), strict=True)
            ),
            cells=tuple(
                progress.of("strategy", cells, lambda one: f"p {one.probability:g} {_words(one.pay)}  {one.row}"),
            ),
            junk_in_files=tuple(
                progress.of("junk in a file", in_files, lambda one: f"{one.junk} of {one.groups} {_words(one.pay)}")
            ),
            bursts=tuple(progress.of("bursts", rhythms, lambda one: f"{one.share:g} {_words(one.pay)}")),
            operators=tuple(progress.of("several hotkeys", several, lambda one: _words(one.pay))),
            skippings=tuple(progress.of("skipping", skipped)),
            beginnings=tuple(progress.of("beginnings", begun)),
            small_files=tuple(progress.of("small files", small, lambda one: _words(one.pay))),
            tiny_files=chance_beside_tiny_files(100, 150),
        )


def _crowded(count: int, name: str, size: Size) -> Crowding:
    return crowded(100, sealers()[name], count, size.windows, size.seed)
