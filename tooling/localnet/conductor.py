"""How far the chain may go: blocks follow the work, so that a window takes as long as its work.

The virtual clock stands at a few moments of each window (a *stand*) until every role has done what the next blocks wait for,
then it moves to the next one in one jump. `step` is a pure function, like those of the roles: from the timetable of a run,
what the roles have done and what time it is to how far the clock goes, or what it waits for. Time, events and patience are
`clock`'s.

    START ─► OPEN T ─► CHALLENGE T−30 ─► OVERDUE T−30 ─► UPLOAD T ─► OPEN T+30 ─► … ─► REST

A window's groups are made from OPEN to OVERDUE, beside the judging and learning of the window before, as in real time; file and
seal are stored in its last blocks.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from grail_core.chain.base import blocks_in
from grail_core.chain.development.parameters import LocalChainParameters
from grail_core.protocol import WindowTimes
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Window
from grail_trainer.data.intake import PATIENCE_BLOCKS

SAFETY_BLOCKS = 1
"""GRAIL_MINER_SAFETY_BLOCKS of its miners: an upload takes no chain time, and a continued run begins late in a window."""


class Task(Enum):
    """What the clock may wait for, in words that follow "waits for NAME to"."""

    START = "start"  # its bucket is on the chain
    PUBLISH = "publish the first checkpoint"
    PRODUCE = "make the groups of"  # or to say why not
    MINE = "store file and seal of"  # or to say why not
    SIGHT = "see the uploads of"  # or to say that it missed them
    REVEAL = "reveal its update of"  # gradient work; or to say that it has none
    OPEN = "store its opening of"
    SIGHT_FILES = "see the files of"
    JUDGE = "judge"  # the verdict is in its bucket
    WEIGH = "set weights after"  # or to say why not
    TRAIN = "train on"  # checkpoint and log are in its bucket, or it passed the window over


@dataclass(frozen=True)
class Need:
    """One role has one thing to do; `window` is None where it belongs to none."""

    role: str
    task: Task
    window: Window | None = None

    def __str__(self) -> str:
        return f"{self.role} to {self.task.value}" + (f" window {self.window}" if self.window is not None else "")


@dataclass(frozen=True)
class Stand:
    """A moment at which the clock stands until `needs` are done."""

    name: str
    at_ms: int  # chain time
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True)
class Known:
    """What the roles have done so far. `first_window` is None until the first checkpoint is out."""

    first_window: Window | None = None
    done: AbstractSet[Need] = frozenset()
    awaiting: AbstractSet[Need] = frozenset()  # what needs more blocks first: a drawn file is asked for again


@dataclass(frozen=True)
class Hold:
    """The clock stands."""

    stand: Stand
    waits_for: tuple[Need, ...]


@dataclass(frozen=True)
class Advance:
    """The clock moves to `to_ms`, without what the absent have not done."""

    to_ms: int
    without: tuple[Need, ...] = ()


@dataclass(frozen=True)
class Over:
    """There is nothing left to move the clock for."""

    without: tuple[Need, ...] = ()


Step = Hold | Advance | Over


class Stands(Protocol):
    """What `step` asks of a timetable; see `Timetable.stands`."""

    def stands(self, known: Known, around_ms: int | None = None) -> tuple[Stand, ...]: ...


@dataclass(frozen=True)
class Timetable:
    """The stands of a run of `windows` windows on one network."""

    params: NetworkParameters
    chain: LocalChainParameters
    windows: int
    trainer: str
    validators: tuple[str, ...]
    miners: tuple[str, ...]

    def stands(self, known: Known, around_ms: int | None = None) -> tuple[Stand, ...]:
        """In the order of chain time. What is needed at some of them depends on what is done.

        Args:
            around_ms: leave out what is more than a window away from this chain time; None: all stands of the run.
        """
        first = known.first_window
        names = (self.trainer, *self.validators, *self.miners)
        start = (*(Need(name, Task.START) for name in names), Need(self.trainer, Task.PUBLISH))
        stands = [Stand("start", 0, start)]
        if first is None:
            return tuple(stands)
        last = self.windows  # index of the window in which the last one of the run is judged
        here = 0 if around_ms is None else self._index_at(first, around_ms)
        for index in range(last + 1) if around_ms is None else range(max(0, here - 1), min(last, here + 1) + 1):
            window = Window(first + index * WINDOW_LENGTH)
            stands += self._window(window, known, first=first, mined=index < last)
        if around_ms is None or here + 1 >= last:
            # Whatever was sent at the last stand is in a final block here, and weights that were committed are revealed.
            sent_at = self._overdue_block(WindowTimes(Window(first + (last - 1) * WINDOW_LENGTH), self.params))
            rest = Block(sent_at + 1 + self.chain.rules.reveal_blocks)
            stands.append(Stand("rest", max(stands[-1].at_ms, self._final_ms(rest))))
        return tuple(stands)

    def _index_at(self, first: Window, chain_ms: int) -> int:
        """Of the run's window at this chain time, at most the one after the last."""
        block = blocks_in((chain_ms - self.chain.genesis_time_ms) / 1000, self.chain.block_time_ms)
        return min(max(0, (block - first) // WINDOW_LENGTH), self.windows)

    def _window(self, window: Window, known: Known, *, first: Window, mined: bool) -> tuple[Stand, ...]:
        """The stands between the first block of a window and its last, where the one before it is judged and learned from."""
        before = Window(window - WINDOW_LENGTH)
        learned = before >= first  # the one before the first had no checkpoint: validators find it void
        own, earlier = WindowTimes(window, self.params), WindowTimes(before, self.params)
        produce = tuple(Need(name, Task.PRODUCE, window) for name in self.miners if mined)
        mine = tuple(Need(name, Task.MINE, window) for name in self.miners if mined)
        sight = tuple(Need(name, Task.SIGHT, before) for name in self.validators)
        judge = tuple(Need(name, Task.JUDGE, before) for name in self.validators)
        weigh = tuple(Need(name, Task.WEIGH, before) for name in self.validators if learned)
        train = (Need(self.trainer, Task.TRAIN, before),)
        spoken = sum(need in known.done for need in judge)
        # The trainer takes windows in their order. It waits for every verdict, from OVERDUE on for half of the (equal) stake.
        turn = learned and (before == first or Need(self.trainer, Task.TRAIN, Window(before - WINDOW_LENGTH)) in known.done)
        soon = train if turn and spoken == len(judge) else ()
        late = train if turn and 2 * spoken >= len(judge) > 0 else ()
        opening = max(self._round_ms(own.seed_beacon_block), self._block_ms(earlier.first_sight_end_block))
        challenge = max(self._round_ms(earlier.challenge_block), self._final_ms(earlier.challenge_block))
        overdue = self._block_ms(self._overdue_block(earlier))
        upload = self._block_ms(Block(own.deadline_block - SAFETY_BLOCKS))
        waiting = {need.role for need in known.awaiting if need.window == before}
        now = tuple(need for need in (*judge, *weigh) if need.role not in waiting)
        return (
            Stand("open", opening, sight),
            Stand("challenge", max(opening, challenge), (*now, *soon, *produce)),
            Stand("overdue", max(opening, challenge, overdue), (*judge, *weigh, *late, *produce)),
            *((Stand("upload", max(opening, challenge, overdue, upload), mine),) if mined else ()),
        )

    def _overdue_block(self, times: WindowTimes) -> Block:
        """From here on the trainer no longer waits for validators that are silent on this window."""
        return Block(times.challenge_block + PATIENCE_BLOCKS)

    def _block_ms(self, block: Block) -> int:
        return self.chain.time_of_ms(block)

    def _final_ms(self, block: Block) -> int:
        return self.chain.time_of_ms(block + self.chain.finality_lag)

    def _round_ms(self, block: Block) -> int:
        """When the beacon round of a block is due: up to a period after the block, so that a clock which stood exactly on the
        block would be waited for."""
        at_ms = self._block_ms(block)
        if self.params.beacon_policy == "off":
            return at_ms
        return self.params.beacon.time_of_ms(self.params.beacon.round_at(at_ms))


def step(
    timetable: Stands,
    known: Known,
    now_ms: int,
    *,
    absent: AbstractSet[str] = frozenset(),
    given_up: AbstractSet[Need] = frozenset(),
    halts_ms: Collection[int] = (),
) -> Step:
    """How far the clock goes now.

    Args:
        now_ms: chain time. absent: roles that are not waited for. given_up: what is not waited for any more, whoever lives.
        halts_ms: where the clock must stand once, whatever is done.
    """
    stands = timetable.stands(known, around_ms=now_ms)
    passed = [stand for stand in stands if stand.at_ms <= now_ms]
    here = passed[-1]
    missing = tuple(need for need in here.needs if need not in known.done)
    waits_for = tuple(need for need in missing if need.role not in absent and need not in given_up)
    if waits_for:
        return Hold(here, waits_for)
    if len(passed) == len(stands):
        return Over(missing)
    following = stands[len(passed)].at_ms
    return Advance(min([following, *(halt for halt in halts_ms if now_ms < halt)]), missing)
