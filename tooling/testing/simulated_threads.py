"""Threads of which one runs at a time, on a clock that goes on when all of them wait: the same schedule in every run.

It stands in for `grail_miner.pipeline.monitor.Threads`, so that a test of the real stages says what happens in which order and
how long it takes, whatever the machine does. A thread runs until it waits; then the first one, in the order they were started,
whose condition holds; and where none does, the clock goes to the earliest moment that somebody sleeps until.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Turn:
    """A thread. `ready` and `until`: what it waits for."""

    name: str
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ready: Callable[[], bool] = lambda: True
    until: float | None = None
    waiting: bool = False


class SimulatedThreads:
    """A `Monitor`; its maker's thread is one of its threads."""

    def __init__(self) -> None:
        self._now = 0.0
        self._stuck = False
        self._mine = threading.local()
        self._mine.turn = _Turn("caller")
        self._turns: list[_Turn] = [self._mine.turn]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> object:
        return self  # nobody else runs

    def __exit__(self, *_: object) -> None:
        pass

    def now(self) -> float:
        return self._now

    def changed(self) -> None:
        """Whoever waits is asked again anyway."""

    def sleep(self, seconds: float) -> None:
        """Be at work for so long."""
        until = self._now + seconds
        while self._now < until:
            self._wait(lambda: False, until)

    def wait_for(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        until = None if timeout is None else self._now + timeout
        while not ready() and (until is None or self._now < until):
            self._wait(ready, until)
        return ready()

    def start(self, name: str, work: Callable[[], None]) -> None:
        turn = _Turn(name, waiting=True)

        def run() -> None:
            turn.go.acquire()
            self._mine.turn = turn
            try:
                work()
            finally:
                self._turns.remove(turn)
                self._hand_on()

        self._turns.append(turn)
        self._threads.append(threading.Thread(target=run, name=name, daemon=True))
        self._threads[-1].start()

    def join(self) -> None:
        mine = self._mine.turn  # others ask whether it is so
        self.wait_for(lambda: self._turns == [mine])
        while self._threads:
            self._threads.pop().join()

    def _wait(self, ready: Callable[[], bool], until: float | None) -> None:
        turn: _Turn = self._mine.turn
        turn.ready, turn.until, turn.waiting = ready, until, True
        self._hand_on()
        turn.go.acquire()
        if self._stuck:
            names = ", ".join(sorted(one.name for one in self._turns))
            raise AssertionError(f"at {self._now:g} s everybody waits for somebody else: {names}")

    def _hand_on(self) -> None:
        waiting = [turn for turn in self._turns if turn.waiting]
        following = next((turn for turn in waiting if turn.ready() or self._due(turn)), None)
        if following is None:
            sleeping = [turn for turn in waiting if turn.until is not None]
            if not sleeping:
                self._stuck = True
                following = waiting[0]
            else:
                following = min(sleeping, key=lambda turn: turn.until or 0.0)
                self._now = following.until or 0.0
        following.waiting = False
        following.go.release()

    def _due(self, turn: _Turn) -> bool:
        return turn.until is not None and turn.until <= self._now
