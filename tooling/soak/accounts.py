"""What became of every window of a run, by role: done, or the reason that the role wrote down. What has neither is a problem.

From the roles' events alone: each is written after the durable act that it tells of (`tooling.localnet.progress`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tooling.localnet.events import Event

DONE = frozenset({"window_mined", "window_already_mined", "window_trained"})
WITH_REASON = frozenset(
    {"window_skipped", "window_empty", "window_withheld", "upload_failed", "window_not_scored", "window_not_trained"}
)
VERDICT = "verdict_published"
"""Done, unless `window_not_scored` says why it judges nobody: both are written of such a window."""


@dataclass
class Account:
    """Of one role: the run's windows by what became of them. A window stands in one of the three."""

    done: list[int] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    untold: list[int] = field(default_factory=list)


def accounts(events: Iterable[Event], roles: Sequence[str], windows: range) -> Mapping[str, Account]:
    """Args: windows: of the run, by their first blocks."""
    done: dict[str, set[int]] = {role: set() for role in roles}
    reasons: dict[str, dict[int, str]] = {role: {} for role in roles}
    for event in events:
        window = event.integer("window")
        if event.process not in done or window is None:
            continue
        if event.name in DONE or event.name == VERDICT:
            done[event.process].add(window)
        elif event.name in WITH_REASON and event.text("reason"):
            reasons[event.process][window] = f"{event.text('status')} {event.text('reason')}".strip()
    found = {}
    for role in roles:
        account = found[role] = Account()
        for window in windows:
            reason = reasons[role].get(window)
            if reason is not None and not _mended(role, window, events=done):
                account.reasons[window] = reason
            elif window in done[role]:
                account.done.append(window)
            else:
                account.untold.append(window)
    return found


def _mended(role: str, window: int, *, events: Mapping[str, set[int]]) -> bool:
    """A miner or trainer that failed once and was done with it later; a verdict is published of a void window too."""
    return window in events[role] and not role.startswith("validator")
