"""The drawn files of a window in the order in which it is settled whether they can be had.

All are fetched side by side, each by a thread of its own, while what has come is judged, one after the other. A file that is
refused at once is asked for again some blocks later; that, a store that drips and a file that waits for room on the disk hold
up no other. How a file is fetched is not known here: that is `bring`'s.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from grail_core.protocol.types import Hotkey
from grail_validator.cases import Interrupted, Sealed
from grail_validator.disk_room import DiskRoom, Place

MOST_AT_ONCE: Final = 256
"""Files that are fetched side by side: a subnet's hotkeys, so that none waits for another's store."""
_POLL_SECONDS = 0.2
_JOIN_SECONDS = 2.0  # that ending waits for the threads, which a stop ends within; they keep no process from ending


class Tried(Enum):
    """How a try ended."""

    HAD = "had"
    REFUSED = "refused"  # at once: worth another try
    LOST = "lost"  # it took its time, and did not come
    BEHIND = "behind"  # it is slow, and others wait for its room


@dataclass(frozen=True)
class Patience:
    """Seconds: what one file may take once it has room, and all tries at all files together."""

    one_s: float
    all_s: float


@dataclass
class Arrivals:
    """One window's drawn files.

    Args:
        bring: tries to fetch one file within so many seconds; ends soon once `ending` is set. May raise: that is raised where
            the files are taken from.
        wait_for_try: until the n-th try (from 0) is due; False: `ending` was set first.
        room: what they may take of the disk together.
    """

    bring: Callable[[Sealed, float], Tried]
    wait_for_try: Callable[[int, threading.Event], bool]
    tries: int
    room: DiskRoom
    patience: Patience
    free: Callable[[Sealed], None]
    awaited: Callable[[], None] = lambda: None  # told once, when the first file has to be asked for again
    clock: Callable[[], float] = field(default=time.monotonic)
    had: set[Hotkey] = field(default_factory=set)
    unsought: set[Hotkey] = field(default_factory=set)  # this machine had no room for it while there was time
    _ending: threading.Event = field(default_factory=threading.Event)
    _settled: queue.SimpleQueue[Sealed | BaseException] = field(default_factory=queue.SimpleQueue)
    _places: dict[Hotkey, Place] = field(default_factory=dict)
    _until: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _locks: list[threading.Lock] = field(default_factory=list)
    _told: bool = False

    def take(
        self, drawn: Sequence[Sealed], stop: threading.Event, idle: Callable[[bool], None] = lambda _: None
    ) -> Generator[Sealed]:
        """Each file once, when it is settled; it is freed when the next one is asked for.

        Args:
            idle: told True before there is nothing to do but to wait, and False after.

        Raises:
            Interrupted: `stop` was set.
            DiskFullError, and whatever else `bring` raised.
        """
        ordered = sorted(drawn, key=lambda one: (one.seal.size, one.entry.neuron.hotkey))
        self._locks = [threading.Lock() for _ in range(self.tries)]
        for one, place in zip(ordered, self.room.queue([one.seal.size for one in ordered]), strict=True):
            self._places[one.entry.neuron.hotkey] = place
        todo = deque(ordered)
        threads = [
            threading.Thread(target=self._work, args=(todo,), name=f"file-{number}", daemon=True)
            for number in range(min(MOST_AT_ONCE, len(ordered)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in ordered:
                one = self._next(stop, idle)
                yield one
                self._judged(one)
        finally:
            self._ending.set()
            self.room.close()
            ends = time.monotonic() + _JOIN_SECONDS
            for thread in threads:
                thread.join(max(0.0, ends - time.monotonic()))

    @property
    def ending(self) -> threading.Event:
        return self._ending

    def _next(self, stop: threading.Event, idle: Callable[[bool], None]) -> Sealed:
        if stop.is_set():
            raise Interrupted
        with _told(idle, self._settled.empty()):
            while True:
                try:
                    found = self._settled.get(timeout=_POLL_SECONDS)
                    break
                except queue.Empty:
                    if stop.is_set():
                        raise Interrupted from None
        if isinstance(found, BaseException):
            raise found
        return found

    def _judged(self, one: Sealed) -> None:
        hotkey = one.entry.neuron.hotkey
        if hotkey in self.had:
            self.free(one)
            self.room.leave(self._places[hotkey], filled=True)

    # --- in the threads -------------------------------------------------------------------------------------------------

    def _work(self, todo: deque[Sealed]) -> None:
        while not self._ending.is_set():
            try:
                one = todo.popleft()
            except IndexError:
                return
            try:
                self._settle(one)
                self._settled.put(one)
            except BaseException as error:  # noqa: BLE001 - raised where the files are taken from
                self._settled.put(error)

    def _settle(self, one: Sealed) -> None:
        for number in range(self.tries):
            if not self._due(number):
                return
            if self._try(one, again=number > 0) is not Tried.REFUSED:
                return

    def _due(self, number: int) -> bool:
        """One thread asks the chain, for all."""
        with self._locks[number]:
            if number and not self._told:
                self._told = True
                self.awaited()
            return self.wait_for_try(number, self._ending)

    def _try(self, one: Sealed, *, again: bool) -> Tried:
        """With room for it. Who was behind its pace waits behind all others for another try."""
        hotkey = one.entry.neuron.hotkey
        place = self._places[hotkey]
        if again:
            self.room.again(place)
        until = self._ends_at()
        while True:
            has_room = self.room.wait(place, until)
            left_s = until - self.clock()
            if not has_room or left_s <= 0:
                if has_room:
                    self.room.leave(place, filled=False)
                if not place.lapses:
                    self.unsought.add(hotkey)
                return Tried.LOST
            tried = self.bring(one, min(self.patience.one_s, left_s))
            if tried is Tried.HAD:
                self.room.filled(place)
                self.had.add(hotkey)
                return tried
            if tried is not Tried.BEHIND:
                self.room.leave(place, filled=False)
                if tried is Tried.LOST and left_s < self.patience.one_s and not place.lapses and not again:
                    self.unsought.add(hotkey)  # the wait for room has cost it what was its own
                return tried
            self.room.to_the_back(place)

    def _ends_at(self) -> float:
        """For all tries: counted from the first."""
        with self._lock:
            if self._until is None:
                self._until = self.clock() + self.patience.all_s
            return self._until


@contextmanager
def _told(idle: Callable[[bool], None], waiting: bool) -> Generator[None]:
    if waiting:
        idle(True)
    yield
    if waiting:
        idle(False)
