"""Whether the page has something true to show: JSON for whoever watches it, 200 or 503."""

from __future__ import annotations

from typing import Final

from grail_core.chain.base import seconds_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.reading import Json
from grail_validator.page.board import Board

OLD_WINDOWS: Final = 5
"""Windows after which the newest verdict is old: one is worked on, one is judged, and a round takes several."""
BLOCK_MS: Final = 12_000
"""Of a network whose parameters are not known."""


def health(board: Board, rule: NetworkParameters | None) -> tuple[bool, dict[str, Json]]:
    """Whether all is well, and what is to be told: `reason` is "" then."""
    snapshot, age = board.snapshot, board.age_ms()
    old_s = seconds_of(OLD_WINDOWS * WINDOW_LENGTH, BLOCK_MS if rule is None else rule.block_time_ms)
    reason = ""
    if snapshot.problem:
        reason = f"the source cannot be read: {snapshot.problem}"
    elif not snapshot.windows:
        reason = "there is no verdict yet"
    elif not snapshot.records:
        reason = "no verdict that lies there can be shown"
    elif age is None or age > 1000 * old_s:
        reason = (
            "how old the newest window is cannot be told: no seal lay in it, or this machine's clock is behind its last one"
            if age is None
            else f"the newest window is {age // 1000} s old, older than {old_s:.0f} s"
        )
    return not reason, {
        "status": "unhealthy" if reason else "healthy",
        "reason": reason,
        "newest_window": snapshot.windows[-1] if snapshot.windows else None,
        "newest_age_s": None if age is None else age // 1000,
        "windows": len(snapshot.windows),
        "unread": len(snapshot.unread),
        "read_at_ms": snapshot.read_at_ms,
    }
