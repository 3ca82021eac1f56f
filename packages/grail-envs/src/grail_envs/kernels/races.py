"""Who touches one place, and what lies between: on a GPU programs run at once, and so do the lanes of one program.

The interpreter runs programs one after the other, and a race would go unseen. Here the last program that stored to each byte
is remembered, and when: another one that stores there, or mixes stores with atomics, is refused; it may load it if the one that
stored has released it (a `tl.debug_barrier()` behind a store of many lanes, then an atomic on one place) and it has itself done
an atomic on that place since. Within a program, what one lane has stored another touches only behind a barrier, or behind an
atomic on one place, whose result all lanes wait for. Left out: what a program does with the value that an atomic gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_Places = npt.NDArray[np.int64]
_NEVER: Final = 2**62


class RaceError(Exception):
    """Two programs of one launch, or two lanes of one, meet in a place with nothing between; the text says how."""


@dataclass(frozen=True)
class Access:
    """The bytes `places` of a buffer; `lanes` says for each which element of a tensor of `whole` elements touches it."""

    buffer: int
    places: _Places
    lanes: _Places
    whole: int

    @property
    def marks(self) -> _Places:
        """Equal where the same lane is at work: tensors of one size lie in one way."""
        return (np.int64(self.whole) << np.int64(32)) | self.lanes.astype(np.int64)


class Races:
    """Programs are numbered through all launches, so nothing is cleared between two; a launch's own number means several."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._stored = [np.zeros(size, dtype=np.int32) for size in sizes]
        self._updated = [np.zeros(size, dtype=np.int32) for size in sizes]
        self._lanes = [np.zeros(size, dtype=np.int64) for size in sizes]
        self._released = [np.zeros(size, dtype=np.int64) for size in sizes]
        self._barred = [np.zeros(size, dtype=np.int32) for size in sizes]
        self._launch = self._program = self._section = self._time = 1
        self._programs = 1
        self._has_synchronised = False
        self._waiting: list[Access] = []
        self._seen: npt.NDArray[np.int64] | None = None
        self._clocks: dict[tuple[int, int], npt.NDArray[np.int64]] = {}

    def begin_launch(self, programs: int = 1) -> None:
        """What was done before is done."""
        self._program += 1
        self._launch = self._program
        self._programs = programs
        self._clocks = {}

    def begin_program(self) -> None:
        """The next program of this launch."""
        self._program += 1
        self._section += 1
        self._has_synchronised = False
        self._waiting = []
        self._seen = None

    def barrier(self) -> None:
        """All lanes of the program have come here."""
        self._section += 1
        self._time += 1
        for one in self._waiting:
            self._released[one.buffer][one.places] = self._time
        self._waiting = []

    def store(self, access: Access) -> None:
        """A store to these bytes.

        Raises:
            RaceError: another program has written there, or another lane since the last barrier.
        """
        buffer, places = access.buffer, access.places
        if self._others(self._stored[buffer], places) or self._others(self._updated[buffer], places):
            raise RaceError("writes what another program of the launch writes, without an atomic")
        if access.whole > 1:
            self._check_lanes(access, "writes")
        self._time += 1
        self._stored[buffer][places] = self._program
        self._lanes[buffer][places] = access.marks
        self._barred[buffer][places] = self._section
        self._released[buffer][places] = self._time if access.whole == 1 else _NEVER
        if access.whole > 1:
            self._waiting.append(access)

    def update(self, access: Access, waits: bool = True, releases: bool = True) -> None:
        """An atomic operation on these bytes; of one place, it waits for what was released there and releases itself.

        Raises:
            RaceError: another program has stored there without one.
        """
        buffer, places = access.buffer, access.places
        if self._others(self._stored[buffer], places):
            raise RaceError("updates what another program of the launch writes without an atomic")
        before = self._updated[buffer][places]
        is_shared = (before >= self._launch) & (before != self._program)
        self._updated[buffer][places] = np.where(is_shared, self._launch, self._program)
        if access.whole == 1:
            self._section += 1  # its result goes to all lanes, which wait for it
        if access.whole == 1 and (waits or releases):
            self._meet((buffer, int(places[0])), waits, releases)

    def load(self, access: Access) -> None:
        """A load of these bytes.

        Raises:
            RaceError: another program has written there and this one has not waited for it, or another lane has.
        """
        buffer, places = access.buffer, access.places
        if not self._has_synchronised and self._others(self._updated[buffer], places):
            raise RaceError("reads what other programs of the launch update, with no atomic of its own before")
        writers = self._stored[buffer][places]
        others = (writers >= self._launch) & (writers != self._program)
        if others.any():
            seen = self._seen
            if seen is None or (self._released[buffer][places[others]] > seen[writers[others] - self._launch]).any():
                raise RaceError("reads what another program of the launch writes, and did not wait for it by an atomic")
        self._check_lanes(access, "reads")

    def _check_lanes(self, access: Access, verb: str) -> None:
        buffer, places = access.buffer, access.places
        fresh = (self._stored[buffer][places] == self._program) & (self._barred[buffer][places] == self._section)
        same = (self._lanes[buffer][places] == access.marks) & (access.whole > 1)
        if (fresh & ~same).any():
            raise RaceError(f"{verb} what another lane of the program has stored, without tl.debug_barrier() between")

    def _meet(self, place: tuple[int, int], waits: bool, releases: bool) -> None:
        """The times up to which this program sees each other one's stores, joined with those that were left at the place."""
        if self._seen is None:
            self._seen = np.zeros(self._programs + 2, dtype=np.int64)
        if waits:
            self._has_synchronised = True
            if place in self._clocks:
                np.maximum(self._seen, self._clocks[place], out=self._seen)
        if releases:
            self._time += 1
            self._seen[self._program - self._launch] = self._time
            self._clocks[place] = np.maximum(self._clocks.get(place, 0), self._seen)

    def _others(self, programs: npt.NDArray[np.int32], places: _Places) -> bool:
        found = programs[places]
        return bool(((found >= self._launch) & (found != self._program)).any())


def one_value_each(addresses: npt.NDArray[Any], values: npt.NDArray[Any], mask: npt.NDArray[Any]) -> bool:
    """Whether a store gives every address one value, to the bit; which of several would stay, no GPU says."""
    shape = np.broadcast_shapes(addresses.shape, values.shape, mask.shape)
    inside = np.broadcast_to(mask, shape).astype(bool)
    at, stored = np.broadcast_to(addresses, shape)[inside], np.broadcast_to(values, shape)[inside]
    order = np.argsort(at, kind="stable")
    at, bits = at[order], stored[order].view(f"u{stored.dtype.itemsize}")
    return not bool(((at[1:] == at[:-1]) & (bits[1:] != bits[:-1])).any())
