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


class Steady:
    """What takes the place of the clocks and the source of randomness. Made once before the forks, put in place after one."""

    def __init__(self) -> None:
        self._clock = clock = _Clock()
        self._source = source = random.Random(0)
        real_strftime, real_localtime, real_seed = time.strftime, time.localtime, random.Random.seed

        def strftime(form: str, moment: Any = None) -> str:
            return real_strftime(form, real_localtime(clock.seconds()) if moment is None else moment)

        def reseed(self: random.Random, a: Any = None, version: int = 2) -> None:
            real_seed(self, source.getrandbits(64) if a is None else a, version)

        self._places: list[tuple[Any, str, Any]] = [(time, "strftime", strftime)]
        for name in ("time", "perf_counter", "process_time", "thread_time"):
            self._places += [(time, name, clock.seconds), (time, f"{name}_ns", clock.nanoseconds)]
        for name in ("localtime", "gmtime", "ctime"):
            self._places.append((time, name, _with_default(getattr(time, name), clock)))
        self._places += [(datetime, made.__name__, made) for made in _steady_dates(clock)]
        self._places += [(random.Random, "seed", reseed), (os, "urandom", source.randbytes)]
        self._places.append((random, "_urandom", source.randbytes))

    def put_in_place(self, seed: int) -> None:
        """Make clocks and randomness of this process follow `seed` from now on; there is no way back."""
        self._source.seed(seed)
        for owner, name, value in self._places:
            setattr(owner, name, value)
        random.seed(seed)


def _with_default(real: Any, clock: _Clock) -> Any:
    return lambda seconds=None: real(clock.seconds() if seconds is None else seconds)


def _steady_dates(clock: _Clock) -> list[type]:
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
    return [Moment, Day]
