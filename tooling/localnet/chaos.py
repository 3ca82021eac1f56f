"""`--chaos`: SIGKILL to each role once while the network runs, as a power cut would.

The moments are chosen where a kill hurts: a miner while it generates, a validator a block before first sight begins (it may
miss it, and then has to say so), the trainer while it waits for verdicts or learns, the beacon relay before the next seed.
One strike per window from the second on, so that the run can be seen to recover before the next. What was struck is kept in
the state file: a resumed run does not strike twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grail_core.protocol.constants import WINDOW_LENGTH
from tooling.localnet.status import NetworkStatus


@dataclass(frozen=True)
class Strike:
    """Kill `process` in the window with this index (0 is the first of the run), `offset` blocks after its first block."""

    process: str
    window_index: int
    offset: int


def strikes(miners: Iterable[str], validators: Iterable[str], windows: int) -> tuple[Strike, ...]:
    """One strike per role; short runs get them closer together, never in the first window's first half."""
    first_miner, first_validator = next(iter(miners)), next(iter(validators))
    plan = ((first_miner, 2), ("beacon", 24), (first_validator, 29), ("trainer", 10))
    latest = max(1, windows - 1)
    return tuple(
        Strike(process, min(latest, 1 + i // max(1, -(-len(plan) // latest))), offset)
        for i, (process, offset) in enumerate(plan)
    )


def due(plan: Iterable[Strike], done: Iterable[str], status: NetworkStatus) -> list[Strike]:
    """Strikes whose moment has come and that were not made yet."""
    if status.first_window is None:
        return []
    made, first = set(done), status.first_window
    return [s for s in plan if s.process not in made and status.block >= first + WINDOW_LENGTH * s.window_index + s.offset]
