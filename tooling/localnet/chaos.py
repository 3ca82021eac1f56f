"""`--chaos`: SIGKILL to each role once while the network runs, as a power cut would.

The moments are chosen where a kill hurts: a miner while it generates, a validator a block before first sight begins (by the
real clock it may miss it, and then has to say so), the trainer while it waits for verdicts or learns, the beacon relay before
the next seed. A moment is a block, and some seconds of work after it; a virtual clock stands at that block until the strike
is made. One strike per window from the second on, so that the run can be seen to recover before the next. What was struck is
kept in the state file: a resumed run does not strike twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.types import Block
from tooling.localnet.status import NetworkStatus


@dataclass(frozen=True)
class Strike:
    """Kill `process` in the window with this index (0 is the first of the run), `offset` blocks after its first block and
    `seconds` of real time after that block was there."""

    process: str
    window_index: int
    offset: int
    seconds: float = 0.0

    def block(self, first_window: int) -> Block:
        return Block(first_window + WINDOW_LENGTH * self.window_index + self.offset)


def strikes(
    miners: Iterable[str], validators: Iterable[str], windows: int, params: NetworkParameters = LOCALNET
) -> tuple[Strike, ...]:
    """One strike per role; short runs get them closer together, never in the first window's first half."""
    first_miner, first_validator = next(iter(miners)), next(iter(validators))
    plan = (
        (first_miner, params.seed_beacon_after_T, 1.5),
        ("beacon", 24, 0.0),
        (first_validator, WINDOW_LENGTH - 1, 0.0),
        ("trainer", params.challenge_after_D + 1, 4.5),
    )
    latest = max(1, windows - 1)
    return tuple(
        Strike(process, min(latest, 1 + i // max(1, -(-len(plan) // latest))), offset, seconds)
        for i, (process, offset, seconds) in enumerate(plan)
    )


def due(plan: Iterable[Strike], done: Iterable[str], status: NetworkStatus) -> list[Strike]:
    """Strikes whose block has come and that were not made yet."""
    first = status.first_window
    return [] if first is None else [s for s in ahead(plan, done) if status.block >= s.block(first)]


def ahead(plan: Iterable[Strike], done: Iterable[str]) -> list[Strike]:
    """Strikes that were not made yet."""
    made = set(done)
    return [s for s in plan if s.process not in made]
