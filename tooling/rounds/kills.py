"""A validator and the trainer that die in the middle of a step, in every third round, and are started again.

They die at one of the moments of `kill_points`, drawn by a seed among those that the same step had in the round before: an
exception that nobody catches unwinds the service, which is then made anew over the same disk and takes the step again. Half of
a torn write is there. What unwinding still does (a `finally`, a rollback) a SIGKILL would not: the tests of single roles kill
processes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from tooling.testing.kill_points import KillPoints

EVERY = 3
VALIDATOR_STEPS = ("sight seals", "sight files", "judge")
TRAINER_STEP = "merge"


class Killed(BaseException):
    """Nothing that a service catches."""


class Deaths(KillPoints):
    """A `world.Reaper`. Once made, this process counts its kill points for the rest of its life."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._thread = threading.get_ident()
        self._seen: int = 0
        self._die_at: int | None = None
        self._counted: dict[str, int] = {}
        self._doomed: set[str] = set()
        self.deaths: list[str] = []
        self.install()

    def begin_round(self, number: int) -> None:
        """`number` counts from 1."""
        kill = number % EVERY == 0
        self._doomed = {self._random.choice(VALIDATOR_STEPS), TRAINER_STEP} if kill else set()

    def meet(self, name: str, last_act: Callable[[], object] = lambda: None) -> None:
        if threading.get_ident() != self._thread:
            return
        here, self._seen = self._seen, self._seen + 1
        if here == self._die_at:
            self._die_at = None
            last_act()
            raise Killed(name)

    def __call__(self, step: str, work: Callable[[], object], again: Callable[[], None]) -> None:
        self._seen = 0
        most = self._counted.get(step, 0)
        self._die_at = self._random.randrange(most) if step in self._doomed and most else None
        try:
            work()
        except Killed as died:
            self.deaths.append(f"{step}: {died}")
            again()
            work()
        finally:
            self._die_at = None
        if step not in self._doomed:
            self._counted[step] = self._seen
