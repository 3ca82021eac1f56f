"""What simulated strategies become in the table of attacks: a try is one strategy at one check chance of a full miner.

It is accepted if the 95 % interval of its pay, per cost or per slot, lies above what it may be paid. The honest twin is honest
full-time work under the same coins; it is a false reject if it is paid less than one in a hundred below its due.
"""

from __future__ import annotations

from dataclasses import replace

from grail_validator.simulation.measure import CROWDS, HONEST, Pay, Size, measured
from tooling.adversaries.rows import Row, Try

CAUGHT_BY = "pay (section 10)"
CHANCES = (0.14, 0.29)
"""Of a full miner: 250 and 121 of them. Below 0.14 there is none among 256 UIDs."""
_HONEST_LEAST = 0.99


def size_of(tries: int | None, quick: bool, seed: int) -> Size:
    """`tries` are windows of a replica."""
    return Size(replicas=24 if quick else 64, windows=tries or (60 if quick else 320), seed=1 + seed)


def row_with_twin(id_: str, unit: str, size: Size) -> Row:
    """A row whose honest twins are measured already, one at each chance."""
    row = Row(id_, unit)
    for probability in CHANCES:
        twin = measured(replace(HONEST, name="twin"), CROWDS[probability], size)
        row.honest_tries += 1
        row.honest_false_rejects += twin.per_cost + twin.per_cost_pm < _HONEST_LEAST
    return row


def add_pay(row: Row, name: str, pay: Pay, bound: float = 1.0) -> None:
    """One try: what it was paid against what it may be."""
    message = f"{pay.per_cost:.3f} ± {pay.per_cost_pm:.3f} per cost, {pay.per_slot:.3f} ± {pay.per_slot_pm:.3f} per slot"
    row.tries.append(Try(name, pay.beats_honest_work(bound), CAUGHT_BY, f"{message}; at most {bound:g}"))


def add_figure(row: Row, name: str, accepted: bool, caught_by: str, message: str) -> None:
    """One try that is no pay."""
    row.tries.append(Try(name, accepted, caught_by, message))
