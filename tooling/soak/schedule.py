"""Which part of the outside fails in which window, and for how long: a function of the seed.

Faults come one at a time, so that what a window lost can be laid to one of them; each lasts some blocks and ends, and a window
without any lies between two. Every kind has its turn before one comes again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

CHAIN: Final = "chain"
STORE: Final = "store"
BEACON: Final = "beacon"

KINDS: Final[dict[str, tuple[tuple[str, int, int], ...]]] = {
    # what, and from how many to how many blocks it lasts
    CHAIN: (
        ("frozen", 8, 25),
        ("silent", 4, 12),
        ("refused", 4, 20),
        ("lagging", 10, 25),
        ("unfinal", 10, 25),
        ("flaky", 10, 28),
        ("throttled", 4, 20),
        ("does_nothing", 20, 28),
    ),
    STORE: (
        ("latency", 15, 28),
        ("resets", 10, 28),
        ("throttled", 5, 15),
        ("truncated", 10, 28),
        ("stale_lists", 10, 28),
        ("drip", 5, 15),
        ("away", 3, 10),
    ),
    BEACON: (("away", 3, 8), ("away", 60, 90)),  # the longer one costs whole windows: they have to be void for everybody
}
QUIET_WINDOWS: Final = 2
"""After the start, and after each fault."""


@dataclass(frozen=True)
class Fault:
    """`blocks` from `offset` blocks after the first one of the run's window `window` on."""

    part: str
    what: str
    window: int
    offset: int
    blocks: int

    def __str__(self) -> str:
        return f"{self.part}: {self.what} for {self.blocks} blocks"

    def begins(self, first_block: int, window_length: int) -> int:
        return first_block + self.window * window_length + self.offset

    def ends(self, first_block: int, window_length: int) -> int:
        return self.begins(first_block, window_length) + self.blocks


def faults(seed: int, windows: int, window_length: int) -> Iterator[Fault]:
    """In their order; the last one ends before the run's last window, in which everything has to be well again."""
    chosen = random.Random(f"grail soak {seed}")
    every = [(part, *kind) for part, kinds in KINDS.items() for kind in kinds]
    window = QUIET_WINDOWS
    while True:
        chosen.shuffle(every)
        for part, what, least, most in every:
            offset, blocks = chosen.randrange(window_length), chosen.randint(least, most)
            last = window + (offset + blocks) // window_length
            if last >= windows - 1:
                return
            yield Fault(part, what, window, offset, blocks)
            window = last + QUIET_WINDOWS
