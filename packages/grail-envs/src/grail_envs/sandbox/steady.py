"""The same world for every run of an answer: wall clocks that count reads, and randomness that follows the job's seed.

An honest answer that looks at the clock, draws a number or makes a uuid would otherwise be right on one machine and wrong on
another. This is no wall (code that wants real entropy finds it); the walls are the kernel's. `time.monotonic` and `sleep`
stay real, since event loops and threads wait by them. Standard library only.
"""

from __future__ import annotations

import datetime
import os
import random
import time
from typing import Any

EPOCH_NS = 1_700_000_000_000_000_000
STEP_NS = 10_000


class _Clock:
    """Nanoseconds that advance by one step at each read."""

    def __init__(self) -> None:
        self._now = EPOCH_NS

    def nanoseconds(self) -> int:
        self._now += STEP_NS
        return self._now

    def seconds(self) -> float:
        return self.nanoseconds() / 1e9


def steady(seed: int) -> None:
    """Make clocks and randomness of this process follow `seed` from now on."""
    clock = _Clock()
    source = random.Random(seed)
    for name in ("time", "perf_counter", "process_time", "thread_time"):
        setattr(time, name, clock.seconds)
        setattr(time, f"{name}_ns", clock.nanoseconds)
    for name in ("localtime", "gmtime", "ctime"):
        setattr(time, name, _with_default(getattr(time, name), clock))
    real_strftime, localtime = time.strftime, time.localtime
    time.strftime = lambda form, moment=None: real_strftime(form, localtime() if moment is None else moment)
    _steady_dates(clock)
    real_seed = random.Random.seed

    def reseed(self: random.Random, a: Any = None, version: int = 2) -> None:
        real_seed(self, source.getrandbits(64) if a is None else a, version)

    random.Random.seed = reseed  # type: ignore[method-assign]
    os.urandom = source.randbytes
    random._urandom = source.randbytes  # type: ignore[attr-defined]
    random.seed(seed)


def _with_default(real: Any, clock: _Clock) -> Any:
    return lambda seconds=None: real(clock.seconds() if seconds is None else seconds)


def _steady_dates(clock: _Clock) -> None:
    """`now`, `utcnow` and `today` of the date classes, by subclasses that everything else treats as the classes themselves."""
    real_moment, real_date = datetime.datetime, datetime.date

    class Like(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real_moment if cls.__name__ == "datetime" else real_date)

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

    for made, name in ((Moment, "datetime"), (Day, "date")):
        made.__name__ = made.__qualname__ = name
        made.__module__ = "datetime"
        setattr(datetime, name, made)
