"""X3, X5: junk in a share of windows, trust earned and spent, hotkeys in rotation, an operator that moves its own chance with
other hotkeys, choosing problems; sealing what is never brought.

By simulation with the protocol's own draw and scores; `grail-validator simulate` has the same rows at twenty thousand windows.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from grail_core.protocol.selection import Candidate, check_probabilities
from grail_validator.simulation.coins import hotkey
from grail_validator.simulation.company import CROWDS_OF_IT, accompanied
from grail_validator.simulation.crowding import crowded, sealers
from grail_validator.simulation.network import TRUSTED
from grail_validator.simulation.skipping import CUTS, SPREADS, UNCUT, best_skipping
from grail_validator.simulation.table import attacks, cell
from tooling.adversaries.simulated import CHANCES, add_figure, add_pay, row_with_twin, size_of

_LEAST_CHANCE = {50: 0.31, 150: 0.27}
"""Of 100 honest full-time miners (0.35 alone) beside so many that earn trust by honest work, then seal what they never bring.
Who earned no trust may not move it at all."""


def junk_and_trust(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """X3: every row of the table is paid, per cost and per slot, at most what honest full-time work is."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("X3", "strategy at a check chance", size)
    for one in attacks():
        if quick and len(one.strategies) > 1:
            continue
        for probability in CHANCES if quick else (*CHANCES, 1.0):
            found = cell(one, probability, size)
            add_pay(row, f"{one.name}, p = {probability}", found.pay, one.bound)
    for honest in CROWDS_OF_IT:
        moved = accompanied(honest, size)
        add_pay(row, f"beside {honest} honest miners, {moved.best}", moved.pay)
    for cut, spread in product(CUTS, SPREADS):
        chosen = best_skipping(spread, cut, 40 if quick else 1000, size.seed)
        message = (
            f"{chosen.weight:.3f} ± {chosen.weight_pm:.3f}, each list its own {chosen.adaptive:.3f} ± {chosen.adaptive_pm:.3f}"
        )
        limit = "uncut" if cut == UNCUT else f"cut at {cut:g} means"
        add_figure(row, f"skipping, σ = {spread}, {limit}", bool(chosen.paid_too_much), "gaps (section 3)", message)
    return row.to_json()


def dilution(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """X5: newcomers, hotkeys that cannot earn, and what is declared beyond what pay counts, take no audits from others."""
    size = size_of(tries, quick, seed)
    row = row_with_twin("X5", "hotkeys beside 100 honest full miners", size)
    full = {hotkey(i): TRUSTED for i in range(100)}
    alone = check_probabilities(full)[hotkey(0)]
    for name, more in {"150 inside a look-back": Candidate(5000, 0, True), "beyond the cap": Candidate(6000, 20_000)}.items():
        count = 150 if more.in_lookback else 1
        others = {hotkey(1000 + i): more for i in range(count)}
        like = others if more.in_lookback else {hotkey(1000): TRUSTED}
        beside = check_probabilities(full | others)[hotkey(0)]
        due = alone if more.in_lookback else check_probabilities(full | like)[hotkey(0)]
        add_figure(row, name, beside != due, "chances (section 10)", f"chance {float(beside):.4f}, due {float(due):.4f}")
    for count, least_trusted in tuple(_LEAST_CHANCE.items())[: 1 if quick else None]:
        for name, strategy in sealers().items():
            found = crowded(100, strategy, count, 40 if quick else size.windows, size.seed)
            least = float(alone) - 1e-9 if name.startswith("newcomers") else least_trusted
            message = (
                f"chance of the honest {found.chance:.3f} ± {found.chance_pm:.3f}, {found.audits_of_sealers:.1f} audits of them"
            )
            add_figure(row, f"{count} {name}", found.chance + found.chance_pm < least, "chances (section 10)", message)
    return row.to_json()


ATTACKS = {"X3": junk_and_trust, "X5": dilution}
