"""How often a fault that lasts is told: each of the first ten, then every sixtieth, which is about one line a minute.

It is counted over windows, since an outage of hours is one outage, however many windows it costs. It is over where a wait that
had failed gets what it waited for, or where nothing failed for two minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

TOLD_TRIES: Final = 10
RETOLD_TRIES: Final = 60
QUIET_S: Final = 120.0


class FaultsTold:
    """Of one participant, whose waits may run side by side."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic, self._lock = monotonic, threading.Lock()
        self._count, self._last = 0, monotonic()

    def failed(self) -> bool:
        """Count one more. Returns whether it is to be told."""
        with self._lock:
            now = self._monotonic()
            self._count = 1 if now - self._last > QUIET_S else self._count + 1
            self._last = now
            return self._count <= TOLD_TRIES or self._count % RETOLD_TRIES == 0

    def healed(self) -> None:
        """What had failed was had."""
        with self._lock:
            self._count = 0
