"""This machine's clock, as a value that can be passed: stores, relays and chains take one instead of asking the system."""

from __future__ import annotations

import time
from collections.abc import Callable

WallClock = Callable[[], int]
"""Unix milliseconds of this machine, or of the network whose time a store follows."""


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000
