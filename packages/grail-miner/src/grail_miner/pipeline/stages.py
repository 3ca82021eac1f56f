"""The pipeline of one window: batches are generated while earlier groups are judged, proved and made into records.

    gate ─► generate ─► [judge] ─► judge ─► [prove] ─► prove, one thread a slot ─► [pack] ─► pack ─► done

A group goes on as soon as its sixteen completions are there, whatever of its batch is still drawn. In front of each stage at
most a batch of groups waits; a generator that finds no room is held, so that memory is bounded. The caller's thread keeps the
time: it alone reads the clock that the deadline is on, but for the gate and what the budget learns. A group that cannot be had
is dropped and counted, an engine that fails ends the drawing alone; every other error ends the pipeline and is raised by `run`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

from grail_core.environment import Grade
from grail_core.errors import EngineError
from grail_core.generation.base import Drawn
from grail_core.proof.batch import RolloutProof
from grail_core.telemetry import get_logger
from grail_miner.budget import TimeBudget
from grail_miner.groups import Answered, Assigned, Batch, Group
from grail_miner.pipeline.monitor import Monitor, Threads
from grail_miner.pipeline.progress import Progress
from grail_miner.pipeline.trace import GENERATE, HELD, JUDGE, PACK, PROVE, Trace
from grail_miner.pipeline.work import GroupLostError, Work

log = get_logger(__name__)

_LOOK_S: Final = 0.1  # at the clock and at the stop, while nothing else happens

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much of a window is tried. `slots`: groups proved at the same time."""

    window: int
    max_groups: int
    groups_per_batch: int
    slots: int


@dataclass(frozen=True)
class WindowClock:
    """The clock that the deadline is on. Both may raise ChainError."""

    seconds_left: Callable[[], float]  # until the upload must begin
    now_ms: Callable[[], int]


@dataclass
class Made:
    """What came of a window's groups: `begun` = whole + dropped + cancelled. `groups` in increasing order."""

    groups: list[Group]
    begun: int = 0
    dropped: dict[int, str] = field(default_factory=dict)
    cancelled: tuple[int, ...] = ()
    seconds: float = 0.0  # from the first group's beginning to the last one's end


@dataclass(frozen=True)
class _Judged:
    answered: Answered
    grades: Sequence[Grade]


@dataclass(frozen=True)
class _Proved:
    judged: _Judged
    proofs: Sequence[RolloutProof]


@dataclass
class _Queue(Generic[T]):
    """In front of a stage. `feeding`: threads that may still put something."""

    room: int
    feeding: int
    waiting: deque[T] = field(default_factory=deque)


