"""Everything that a run measures, as one value, as JSON and as the tables of `docs/pay.md`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.errors import GrailError
from grail_validator.simulation.company import CROWDS_OF_IT, Accompanied, accompanied
from grail_validator.simulation.crowding import Crowding, chance_beside_tiny_files, crowded, sealers
from grail_validator.simulation.hotkeys import cheapest_of, of_the_same_size, split
from grail_validator.simulation.measure import CROWDS, Pay, Size
from grail_validator.simulation.newcomers import BESIDE, Beginning, beginning
from grail_validator.simulation.plans import FULL_GROUPS, Strategy
from grail_validator.simulation.skipping import CUTS, SPREADS, UNCUT, Skipping, best_skipping
from grail_validator.simulation.strategies import junk_groups
from grail_validator.simulation.table import Cell, rows, table

BEGIN, END = "<!-- begin: written by `grail-validator simulate --page` -->", "<!-- end -->"
JUNK_IN_FILES = ((1, 1), (4, 1), (5, 1), (20, 1), (20, 5), (100, 1), (100, 10), (313, 1), (313, 30))
"""Groups of a file, and how many of them are junk."""
_CROWD = CROWDS[0.14]
OPERATORS = ((1.0, 2, 1), (1.0, 8, 7), (1.0, 20, 19), (0.2, 8, 7), (0.2, 20, 19), (1 / FULL_GROUPS, 20, 19))
"""Size of a file, hotkeys, and how many of them work in a window."""


@dataclass(frozen=True)
class Results:
    """Of one run; reproduced by its size and seed."""

    size: Size
    cells: tuple[Cell, ...]
    junk_in_files: tuple[tuple[int, int, Pay], ...]
    splits: tuple[tuple[float, int, Pay], ...]
    operators: tuple[tuple[float, int, int, Pay], ...]
    skippings: tuple[Skipping, ...]
    crowdings: tuple[tuple[int, str, Crowding], ...]
    tiny_files: tuple[float, float, float]
    companies: tuple[Accompanied, ...]
    beginnings: tuple[Beginning, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def paid_too_much(self) -> list[str]:
        """What has an interval above its bound, with figures. A full miner's chance is never below 0.14 among 256 UIDs."""
        cells = [(f"{one.row}, p = {one.probability:g}", one.pay, one.bound) for one in self.cells if _counts(one)]
        companies = [(f"{one.company} hotkeys beside it, {one.best}", one.pay, 1.0) for one in self.companies]
        paid = [
            f"{name}: {_figure(pay.per_cost, pay.per_cost_pm)} per cost, {pay.per_slot:.3f} per slot; at most {bound:g}"
            for name, pay, bound in (*cells, *companies)
            if pay.beats_honest_work(bound)
        ]
        return paid + [line for one in self.skippings for line in one.paid_too_much]


