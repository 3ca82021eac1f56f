"""Moves the development chain's virtual clock as the conductor says, and knows when patience is at its end.

A role that is dead or hangs holds the clock for `patience_s` of real time at most. Then the run goes on without it, until it
gives a sign of life; what it was not waited for is remembered and told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from grail_core.chain.development.local import LocalChain
from tooling.localnet.conductor import Advance, Hold, Known, Need, Over, Stand, Stands, Step, step
from tooling.localnet.report.facts import NotWaitedFact


class VirtualClock:
    """The clock of one start of a run.

    Args:
        told: called with each role that is waited for no longer. clock: monotonic seconds; a test passes its own.
    """

    def __init__(
        self,
        chain: LocalChain,
        timetable: Stands,
        patience_s: float,
        told: Callable[[NotWaitedFact], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._timetable = timetable
        self._patience_s = patience_s
        self._told = told
        self._clock = clock
        self._stand: Stand | None = None
        self._since: dict[Need, float] = {}  # when the clock began to wait for it at this stand
        self._absent: dict[str, int] = {}  # role → its signs of life when patience was at its end
        self._given_up: set[Need] = set()  # a role that lives and does not do it holds the clock for it once

    def tick(
        self, known: Known, signs: Mapping[str, int], *, halts_ms: Collection[int] = (), away: Collection[str] = ()
    ) -> Step:
        """Move the clock if it may move. Returns what was done.

        Args:
            signs: how many events each process wrote so far. halts_ms: see `conductor.step`. away: roles that stay away on
                purpose, and are not waited for.
        """
        self._absent = {role: count for role, count in self._absent.items() if signs.get(role, 0) == count}
        taken = step(
            self._timetable,
            known,
            self._chain.now_ms(),
            absent=self._absent.keys() | set(away),
            given_up=self._given_up,
            halts_ms=halts_ms,
        )
        if isinstance(taken, Hold):
            self._wait(taken, signs)
        elif isinstance(taken, Advance):
            self._chain.advance_ms(taken.to_ms - self._chain.now_ms())
        return taken

    def _wait(self, hold: Hold, signs: Mapping[str, int]) -> None:
        now = self._clock()
        if self._stand is None or self._stand.at_ms != hold.stand.at_ms:
            self._stand, self._since = hold.stand, {}
        self._since = {need: self._since.get(need, now) for need in hold.waits_for}
        for need, since in self._since.items():
            if now - since >= self._patience_s:
                self._given_up.add(need)
                self._absent[need.role] = signs.get(need.role, 0)
                block = self._chain.current_block()
                self._told(NotWaitedFact(need.role, need.task.value, need.window, block, round(now - since, 1)))


def describe(taken: Step) -> str:
    """What the clock waits for, for people; "" where it moves."""
    needs = taken.waits_for if isinstance(taken, Hold) else taken.without if isinstance(taken, Over) else ()
    return ", ".join(map(str, needs[:3])) + (f" and {len(needs) - 3} more" if len(needs) > 3 else "")
