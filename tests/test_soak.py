"""What a soak calls a leak, and which windows it lets fail."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tooling.soak.accounts import Account
from tooling.soak.bodies import Bodies
from tooling.soak.holdings import Holding, Sample, folder_bytes, holdings
from tooling.soak.leaks import DESCRIPTORS, LEAST_WINDOWS, MEMORY, trend
from tooling.soak.report import Soaked, problems, summary, table
from tooling.soak.schedule import KINDS, QUIET_WINDOWS, faults

MIB = 1 << 20


def noisy(start: float, slope: float, windows: int, noise: float) -> list[float]:
    chosen = random.Random(1)
    return [start + slope * window + chosen.uniform(-noise, noise) for window in range(windows)]


@pytest.mark.parametrize("slope", [80 * 1024, MIB])
def test_memory_that_goes_up_window_for_window_is_a_leak(slope: float) -> None:
    found = trend(noisy(300 * MIB, slope, 200, 3 * MIB))
    assert found is not None
    assert found.leaks(MEMORY)
    assert found.slope == pytest.approx(slope, rel=0.2)


@pytest.mark.parametrize("slope", [0.0, 20 * 1024, -MIB])
def test_memory_that_only_trembles_is_none(slope: float) -> None:
    found = trend(noisy(300 * MIB, slope, 200, 8 * MIB))
    assert found is not None
    assert not found.leaks(MEMORY)


def test_a_cache_that_fills_for_half_of_the_run_is_none_and_one_that_never_ends_is() -> None:
    full = [float(min(window, 90) * MIB) for window in range(200)]
    endless = [float(window * MIB) for window in range(200)]
    for series, leaks in ((full, False), (endless, True)):
        found = trend(series)
        assert found is not None
        assert found.leaks(MEMORY) is leaks


def test_one_window_of_other_work_is_no_leak() -> None:
    series = noisy(40, 0.0, 120, 0.0)
    series[-3] += 500
    found = trend(series)
    assert found is not None
    assert not found.leaks(DESCRIPTORS)


def test_a_descriptor_lost_every_twentieth_window_is_a_leak() -> None:
    found = trend([40.0 + window // 20 for window in range(200)])
    assert found is not None
    assert found.leaks(DESCRIPTORS)


def test_a_run_that_is_too_short_for_a_trend_is_told_to_have_none() -> None:
    assert trend([1.0] * (2 * LEAST_WINDOWS - 2)) is None
    assert trend([1.0] * (2 * LEAST_WINDOWS)) is not None


def soaked(windows: int, *, restarted: bool = False) -> Soaked:
    """A run in which nothing leaks."""
    held = {name: Holding(pid, 1, 300 * MIB, 40, 9) for pid, name in enumerate(("validator-1", "miner-1"), 1)}
    samples = [Sample(window, 15.0 * window, held, {"cache/miner-1": MIB, "state/miner-1": MIB}) for window in range(windows)]
    if restarted:
        samples[-1] = replace(samples[-1], holdings=held | {"miner-1": replace(held["miner-1"], pid=9)})
    accounts = {name: Account(done=list(range(0, 30 * windows, 30))) for name in held}
    bodies = Bodies(tuple(range(0, 30 * windows, 30)), {})
    return Soaked(1, range(0, 30 * windows, 30), samples, {}, [], accounts, {}, bodies, [], {"validator-1": 1}, 15.0 * windows)


def test_a_window_that_was_judged_differently_is_a_problem_where_nothing_outside_explains_it() -> None:
    run = soaked(60)
    explained = replace(run, bodies=Bodies(run.bodies.alike[2:], {0: "store: away for 6 blocks"}))
    assert problems(explained) == []
    assert problems(replace(run, bodies=Bodies(run.bodies.alike[1:], {0: ""}))) == [
        "window 0: validators judged it differently, and nothing had failed"
    ]


def test_a_run_of_void_windows_has_soaked_nothing() -> None:
    run = soaked(60)
    assert problems(replace(run, bodies=Bodies(run.bodies.alike[:30], {}))) == [
        "only 30 of 60 windows were scored by every validator"
    ]


def test_a_run_that_is_too_short_claims_nothing_of_leaks_and_a_long_one_says_what_it_looked_at() -> None:
    short, long, restarted = soaked(6), soaked(60), soaked(60, restarted=True)
    assert [problems(one) for one in (short, long, restarted)] == [[]] * 3  # all of them end with 0
    assert [summary(one)["trend_shown"] for one in (short, long, restarted)] == [False, True, False]
    assert table(short)[-1] == "leaks were not looked at: 6 windows are too few for trends, which take 48"
    assert table(long)[-1] == "leaks: 0 of 7 trends"
    missing = [f"{what} of miner-1" for what in ("memory", "descriptors", "threads")]
    assert summary(restarted)["without_trend"] == missing
    assert table(restarted)[-1] == f"leaks: 0 of 4 trends; not looked at, for too few windows: {', '.join(missing)}"


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_of_fault_has_its_turn_one_at_a_time_and_all_is_well_at_the_end(seed: int) -> None:
    planned = list(faults(seed, 200, 30))
    kinds = {(part, kind[0]) for part, kinds in KINDS.items() for kind in kinds}
    assert {(fault.part, fault.what) for fault in planned} == kinds
    spans = [(fault.begins(0, 30), fault.ends(0, 30)) for fault in planned]
    assert spans[0][0] >= QUIET_WINDOWS * 30
    assert all(end < begin for (_, end), (begin, _) in pairwise(spans))
    assert spans[-1][1] <= 199 * 30
    assert planned == list(faults(seed, 200, 30))


def test_what_a_process_and_its_children_hold_is_counted() -> None:
    child = "import os; held = [os.open('/dev/null', 0) for _ in range(50)]; memory = bytearray(64 << 20); {then}"
    inner = child.format(then="print('ready', flush=True); input()")
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        found = holdings({"role": process.pid, "gone": 2**22 + 1})
        process.stdin.write("\n")
    assert set(found) == {"role"}
    assert found["role"].processes == 2
    assert found["role"].memory > 64 * MIB
    assert found["role"].descriptors >= 56


def test_a_folder_is_as_large_as_its_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(bytes(1000))
    (tmp_path / "b").write_bytes(bytes(24))
    (tmp_path / "link").symlink_to(tmp_path / "in" / "a")
    assert folder_bytes(tmp_path) == 1024 + len(str(tmp_path / "in" / "a"))
