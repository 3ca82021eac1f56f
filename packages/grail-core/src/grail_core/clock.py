"""This machine's clock, as a value that can be passed: stores, relays and chains take one instead of asking the system."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

WallClock = Callable[[], int]
"""Unix milliseconds of this machine, or of the network whose time a store follows."""


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def utc_text(ms: int) -> str:
    """Unix milliseconds for a person, to the second: `2026-11-30T16:00:00Z`."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
