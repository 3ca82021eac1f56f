"""The same world for every run of an answer: wall clocks that count reads, and randomness that follows the job's seed.

An honest answer that looks at the clock, draws a number or makes a uuid would otherwise be right on one machine and wrong on
another. This is no wall (code that wants real entropy finds it); the walls are the kernel's. Where code is loaded before the
fork, the clocks are put in place before that too: a name that a module binds when it is imported is bound to these.

`time.monotonic` and `sleep` stay real for answers, since event loops and threads wait by them. With `waits` they are steady
too: a wait takes its real time, and moves the clock by what was asked for, so that an event loop's timeout does not depend on
how busy the machine is. Timeouts of threads, queues, subprocesses and signals stay real. Standard library only.
"""

from __future__ import annotations

import datetime
import os
import random
import selectors
import threading
import time
from types import ModuleType
from typing import Any

EPOCH_NS = 1_700_000_000_000_000_000
STEP_NS = 10_000
_SEED = random.Random.seed


class _Clock:
    """Nanoseconds that advance by one step at each read."""

    def __init__(self) -> None:
        self._now = EPOCH_NS

    def nanoseconds(self) -> int:
        self._now += STEP_NS
        return self._now

    def move(self, seconds: float) -> None:
        """Let what was waited pass."""
        self._now += max(0, int(seconds * 1e9))

    def begin(self, later_s: int) -> None:
        """Start again, at the epoch or later."""
        self._now = EPOCH_NS + later_s * 10**9

    def seconds(self) -> float:
        return self.nanoseconds() / 1e9


class Steady:
    """What takes the place of the clocks and the source of randomness. Made once before the forks, put in place after one.

    `waits`: monotonic clocks are steady too, for what waits by event loops.
    """

    def __init__(self, *, waits: bool = False) -> None:
        self._clock = clock = _Clock()
        self._source = source = random.Random(0)
        real_strftime, real_localtime, real_seed = time.strftime, time.localtime, _SEED

        def strftime(form: str, moment: Any = None) -> str:
            return real_strftime(form, real_localtime(clock.seconds()) if moment is None else moment)

        def reseed(self: random.Random, a: Any = None, version: int = 2) -> None:
            real_seed(self, source.getrandbits(64) if a is None else a, version)

        self._places: list[tuple[Any, str, Any]] = [(time, "strftime", strftime)]
        for name in ("time", "perf_counter", "process_time", "thread_time"):
            self._places += [(time, name, clock.seconds), (time, f"{name}_ns", clock.nanoseconds)]
        for name in ("localtime", "gmtime", "ctime"):
            self._places.append((time, name, _with_default(getattr(time, name), clock)))
        dates = {made.__name__: made for made in _steady_dates(clock)}
        self._dates: list[tuple[Any, str, Any]] = [(datetime, name, made) for name, made in dates.items()]
        self.dates = ModuleType("datetime")
        """`datetime` with these classes, for code that is loaded before they can be put in place."""
        vars(self.dates).update(vars(datetime) | dates)
        self._places += [(random.Random, "seed", reseed), (os, "urandom", source.randbytes)]
        self._places.append((random, "_urandom", source.randbytes))
        if hasattr(os, "getrandom"):
            self._places.append((os, "getrandom", lambda size, flags=0: source.randbytes(size)))
        for name, read in (("clock_gettime", clock.seconds), ("clock_gettime_ns", clock.nanoseconds)):
            if hasattr(time, name):
                self._places.append((time, name, lambda clk_id, read=read: read()))
        if waits:
            self._places += _steady_waits(clock)

    def put_in_place(self, seed: int, later_s: int = 0, *, dates: bool = True) -> None:
        """Make clocks and randomness of this process follow `seed` from now on; there is no way back.

        The clock begins again, `later_s` seconds after the epoch: also for code that took hold of it before. Without `dates`
        the module `datetime` stays: compiled libraries that are imported while its classes are others crash.
        """
        self._clock.begin(later_s)
        _SEED(self._source, seed)
        for owner, name, value in [*self._places, *(self._dates if dates else [])]:
            setattr(owner, name, value)
        random.seed(seed)


def _with_default(real: Any, clock: _Clock) -> Any:
    return lambda seconds=None: real(clock.seconds() if seconds is None else seconds)


def _steady_waits(clock: _Clock) -> list[tuple[Any, str, Any]]:
    """Monotonic clocks, and what waits by them: each wait moves the clock by what was asked for, whatever it took."""
    real_sleep = time.sleep

    def sleep(seconds: float) -> None:
        real_sleep(seconds)
        clock.move(seconds)

    def waiting(real: Any) -> Any:
        def wait(self: Any, timeout: float | None = None) -> Any:
            ready = real(self, timeout)
            if not ready and timeout is not None and timeout > 0:
                clock.move(timeout)
            return ready

        return wait

    places: list[tuple[Any, str, Any]] = [
        (time, "monotonic", clock.seconds),
        (time, "monotonic_ns", clock.nanoseconds),
        (time, "sleep", sleep),
        (threading.Condition, "wait", waiting(threading.Condition.wait)),
    ]
    for kind in vars(selectors).values():
        if isinstance(kind, type) and issubclass(kind, selectors.BaseSelector) and "select" in vars(kind):
            places.append((kind, "select", waiting(vars(kind)["select"])))
    return places


def _steady_dates(clock: _Clock) -> list[type]:
    """`now`, `utcnow` and `today` of the date classes, by subclasses that everything else treats as the classes themselves."""
    real_of: dict[type, type] = {}

    class Like(type):
        """Of these classes alone, not of what somebody derives from them."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real_of.get(cls, ())) or super().__instancecheck__(instance)

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, real_of.get(cls, ())) or super().__subclasscheck__(kind)

    class Moment(datetime.datetime, metaclass=Like):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(clock.seconds(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.fromtimestamp(clock.seconds(), datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    class Day(datetime.date, metaclass=Like):
        @classmethod
        def today(cls) -> Any:
            return cls.fromtimestamp(clock.seconds())

    real_of |= {Moment: datetime.datetime, Day: datetime.date}
    for made, name in ((Moment, "datetime"), (Day, "date")):
        made.__name__ = made.__qualname__ = name
        made.__module__ = "datetime"
    return [Moment, Day]
