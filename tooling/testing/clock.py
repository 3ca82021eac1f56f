"""A clock that only a test moves."""

from __future__ import annotations


class ManualClock:
    """Milliseconds since the epoch, for a store, a chain or a beacon relay that asks for the time. Set `now` to move it."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now
