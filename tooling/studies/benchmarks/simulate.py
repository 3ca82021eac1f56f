"""`hatch run bench simulate`: windows of a whole subnet a minute, and every figure of the table of pay.

A window is lived on the full path: 64 miners seal with real signatures, two validators read every seal, toss the coins, judge,
score, encode, sign and publish, set weights, and an auditor holds each verdict against all promises
(`grail_validator.simulation.subnet`). Two processes live subnets of their own, as two cores allow. The table is
`grail-validator simulate` at the size of the published page.

sim.windows_per_min, .faults   two processes, without faults and with all of them; sim.cpu_ms_per_window is of one process
sim.promises_broken            of those runs: 0
sim.equal_share                of the windows that both judged without faults: 1
sim.table_s, sim.figures       the whole table with two workers
sim.paid_too_much              figures whose interval lies above what they may be: 0
sim.per_cost.NAME, .pm         pay of a strategy per cost, honest full-time work being 1, and half of its 95 % interval
sim.per_slot.NAME, .pm         the same per slot; sim.most.NAME what it may be, where that is not 1
"""

from __future__ import annotations

import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from grail_validator.simulation.measure import CROWDS, Size
from grail_validator.simulation.results import measure_all
from grail_validator.simulation.subnet.faults import Fault
from grail_validator.simulation.subnet.run import Outcome, Plan, live

WORKERS = 2
MINERS = 64
WINDOWS = 150  # of each process: twice the memory of scores
_ALL = tuple(fault.value for fault in Fault)


def measure() -> dict[str, float]:
    """Every figure; how far it is goes to standard error."""
    figures: dict[str, float] = {"sim.miners": MINERS, "sim.validators": 2}
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(_lived, [Plan(0, 1, MINERS)] * WORKERS))  # imports are not counted
        plain = _speed(pool, (), figures, "")
        faulty = _speed(pool, _ALL, figures, ".faults")
    both = sum(one.counts.get("judged by two", 0) for one in plain)
    figures["sim.equal_share"] = sum(one.counts.get("equal", 0) for one in plain) / both
    figures["sim.promises_broken"] = sum(len(one.broken) for one in (*plain, *faulty))
    started = time.perf_counter()
    results = measure_all(Size(), tuple(CROWDS), WORKERS, lambda line: print(line, file=sys.stderr))
    figures["sim.table_s"] = time.perf_counter() - started
    figures["sim.figures"] = len(results.pays)
    figures["sim.paid_too_much"] = len(results.paid_too_much)
    for name, pay, most in results.pays:
        key = re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")
        figures[f"sim.per_cost.{key}"], figures[f"sim.per_cost.{key}.pm"] = pay.per_cost, pay.per_cost_pm
        figures[f"sim.per_slot.{key}"], figures[f"sim.per_slot.{key}.pm"] = pay.per_slot, pay.per_slot_pm
        if most != 1:
            figures[f"sim.most.{key}"] = most
    return figures


def _speed(pool: ProcessPoolExecutor, faults: tuple[str, ...], figures: dict[str, float], suffix: str) -> list[Outcome]:
    plans = [Plan(seed, WINDOWS, MINERS, faults=faults, faulty=2 * WINDOWS // 3) for seed in range(1, WORKERS + 1)]
    started = time.perf_counter()
    lived = list(pool.map(_lived, plans))
    seconds = time.perf_counter() - started
    figures[f"sim.windows_per_min{suffix}"] = 60 * WORKERS * WINDOWS / seconds
    figures[f"sim.cpu_ms_per_window{suffix}"] = 1000 * sum(cpu for _, cpu in lived) / (WORKERS * WINDOWS)
    print(f"{WORKERS} × {WINDOWS} windows in {seconds:.1f} s {suffix}", file=sys.stderr)
    return [outcome for outcome, _ in lived]


def _lived(plan: Plan) -> tuple[Outcome, float]:
    started = time.process_time()
    return live(plan), time.process_time() - started
