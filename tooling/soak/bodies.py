"""Whether validators that scored a window judged its miners alike, and whether a fault outside explains it where they did not.

Two validators whose stores answered at different moments see different seals; that is told apart from a disagreement. What
follows from it, other scores and weights for as long as scores look back, is none: they have to follow from what each published
(`agreement.recompute`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grail_core.protocol import WindowStatus
from grail_core.protocol.types import Window
from tooling.localnet.agreement import Verdicts
from tooling.soak.schedule import Fault

JUDGED_AFTER_BLOCKS = 45
"""After a window's first block: its files are fetched and its verdict is out."""
RECOVERY_BLOCKS = 15
"""After a fault ends: connections are made anew and pauses end."""


@dataclass(frozen=True)
class Bodies:
    """`alike` and `divided` are the windows that every validator scored."""

    alike: tuple[int, ...]
    divided: Mapping[int, str]  # window → the fault that explains it, "" for none


def compared_bodies(
    published: Mapping[str, Verdicts], windows: range, faults: Sequence[Fault], first: int, window_length: int
) -> Bodies:
    """Args: published: by validator. faults: those that were brought about. first: first block of the run's first window."""
    alike, divided = [], {}
    for window in windows:
        bodies = [verdicts[Window(window)].body for verdicts in published.values() if Window(window) in verdicts]
        if len(bodies) < len(published) or any(body.status is not WindowStatus.SCORED for body in bodies):
            continue
        if len({tuple(str(miner.to_json()) for miner in body.miners) for body in bodies}) == 1:
            alike.append(window)
        else:
            divided[window] = next((str(one) for one in faults if _near(one, window, first, window_length)), "")
    return Bodies(tuple(alike), divided)


def _near(fault: Fault, window: int, first: int, window_length: int) -> bool:
    begins, ends = fault.begins(first, window_length), fault.ends(first, window_length)
    return begins <= window + JUDGED_AFTER_BLOCKS and ends + RECOVERY_BLOCKS >= window
