"""How long something takes on a device: warm-up, then the median of repetitions, the cache emptied before each.

On a GPU the events are CUDA's, so what is measured is the device's own time. Before every repetition a buffer larger than any
level-2 cache is overwritten, or the second one would find its inputs there. On a CPU (tests) a clock takes their place.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import torch

WARM_UP: Final = 5
FLUSH_BYTES: Final = 256 * 2**20


def median_ms(action: Callable[[], Any], device: str, *, repetitions: int) -> float:
    """Milliseconds of one call of `action`."""
    for _ in range(WARM_UP):
        action()
    if not device.startswith("cuda"):
        return statistics.median(_by_clock(action) for _ in range(repetitions))
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    times: list[float] = []
    for _ in range(repetitions):
        flush.zero_()
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        action()
        after.record()
        torch.cuda.synchronize(device)
        times.append(float(before.elapsed_time(after)))
    return statistics.median(times)


def _by_clock(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started)
