"""Blocks follow the shared clock: real, fast, virtual, and rebased after a stop."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.chain.development.clock import ClockMode, ClockState, start_clock
from grail_core.chain.development.local import LocalChain
from grail_core.errors import ChainError
from grail_core.protocol.types import Block
from tooling.testing.clock import ManualClock
from tooling.testing.keys import ALICE

START = 1_700_000_000_000


@pytest.fixture
def wall() -> ManualClock:
    return ManualClock(START)


def create(path: Path, wall: ManualClock, clock: ClockMode = ClockMode.REAL, factor: float = 1.0) -> LocalChain:
    return LocalChain.create(path / "c.sqlite", seed=1, block_time_ms=1_000, clock=clock, factor=factor, wall_clock=wall)


def reopen(chain: LocalChain, wall: ManualClock) -> LocalChain:
    return LocalChain.open(chain._path, wall_clock=wall)


def test_a_real_clock_is_the_wall_clock(tmp_path: Path, wall: ManualClock) -> None:
    chain = create(tmp_path, wall)
    wall.now += 4_999
    assert (chain.current_block(), chain.now_ms()) == (4, wall.now)
    assert chain.block(Block(4)).timestamp_ms == START + 4_000


def test_a_fast_clock_runs_factor_times_as_quickly_in_every_process(tmp_path: Path, wall: ManualClock) -> None:
    chain = create(tmp_path, wall, ClockMode.FAST, factor=20)
    wall.now += 1_000
    assert chain.current_block() == reopen(chain, wall).current_block() == 20
    assert chain.now_ms() == START + 20_000


def test_a_virtual_clock_moves_by_advance_only_and_everybody_sees_it(tmp_path: Path, wall: ManualClock) -> None:
    chain = create(tmp_path, wall, ClockMode.VIRTUAL)
    wall.now += 10**9
    assert chain.current_block() == 0
    assert chain.advance(7) == reopen(chain, wall).current_block() == 7
    assert chain.advance_ms(999) == 7
    assert chain.advance_ms(1) == 8
    with pytest.raises(ValueError, match="back"):
        chain.advance(-1)
    real = create(tmp_path / "real", wall)
    with pytest.raises(ChainError, match="virtual"):
        real.advance(1)


def test_while_nobody_runs_a_real_clock_goes_on(tmp_path: Path, wall: ManualClock) -> None:
    chain = create(tmp_path, wall)
    wall.now += 10_000
    chain.current_block()
    wall.now += 3_600_000
    assert reopen(chain, wall).current_block() == 3_610


@pytest.mark.parametrize(("mode", "factor"), [(ClockMode.REAL, 1.0), (ClockMode.FAST, 5.0)])
def test_a_rebased_network_continues_with_the_next_block(
    tmp_path: Path, wall: ManualClock, mode: ClockMode, factor: float
) -> None:
    chain = create(tmp_path, wall, mode, factor)
    wall.now += 10_000
    stopped_at, last_time = chain.current_block(), chain.now_ms()
    wall.now += 3_600_000
    resumed = reopen(chain, wall)
    skipped = resumed.rebase_clock()
    assert skipped > 3_590_000 * factor
    assert resumed.current_block() == stopped_at
    assert last_time <= resumed.now_ms() < resumed.block(stopped_at).timestamp_ms + 1_000
    wall.now += 1_000
    assert resumed.current_block() == reopen(chain, wall).current_block() == stopped_at + factor
    assert resumed.rebase_clock() == 0


def test_a_wall_clock_that_is_set_back_takes_no_block_away(tmp_path: Path, wall: ManualClock) -> None:
    chain = create(tmp_path, wall)
    wall.now += 10_000
    assert chain.current_block() == 10
    wall.now -= 8_000
    assert chain.current_block() == 10
    chain.register(ALICE)
    wall.now += 9_000
    assert [n.registered_at for n in chain.metagraph(chain.current_block()).neurons] == [11]


@pytest.mark.parametrize(("mode", "factor"), [(ClockMode.REAL, 1.0), (ClockMode.FAST, 5.0)])
def test_a_wall_clock_that_is_set_back_a_day_stops_no_block(
    tmp_path: Path, wall: ManualClock, mode: ClockMode, factor: float
) -> None:
    chain = create(tmp_path, wall, mode, factor)
    wall.now += 10_000
    head, time = chain.current_block(), chain.now_ms()
    other = reopen(chain, wall)
    wall.now -= 86_400_000
    assert other.now_ms() >= chain.block(head).timestamp_ms
    assert time - other.now_ms() < 1_000  # nothing but the part of a block
    wall.now += 3_000
    assert chain.current_block() == other.current_block() == head + 3 * factor
    assert chain.wait_for_block(Block(head + 1), stop=threading.Event())
    wall.now += 86_400_000  # and set right again: blocks of a day that nobody saw, as after a stop
    assert chain.current_block() == other.current_block() > head


def test_two_readings_of_the_clock_a_moment_apart_move_nothing(tmp_path: Path, wall: ManualClock) -> None:
    chain = create(tmp_path, wall)
    wall.now += 10_000
    chain.current_block()
    wall.now -= 1
    assert chain.now_ms() == START + 10_000
    wall.now += 1
    assert chain.now_ms() == wall.now


def test_a_chain_whose_genesis_is_to_come_waits_for_it(tmp_path: Path, wall: ManualClock) -> None:
    chain = LocalChain.create(
        tmp_path / "c.sqlite", seed=1, block_time_ms=1_000, genesis_time_ms=START + 60_000, wall_clock=wall
    )
    assert chain.current_block() == 0
    wall.now += 61_000
    assert chain.current_block() == 1


def test_waiting_ends_when_another_thread_moves_the_clock(tmp_path: Path, wall: ManualClock) -> None:
    chain = create(tmp_path, wall, ClockMode.VIRTUAL)
    results: list[tuple[str, bool, int]] = []

    def wait(name: str, finalised: bool) -> None:
        reached = chain.wait_for_block(Block(3), stop=threading.Event(), finalised=finalised)
        results.append((name, reached, chain.current_block()))

    threads = [threading.Thread(target=wait, args=args) for args in (("best", False), ("final", True))]
    for thread in threads:
        thread.start()
    chain.advance(3)
    threads[0].join()
    chain.advance(1)
    threads[1].join()
    assert [r[:2] for r in results] == [("best", True), ("final", True)]
    assert results[1][2] == 4


def test_waiting_ends_at_once_when_stopped_or_when_the_block_exists(tmp_path: Path, wall: ManualClock) -> None:
    chain = create(tmp_path, wall, ClockMode.VIRTUAL)
    stop = threading.Event()
    stop.set()
    assert chain.wait_for_block(Block(0), stop=stop)
    assert not chain.wait_for_block(Block(1), stop=stop)


def test_waiting_sleeps_as_long_as_the_clock_says(tmp_path: Path, wall: ManualClock) -> None:
    naps: list[float | None] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            naps.append(timeout)
            wall.now += round((timeout or 0) * 1000)
            return False

    chain = create(tmp_path, wall, ClockMode.FAST, factor=4)
    assert chain.wait_for_block(Block(6), stop=Stop(), finalised=True)
    assert naps == [1.75]  # 7 blocks of one second, four times as quickly
    assert chain.finalised_block() == 6


@given(st.integers(0, 10**9), st.integers(1, 10_000), st.integers(0, 10**8))
def test_sleeping_the_time_the_clock_names_reaches_the_moment(wait: int, rate: int, elapsed: int) -> None:
    clock = ClockState(ClockMode.FAST, START, START, rate)
    wall = START + elapsed
    target = clock.now_ms(wall) + wait
    missing = clock.wall_ms_until(target, wall)
    assert missing is not None
    assert clock.now_ms(wall + missing) >= target
    assert missing == 0 or clock.now_ms(wall + missing - 1) < target


def test_factors_out_of_range_are_refused() -> None:
    for factor in (0.0, -1.0, 1e9):
        with pytest.raises(ValueError, match="factor"):
            start_clock(ClockMode.FAST, genesis_time_ms=0, wall_ms=0, factor=factor)