def measure_all(size: Size, probabilities: tuple[float, ...], workers: int, say: Callable[[str], None]) -> Results:
    """Everything; `say` gets one line for each figure as it comes."""

    def said(cell: Cell) -> None:
        pay = cell.pay
        say(f"p {cell.probability:g}  {pay.per_cost:6.3f} ± {pay.per_cost_pm:.3f} per cost  {cell.row}")

    cells = tuple(table(size, probabilities, said, workers))
    say("junk in some groups of a file, split work, the cheapest of several hotkeys …")
    lists = min(1000, max(20, size.counted // 20))
    skippings = tuple(best_skipping(spread, cut, lists, size.seed) for cut in CUTS for spread in SPREADS)
    crowdings = []
    for count in (50, 150):
        for name, strategy in sealers().items():
            say(f"100 honest miners beside {count}: {name} …")
            crowdings.append((count, name, crowded(100, strategy, count, size.windows, size.seed)))
    return Results(
        size,
        cells,
        tuple((groups, junk, junk_in_a_file(groups, junk, size)) for groups, junk in JUNK_IN_FILES),
        tuple((share, count, split(share, count, _CROWD, size)) for share in (1.0, 0.3) for count in (2, 4, 8)),
        tuple(
            (share, count, worked, cheapest_of(count, worked, 1.0, share, _CROWD, size)) for share, count, worked in OPERATORS
        ),
        skippings,
        tuple(crowdings),
        chance_beside_tiny_files(100, 150),
        tuple(accompanied(honest, size) for honest in CROWDS_OF_IT),
        tuple(beginning(honest, others, size) for honest, others in BESIDE),
    )


def _counts(cell: Cell) -> bool:
    return not cell.honest and cell.probability >= 0.14


def junk_in_a_file(groups: int, junk: int, size: Size) -> Pay:
    """Junk in so many groups of every file, relative to honest files of that many groups."""
    share = groups / FULL_GROUPS
    return of_the_same_size(Strategy("", junk_groups(junk / groups, share)), share, _CROWD, size)


def _figure(value: float, pm: float) -> str:
    return f"{value:.3f} ± {pm:.3f}"


def _lines(head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *body))


def _pay_tables(results: Results) -> list[str]:
    probabilities = sorted({cell.probability for cell in results.cells})
    found = {(cell.row, cell.probability): cell for cell in results.cells}
    body: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for row in rows():
        cells = [found[row.name, p] for p in probabilities]
        note = f" ({row.why}: at most {row.bound:g})" if row.why else ""
        figures = (f"{_figure(one.pay.per_cost, one.pay.per_cost_pm)} · {one.pay.per_slot:.2f}" for one in cells)
        body[row.honest].append((row.name + note, *figures))
    head = ("strategy: pay per cost · per slot", *(f"p = {p:.2f}" for p in probabilities))
    chosen = [f"* {cell.row}, p = {cell.probability:.2f}: {cell.best}" for cell in results.cells if cell.best]
    return [
        f"{results.size.counted:,} windows a cell, seed {results.size.seed}; ± is half of a 95 % interval.",
        _lines(head, body[False]),
        "The best of many, found under other coins than those of the table:",
        "\n".join(chosen),
        "What misfortune costs who works:",
        _lines(head, body[True]),
    ]


def _other_tables(results: Results) -> list[str]:
    in_files = [
        (f"{groups}", f"{junk}", _figure(pay.per_cost, pay.per_cost_pm), f"{pay.per_slot:.2f}")
        for groups, junk, pay in results.junk_in_files
    ]
    splits = [(f"{share:g}", f"{count}", f"{pay.per_cost:.4f}") for share, count, pay in results.splits]
    operators = [
        (f"{share:.2g}", f"{worked} of {count}", _figure(pay.per_cost, pay.per_cost_pm))
        for share, count, worked, pay in results.operators
    ]
    skippings = [
        (
            f"{one.spread:g}",
            "uncut" if one.cut == UNCUT else f"{one.cut:g} means",
            f"{one.gaps}",
            _figure(one.weight, one.weight_pm),
            _figure(one.adaptive, one.adaptive_pm),
        )
        for one in results.skippings
    ]
    crowdings = [
        (
            f"{count}",
            name,
            f"{one.chance:.3f} ± {one.chance_pm:.3f}",
            f"{one.audits_of_sealers:.1f}",
            f"{one.registrations:.1f}",
        )
        for count, name, one in results.crowdings
    ]
    companies = [
        (f"{one.honest}", f"{one.company}", _figure(one.pay.per_cost, one.pay.per_cost_pm), f"{one.per_slot:.4f}", one.best)
        for one in results.companies
    ]
    beginnings = [(f"{one.honest}", f"{one.others}", *map(_figure, one.pay, one.pay_pm)) for one in results.beginnings]
    alone, beside, own = results.tiny_files
    return [
        "Junk in some groups of files of every size, relative to honest files of that size (p = 0.14):",
        _lines(("groups", "of them junk", "pay per cost", "per slot"), in_files),
        "Honest work split over hotkeys, relative to one hotkey's:",
        _lines(("work, of the cap", "hotkeys", "pay per cost"), splits),
        "Each window only the cheapest of one's own hotkeys' lists (lognormal, σ = 1), relative to one hotkey of that size:",
        _lines(("size, of the cap", "worked", "pay per cost"), operators),
        "The best skipping of 313 groups of known lognormal cost, weight at equal cost:",
        _lines(("σ", "cut at", "groups left out", "weight", "each list its own best"), skippings),
        "Check chance of 100 honest full-time miners (0.350 alone) beside hotkeys that seal the cap and bring nothing:",
        _lines(
            ("of them", "what they do", "chance of the honest", "audits of them a window", "new hotkeys a window"), crowdings
        ),
        f"Beside 150 hotkeys of one group each a full miner's chance is {beside:.4f} in place of {alone:.4f}, theirs {own:g}: "
        f"for each declared rollout {own / (16 / 5000) / beside:.0f} times a full miner's.",
        "A newcomer whose operator has all other slots, seals the cap with them while it brings junk, idles them while it "
        "works and replaces it once it is caught, the best of thirty:",
        _lines(("honest full miners", "hotkeys beside it", "pay per cost", "per slot, all counted", "which"), companies),
        "An honest newcomer's pay, a full miner's being 1, beside others' newcomers that seal the cap in every window:",
        _lines(
            ("honest full miners", "newcomers beside it", *(f"windows {n + 1} to {n + 12}" for n in (0, 12, 24, 36))),
            beginnings,
        ),
    ]


def markdown(results: Results) -> str:
    """The tables, without the page's text."""
    return "\n\n".join(_pay_tables(results) + _other_tables(results))


def page_parts(path: Path) -> tuple[str, str]:
    """A page before and after the place of its tables.

    Raises:
        GrailError: there is no such page, or it has no marks.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise GrailError("no place for the tables", where=str(path), hint=f"give a page with the lines {BEGIN} and {END}")
    return before, after


def write_page(path: Path, results: Results) -> None:
    """Put the tables between the page's marks."""
    before, after = page_parts(path)
    path.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n\n{END}{after}", encoding="utf-8")
