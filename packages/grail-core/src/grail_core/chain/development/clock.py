"""Time on the development chain: one clock for blocks, beacon rounds and store times, shared by processes.

The clock is three numbers in the chain's database (anchor in wall time, anchor in chain time, rate), so that every process
that opens the file reads the same time. `real` runs with the wall clock, `fast` runs `rate` times as quickly, `virtual`
stands still until somebody advances it. Chain time is Unix milliseconds on a fresh chain; after a rebase it lags the wall
clock by the time the network was down.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ClockMode(Enum):
    REAL = "real"
    FAST = "fast"
    VIRTUAL = "virtual"


@dataclass(frozen=True)
class ClockState:
    """Where chain time stands: at wall time `anchor_wall_ms` it was `anchor_chain_ms`, and it runs rate/1000 times as fast."""

    mode: ClockMode
    anchor_wall_ms: int
    anchor_chain_ms: int
    rate_permille: int  # 1000 = real time, 0 = virtual

    def now_ms(self, wall_ms: int) -> int:
        """Chain time. A wall clock that was set back does not take chain time before its anchor."""
        return self.anchor_chain_ms + max(0, wall_ms - self.anchor_wall_ms) * self.rate_permille // 1000

    def wall_ms_until(self, chain_ms: int, wall_ms: int) -> int | None:
        """Wall milliseconds until chain time reaches `chain_ms` (0 if it has); None where only `advance` moves the clock."""
        if self.now_ms(wall_ms) >= chain_ms:
            return 0
        if self.rate_permille == 0:
            return None
        ahead = -((self.anchor_chain_ms - chain_ms) * 1000 // self.rate_permille)  # rounded up
        return self.anchor_wall_ms + ahead - wall_ms

    def rebased(self, chain_ms: int, wall_ms: int) -> ClockState:
        """The clock that continues from `chain_ms` at this wall time."""
        return ClockState(self.mode, wall_ms, chain_ms, self.rate_permille)


def start_clock(mode: ClockMode, *, genesis_time_ms: int, wall_ms: int, factor: float) -> ClockState:
    """A clock for a chain whose genesis is at `genesis_time_ms`.

    A real clock is the wall clock itself, so a genesis in the past begins with the blocks since then; fast and virtual
    clocks begin at genesis.
    """
    if mode is ClockMode.REAL:
        return ClockState(mode, wall_ms, wall_ms, 1000)
    if mode is ClockMode.VIRTUAL:
        return ClockState(mode, wall_ms, genesis_time_ms, 0)
    rate = round(factor * 1000)
    if not 1 <= rate <= 10_000_000:
        raise ValueError(f"a fast clock's factor lies between 0.001 and 10000, not {factor}")
    return ClockState(mode, wall_ms, genesis_time_ms, rate)
