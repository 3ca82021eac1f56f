"""When the upload of a window must begin, for who looks at the clock many times a second: the chain is asked once a block.

The time of a block to come is an estimate that every block betters. A chain that does not answer while a window is mined costs
no window: the last estimate holds. So it does in the last two blocks before that time, in which no answer is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from grail_core.errors import ChainError
from grail_core.telemetry import get_logger

log = get_logger(__name__)


class UploadTime:
    """Safe to ask from several threads.

    Args:
        now_ms: the chain's clock. at_ms: asks the chain for the time on that clock; raises ChainError. block_time_ms: of the
        network.
    """

    def __init__(self, now_ms: Callable[[], int], at_ms: Callable[[], int], block_time_ms: int) -> None:
        self._now_ms, self._ask, self._block_time_ms = now_ms, at_ms, block_time_ms
        self._lock = threading.Lock()
        self._known: tuple[int, int] | None = None  # the time, and when the chain was asked last

    def seconds_left(self) -> float:
        """Raises: ChainError, where the chain never answered, or has no clock."""
        now_ms = self._now_ms()
        with self._lock:
            if self._known is None:
                self._known = self._ask(), now_ms
            at_ms, asked_ms = self._known
            soon = at_ms - now_ms <= 2 * self._block_time_ms
            if not soon and abs(now_ms - asked_ms) >= self._block_time_ms:
                try:
                    at_ms = self._ask()
                except ChainError as error:
                    log.event("deadline_not_confirmed", reason=error.what)
                self._known = at_ms, now_ms
            return (at_ms - now_ms) / 1000
