"""The bytes that a window's drawn files may take on this disk together: what is being fetched, and what waits to be judged.

A file gets room for its sealed size before its first byte is asked for, and gives it back once it is judged. Where not all
have room at once the smallest goes first, so that no file of the largest size holds up a smaller one, and who held room and
did not use it goes behind everybody who has not had any.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

_POLL_SECONDS: Final = 0.5  # a wait looks at its clock so often


@dataclass(eq=False)
class Place:
    """One file's place in the queue, then its room."""

    size: int
    lapses: int  # how often it had room and did not use it
    number: int
    has_room: bool = False

    @property
    def order(self) -> tuple[int, int, int]:
        return self.lapses, self.size, self.number


class DiskRoom:
    """Thread-safe. `total` and sizes are bytes; `clock` gives seconds.

    `on_room` is told, before a place gets its room, how many bytes all places will then have that are still being filled.
    """

    def __init__(
        self, total: int, *, on_room: Callable[[int], None] = lambda _: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._taken = 0  # by all that have room
        self._filled = 0  # of these, by files that are whole
        self._queue: list[Place] = []
        self._numbers = count()
        self._closed = False
        self._changed = threading.Condition()
        self._on_room, self._clock = on_room, clock

    def queue(self, sizes: Sequence[int]) -> list[Place]:
        """A place for each file, all of them before anybody gets room: who asks first gains nothing by it."""
        with self._changed:
            places = [Place(size, 0, next(self._numbers)) for size in sizes]
            self._queue += places
            return places

    def wait(self, place: Place, until: float) -> bool:
        """Whether it has room. False: not by `until` (of the clock), or nobody gets any more."""
        with self._changed:
            while not place.has_room:
                self._admit()
                if place.has_room:
                    break
                left = until - self._clock()
                if left <= 0 or self._closed:
                    self._queue.remove(place)
                    self._changed.notify_all()  # it may have stood before others that fit
                    return False
                self._changed.wait(min(left, _POLL_SECONDS))
            return True

    def filled(self, place: Place) -> None:
        """It is whole: it keeps its room until it leaves."""
        with self._changed:
            self._filled += place.size

    def leave(self, place: Place, *, filled: bool) -> None:
        """Its bytes are off the disk."""
        with self._changed:
            self._taken -= place.size
            self._filled -= place.size if filled else 0
            place.has_room = False
            self._changed.notify_all()

    def to_the_back(self, place: Place) -> None:
        """It gives its room to those who wait, and waits behind them."""
        self.leave(place, filled=False)
        with self._changed:
            place.lapses += 1
            self._queue.append(place)

    def again(self, place: Place) -> None:
        """It left, and asks once more."""
        with self._changed:
            self._queue.append(place)

    @property
    def is_wanted(self) -> bool:
        """Does somebody wait?"""
        with self._changed:
            return bool(self._queue)

    def close(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _admit(self) -> None:
        """Room for the first of the queue, as long as they fit. None is passed over: what is behind it fits it no sooner."""
        while self._queue and not self._closed:
            first = min(self._queue, key=lambda place: place.order)
            if self._taken + first.size > self._total:
                return
            self._on_room(self._taken - self._filled + first.size)
            self._queue.remove(first)
            self._taken += first.size
            first.has_room = True
            self._changed.notify_all()