class Pipeline:
    """One window's. `run` once, then `close`, or use it in `with`: no thread outlives it."""

    def __init__(self, work: Work, plan: Plan, budget: TimeBudget, clock: WindowClock, monitor: Monitor | None = None) -> None:
        self._work = work
        self._plan = plan
        self._budget = budget
        self._clock = clock
        self._monitor: Monitor = monitor if monitor is not None else Threads()
        self.trace = Trace(self._monitor)
        room = plan.groups_per_batch
        self._to_judge: _Queue[Answered] = _Queue(room, feeding=1)
        self._to_prove: _Queue[_Judged] = _Queue(room, feeding=1)
        self._to_pack: _Queue[_Proved] = _Queue(room, feeding=plan.slots)
        # All below is read and written within the monitor.
        self._following = 0
        self._begun: set[int] = set()  # not whole, dropped or cancelled yet
        self._whole: dict[int, Group] = {}
        self._dropped: dict[int, str] = {}
        self._no_more = False  # nothing is begun any more, and what is drawn is not waited for
        self._closing = False
        self._packing = True
        self._error: BaseException | None = None
        self._rewards = 0.0
        self._generated, self._judged, self._proved = 0, 0, 0
        self._completions, self._tokens = 0, 0  # written by the thread that draws, without the monitor: for display alone
        budget.slots = plan.slots

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, stop: threading.Event) -> Made:
        """Groups 0, 1, 2, … until all are made, time is over or `stop` is set; then what is whole by now.

        Raises:
            EngineError, MachineFaultError, ChainError, …: whatever a stage raised first.
        """
        self._start()
        while True:
            with self._monitor:
                self._monitor.wait_for(lambda: not self._packing or self._error is not None, _LOOK_S)
                if self._error is not None:
                    raise self._error
                if not self._packing:
                    break
            if stop.is_set() or self._is_over():
                break
        return self._made()

    def close(self) -> None:
        """End every stage after what it has in hand. May be called twice."""
        with self._monitor:
            self._closing = self._no_more = True
            self._monitor.changed()
        self._monitor.join()

    # Whoever looks on, from any thread

    def progress(self) -> Progress:
        """Raises: ChainError, from the clock."""
        left = self._clock.seconds_left()
        plan, budget = self._plan, self._budget
        with self._monitor:
            whole, dropped, in_flight = len(self._whole), len(self._dropped), len(self._begun)
            ended = self._closing
            more = budget.groups_that_fit(left, plan.max_groups - self._following, in_flight) if budget.known else None
            return Progress(
                window=plan.window,
                max_groups=plan.max_groups,
                begun=whole + dropped + in_flight,
                whole=whole,
                dropped=dropped,
                cancelled=in_flight if ended else 0,
                in_flight=0 if ended else in_flight,
                generated=self._generated,
                judged=self._judged,
                proved=self._proved,
                waiting_to_judge=len(self._to_judge.waiting),
                waiting_to_prove=len(self._to_prove.waiting),
                completions=self._completions,
                tokens=self._tokens,
                reward_sum=self._rewards,
                rollouts=sum(len(group.rollouts) for group in self._whole.values()),
                no_more=self._no_more,
                more_that_fit=0 if self._no_more else more,
                seconds_left=left,
                generate_seconds=budget.group_seconds,
                judge_seconds=budget.judge_seconds,
                prove_seconds=budget.prove_seconds,
                reserve_seconds=budget.reserve,
            )

    def whole_groups(self) -> list[Group]:
        """What is whole by now, in increasing order."""
        with self._monitor:
            return [self._whole[group] for group in sorted(self._whole)]

    # The caller's thread

    def _start(self) -> None:
        self._monitor.start("generate", self._guarded(self._generate, self._to_judge))
        self._monitor.start("judge", self._guarded(self._judge, self._to_prove))
        for lane in range(self._plan.slots):
            self._monitor.start(f"prove-{lane}", self._guarded(partial(self._prove, lane), self._to_pack))
        self._monitor.start("pack", self._guarded(self._pack, None))

    def _is_over(self) -> bool:
        """Whether what is not whole now comes too late. Draws no more where a group's way would be too long."""
        left = self._clock.seconds_left()
        with self._monitor:
            if left <= self._budget.reserve:
                return True
            waiting = len(self._to_judge.waiting) + len(self._to_prove.waiting)  # what is in hand is as good as done
            if not self._no_more and self._begun and self._budget.too_late_to_draw(left, waiting):
                self._no_more = True
                self._monitor.changed()
        return False

    def _made(self) -> Made:
        with self._monitor:
            self._closing = self._no_more = True  # what comes from now on is not taken
            self._monitor.changed()
            lost = sorted(self._begun)
            groups = [self._whole[group] for group in sorted(self._whole)]
            begun = len(groups) + len(self._dropped) + len(lost)
            return Made(groups, begun, dict(self._dropped), tuple(lost), self.trace.now())

    # Stages

    def _generate(self) -> None:
        while (groups := self._next_batch()) is not None:
            log.event("groups_begun", window=self._plan.window, first=groups[0], groups=len(groups))
            assigned = []
            for group in groups:
                try:
                    assigned.append(self._work.assign(group))
                except GroupLostError as error:
                    self._drop(group, str(error))
            if assigned:
                self._draw(assigned)

    def _next_batch(self) -> range | None:
        """The next groups to begin, once it is clear that they fit; None: no more in this window."""
        while True:
            left = self._clock.seconds_left()
            with self._monitor:
                at_most = min(self._plan.groups_per_batch, self._plan.max_groups - self._following)
                if self._no_more or at_most <= 0:
                    return None
                count = self._budget.groups_that_fit(left, at_most, in_flight=len(self._begun))
                if count:
                    groups = range(self._following, self._following + count)
                    self._following += count
                    self._begun.update(groups)
                    return groups
                if not self._begun:
                    return None
                # What is in flight may turn out to be quicker.
                self._monitor.wait_for(partial(self._fewer_in_flight, than=len(self._begun)))

    def _fewer_in_flight(self, than: int) -> bool:
        return self._no_more or len(self._begun) < than

    def _draw(self, assigned: Sequence[Assigned]) -> None:
        """One batch, group by group as they are whole."""
        batch, first = Batch(assigned, self._work.rules), assigned[0].group
        began, began_ms = self.trace.now(), self._clock.now_ms()
        held_s, tokens, taken, whole = 0.0, 0, 0, 0
        drawing = self._drawn(assigned)
        try:
            for drawn in drawing:
                tokens, taken = tokens + len(drawn.completion.tokens), taken + 1
                answered = batch.take(drawn)
                self._completions, self._tokens = self._completions + 1, self._tokens + len(drawn.completion.tokens)
                if answered is None:
                    continue
                whole_ms, whole = self._clock.now_ms(), whole + 1
                with self._monitor:
                    self._generated += 1
                    if whole == 1:
                        self._budget.observe_first(max(0, whole_ms - began_ms) / 1000)
                if not self._put(self._to_judge, answered, answered.assigned.group):
                    break
                held_s += self._seconds_since(whole_ms)
        finally:
            drawing.close()  # now, and not when whoever holds an error's traceback lets it go
            self.trace.add(GENERATE, first, began, self.trace.now())
        unfinished, cancelled = batch.unfinished, self._is_cancelled()
        if not (taken or cancelled):
            raise EngineError(
                f"the generator ended without one completion of {len(assigned)} groups",
                where=f"groups {first} to {assigned[-1].group}",
                hint="look at the engine's log",
            )
        if not cancelled:
            for group in unfinished:
                self._drop(group, "the engine left out completions of it")
            seconds = max(0.0, self._seconds_since(began_ms) - held_s)
            with self._monitor:
                self._budget.observe_groups(len(assigned), seconds)
        log.event(
            "batch_cancelled" if cancelled and unfinished else "batch_generated",
            window=self._plan.window,
            first=first,
            groups=len(assigned) - len(unfinished),
            unfinished=len(unfinished),
            tokens=tokens,
            seconds=self.trace.now() - began,
        )

    def _drawn(self, assigned: Sequence[Assigned]) -> Generator[Drawn, None, None]:
        """An engine that fails for good ends the drawing, not the window: what it gave before is judged, proved and stored as
        anything else is. Where that is nothing, the failure is the window's."""
        drawing = self._work.generate(assigned, self._is_cancelled)
        try:
            yield from drawing
        except EngineError as error:
            with self._monitor:
                if not self._generated:
                    raise
                self._no_more = True
                self._monitor.changed()
            log.event("engine_failed", level=logging.WARNING, window=self._plan.window, reason=error.what)

    def _judge(self) -> None:
        while (answered := self._take(self._to_judge)) is not None:
            group, began_ms = answered.assigned.group, self._clock.now_ms()
            try:
                with self.trace.span(JUDGE, group):
                    grades = self._work.judge(answered)
            except GroupLostError as error:
                self._drop(group, str(error))
                continue
            seconds = self._seconds_since(began_ms)
            with self._monitor:
                self._budget.observe_judged(seconds)
                self._judged += 1
            self._put(self._to_prove, _Judged(answered, grades))

    def _prove(self, lane: int) -> None:
        while (judged := self._take(self._to_prove)) is not None:
            group, began_ms = judged.answered.assigned.group, self._clock.now_ms()
            try:
                with self.trace.span(PROVE, group, lane):
                    proofs = self._work.prove(judged.answered)
            except GroupLostError as error:
                self._drop(group, str(error))
                continue
            seconds = self._seconds_since(began_ms)
            with self._monitor:
                self._budget.observe_proved(seconds)
                self._proved += 1
            self._put(self._to_pack, _Proved(judged, proofs))

    def _pack(self) -> None:
        while (proved := self._take(self._to_pack)) is not None:
            answered = proved.judged.answered
            with self.trace.span(PACK, answered.assigned.group):
                group = self._work.pack(answered, proved.judged.grades, proved.proofs)
            with self._monitor:
                if not self._closing:
                    self._whole[group.group] = group
                    self._rewards += sum(rollout.reward for rollout in group.rollouts)
                    self._settled(group.group)
        with self._monitor:
            self._packing = False
            self._monitor.changed()

    # What they share

    def _guarded(self, stage: Callable[[], None], feeds: _Queue[T] | None) -> Callable[[], None]:
        """A thread's work: its first error is the pipeline's; in the end the stage behind has one feeder less."""

        def work() -> None:
            try:
                stage()
            except BaseException as error:  # noqa: BLE001 - `run` raises it, in the caller's thread
                with self._monitor:
                    self._error = self._error or error
                    self._closing = self._no_more = True
            with self._monitor:
                if feeds is not None:
                    feeds.feeding -= 1
                self._monitor.changed()

        return work

    def _put(self, queue: _Queue[T], item: T, held: int | None = None) -> bool:
        """Once there is room; `held`: the group that waits, for the trace. False: the pipeline ends, and the item is lost."""
        began = self.trace.now()
        with self._monitor:
            full = len(queue.waiting) >= queue.room
            self._monitor.wait_for(lambda: self._closing or len(queue.waiting) < queue.room)
            if self._closing:
                return False
            queue.waiting.append(item)
            self._monitor.changed()
        if full and held is not None:
            self.trace.add(HELD, held, began, self.trace.now())
        return True

    def _take(self, queue: _Queue[T]) -> T | None:
        """The next item; None once none will come any more."""
        with self._monitor:
            self._monitor.wait_for(lambda: self._closing or bool(queue.waiting) or queue.feeding == 0)
            if self._closing or not queue.waiting:
                return None
            item = queue.waiting.popleft()
            self._monitor.changed()
            return item

    def _drop(self, group: int, reason: str) -> None:
        log.event("group_dropped", window=self._plan.window, group=group, reason=reason)
        with self._monitor:
            if not self._closing:
                self._dropped[group] = reason
                self._settled(group)

    def _settled(self, group: int) -> None:
        self._begun.discard(group)
        self._monitor.changed()

    def _is_cancelled(self) -> bool:
        return self._no_more

    def _seconds_since(self, start_ms: int) -> float:
        """Of chain time; a clock that was set back meanwhile says nothing."""
        return max(0, self._clock.now_ms() - start_ms) / 1000
