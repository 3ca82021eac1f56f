"""What a run measured as the tables and plots of `docs/pay.md`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grail_core.disk import write_atomically
from grail_core.errors import GrailError
from grail_validator.simulation.measure import Pay
from grail_validator.simulation.plots import bursts_plot, junk_plot, strategies_plot
from grail_validator.simulation.results import Results
from grail_validator.simulation.sizes import AT_RANDOM, CHANCES, RHYTHMS, SHARES
from grail_validator.simulation.skipping import UNCUT
from grail_validator.simulation.table import rows

BEGIN, END = "<!-- begin: written by `grail-validator simulate --page` -->", "<!-- end -->"
PLOTS = {"pay-strategies.svg": strategies_plot, "pay-junk.svg": junk_plot, "pay-bursts.svg": bursts_plot}
"""Beside the page, and what draws them."""


def _figure(value: float, pm: float) -> str:
    return f"{value:.3f} ± {pm:.3f}"


def _both(pay: Pay) -> str:
    return f"{_figure(pay.per_cost, pay.per_cost_pm)} · {pay.per_slot:.2f}"


def _lines(head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *body))


def _pay_tables(results: Results) -> list[str]:
    probabilities = sorted({cell.probability for cell in results.cells})
    found = {(cell.row, cell.probability): cell for cell in results.cells}
    body: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for row in rows():
        cells = [found[row.name, p] for p in probabilities]
        note = f" ({row.why}: at most {row.bound:g})" if row.why else ""
        body[row.honest].append((row.name + note, *(_both(one.pay) for one in cells)))
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


def _tables_of_sizes(results: Results) -> list[str]:
    """C5 and C7 to C10: files of every size, bursts, several hotkeys."""
    junk = {(one.groups, one.junk, one.probability, one.renewed): one.pay for one in results.junk_in_files}
    in_files = [
        (f"{groups}", f"{count}", *(_both(junk[groups, count, p, renewed]) for p in CHANCES for renewed in (False, True)))
        for groups, count in dict.fromkeys((one.groups, one.junk) for one in results.junk_in_files)
    ]
    burst = {(one.share, one.cycle, one.probability): one.pay for one in results.bursts}
    bursts = [(f"{share:g}", *(_both(burst[share, cycle, p]) for p in CHANCES for cycle in RHYTHMS)) for share in SHARES]
    small = [(f"{one.size:.2g}", f"{one.pay.per_cost:.2g}", f"{one.pay.per_slot:.2g}") for one in results.small_files]
    splits = [
        (f"{one.size:g}", f"{one.hotkeys}", f"{one.probability:.2f}", f"{one.pay.per_cost:.5f} ± {one.pay.per_cost_pm:.5f}")
        for one in results.operators
        if one.worked is None
    ]
    cheapest = [
        (f"{one.size:.2g}", f"{one.worked} of {one.hotkeys}", _figure(one.pay.per_cost, one.pay.per_cost_pm), f"{one.bound:g}")
        for one in results.operators
        if one.worked is not None
    ]
    rhythms = ["at random" if cycle == AT_RANDOM else f"cycle of {cycle}" for cycle in RHYTHMS]
    return [
        "Junk in some groups of files of every size, relative to honest files of that size (pay per cost · per slot; p is a "
        "full miner's, a small file's own chance is 0.10 or more):",
        _lines(
            ("groups", "of them junk", *(f"p = {p:.2f}, {who}" for p in CHANCES for who in ("idle when caught", "new hotkey"))),
            in_files,
        ),
        "Full files in a share of the windows, files of one group in the others (pay per cost · per slot, full-time work "
        "being 1):",
        _lines(("share", *(f"p = {p:.2f}, {rhythm}" for p in CHANCES for rhythm in rhythms)), bursts),
        "Honest files of one size in every window, full-time work being 1 (p = 0.14):",
        _lines(("size, of the cap", "pay per cost", "per slot"), small),
        "Honest work split over hotkeys, relative to one hotkey's:",
        _lines(("work, of the cap", "hotkeys", "p", "pay per cost"), splits),
        "Each window only the cheapest of one's own hotkeys' lists (lognormal, σ = 1), relative to one hotkey of that size "
        "(p = 0.14):",
        _lines(("size, of the cap", "worked", "pay per cost", "at most"), cheapest),
    ]


def _other_tables(results: Results) -> list[str]:
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
    return "\n\n".join(_pay_tables(results) + _tables_of_sizes(results) + _other_tables(results))


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
    """Put the tables between the page's marks, and the plots beside the page."""
    before, after = page_parts(path)
    for name, plot in PLOTS.items():
        write_atomically(path.with_name(name), plot(results).encode())
    write_atomically(path, f"{before}{BEGIN}\n\n{markdown(results)}\n\n{END}{after}".encode())
