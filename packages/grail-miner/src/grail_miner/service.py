"""The miner's window loop, as one would draw it on a whiteboard.

wait for the window → sync the checkpoint → its groups through the pipeline → file → own checks → upload → seal. File and seal
are stored in the last blocks before the deadline, the file first: a miner that is killed in between has no window, and not a
failed one. There is no state to recover: whether a window is done is read from the miner's own bucket, so a killed miner
starts again where time allows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from grail_core.chain.base import blocks_in, seconds_of
from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.errors import (
    ChainError,
    CheckpointError,
    ConfigurationError,
    DiskFullError,
    EnvironmentUnavailableError,
    MachineFaultError,
    ProtocolViolationError,
    StorageError,
)
from grail_core.keys import ss58
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import until_had, wait_for_window
from grail_core.protocol import Finding, best_prefix
from grail_core.protocol.constants import MAX_FILE_BYTES, WINDOW_LENGTH
from grail_core.protocol.context import WindowContext
from grail_core.protocol.types import Block, Window
from grail_core.storage.layout import seal_key, window_key
from grail_core.storage.retention import Retention
from grail_core.telemetry import get_logger
from grail_core.telemetry.logs import Value
from grail_core.work import Work, work_of
from grail_miner.budget import TimeBudget
from grail_miner.gradient.service import GradientMiner
from grail_miner.groups import Group
from grail_miner.mining import Mining
from grail_miner.pipeline.stages import Made, Pipeline, Plan, WindowClock
from grail_miner.pipeline.trace import CHECK, FILE, GENERATE, HELD, JUDGE, PACK, PROVE, UPLOAD, Trace, write_trace
from grail_miner.upload_time import UploadTime

log = get_logger(__name__)

_LONG_S = 20.0  # of chain time: a checkpoint that was made ready ahead is there at once


@dataclass(frozen=True)
class InHand:
    """The window that a miner is busy with. The last three are there once its groups are begun."""

    window: Window
    doing: str  # for a person
    context: WindowContext | None = None
    prepared: PreparedCheckpoint | None = None
    pipeline: Pipeline | None = None


@dataclass
class MinerService:
    """Mines windows one after the other until stopped or `windows` are done.

    `max_groups` bounds a window's file; file and seal are stored in the last `safety_blocks` before the deadline, or earlier
    where uploads were seen to take longer.
    """

    participant: Participant
    mining: Mining
    retention: Retention
    max_groups: int
    safety_blocks: int
    budget: TimeBudget = field(default_factory=TimeBudget)
    trace_dir: Path | None = None  # where each window's trace is written
    gradient: Callable[[], GradientMiner] | None = None  # makes what does rounds of gradient work
    hand: InHand | None = field(default=None, init=False)  # what is done now, for who looks on; replaced and never changed

    def run(self, stop: threading.Event, windows: int | None = None) -> int:
        """Returns how many windows were mined."""
        mined = 0
        for window in self._windows(stop):
            mined += self._try_window(window, stop)
            if not stop.is_set():
                self.retention.sweep(window)
            if windows is not None and mined >= windows:
                break
        return mined

    def _windows(self, stop: threading.Event) -> Iterator[Window]:
        """The running window, if its file is not up yet and time is left, then every following one."""
        window = self.participant.current_window()
        while not stop.is_set():
            yield window
            following = Window(window + WINDOW_LENGTH)
            try:
                window = max(following, self.participant.current_window())
            except ChainError:
                window = following  # waiting for it tries again, and says so

    def _try_window(self, window: Window, stop: threading.Event) -> bool:
        """A chain, a store or this machine that fails costs the window, and not the miner: the next one may go well."""
        try:
            return self._mine_window(window, stop)
        except DiskFullError:
            raise
        except (ChainError, StorageError, MachineFaultError) as error:
            log.event("window_skipped", window=window, reason=error.what)
            return False

    def _mine_window(self, window: Window, stop: threading.Event) -> bool:
        key = seal_key(ss58(self.mining.signer.hotkey), window)
        self.hand = InHand(window, "waits for the window's seed")
        waited = wait_for_window(self.participant, window, stop, too_late=lambda: self._seconds_left(window) <= 0)
        if isinstance(waited, Stopped):
            return False
        if isinstance(waited, Void):
            log.event("window_skipped", window=window, reason=waited.reason)
            return False
        context = waited.value
        if work_of(context.manifest) is Work.GRADIENT:
            return self._train_round(context, stop)
        if self.participant.own_store.head(key) is not None:
            log.event("window_already_mined", window=window)
            return False
        if self._seconds_left(window) <= 0:
            log.event("window_skipped", window=window, reason="no time is left before its deadline")
            return False
        began_ms = self._now_ms()
        prepared = self._prepared(context, stop)
        return prepared is not None and self._fill(context, prepared, stop, self._seconds_since(began_ms))

    @cached_property
    def _gradient(self) -> GradientMiner:
        if self.gradient is None:
            raise ConfigurationError(
                "the network has turned to gradient work, and this miner was started for rollouts alone",
                where="GRAIL_PIPELINE_BACKEND",
                hint="start it with `grail-miner run`, which does either",
            )
        return self.gradient()

    def _train_round(self, context: WindowContext, stop: threading.Event) -> bool:
        """A round of gradient work that begins with this window; what this machine cannot do costs the round."""
        self.hand = InHand(context.window, "trains its slice of the round", context)
        try:
            return self._gradient.mine(context, stop)
        except (ProtocolViolationError, CheckpointError, ConfigurationError, EnvironmentUnavailableError) as error:
            log.event("window_skipped", window=context.window, reason=error.what)
            return False

    def _prepared(self, context: WindowContext, stop: threading.Event) -> PreparedCheckpoint | None:
        window = context.window
        self.hand = InHand(window, "brings its checkpoint to generator and prover")
        try:
            had = until_had(
                self.participant,
                window,
                stop,
                partial(self.mining.select_model, context),
                too_late=lambda: self._seconds_left(window) <= 0,
            )
        except (ProtocolViolationError, ConfigurationError) as error:
            # A policy that the engine cannot follow, classes that its table does not cover, a table that is not the one this
            # machine was given: the next checkpoint may have another.
            had = Void(error.what)
        if isinstance(had, Opened):
            return had.value
        if isinstance(had, Void):
            log.event("window_skipped", window=window, reason=had.reason)
        return None

    def _fill(self, context: WindowContext, prepared: PreparedCheckpoint, stop: threading.Event, waited_s: float) -> bool:
        """Make the window's groups and store them; the pipeline's threads end with it, whatever happens.

        `waited_s`: what its checkpoint took to be here, of a window that may be empty for it.
        """
        window = context.window
        plan = Plan(window, self.max_groups, self.mining.groups_per_batch, self.mining.prover.slots)
        upload = UploadTime(self._now_ms, partial(self._upload_ms, window), self.participant.params.block_time_ms)
        clock = WindowClock(upload.seconds_left, self._now_ms)
        pipeline = Pipeline(self.mining.work(context, prepared), plan, self.budget, clock)
        self.hand = InHand(window, "makes groups", context, prepared, pipeline)
        try:
            with pipeline:
                made = pipeline.run(stop)
                if stop.is_set():
                    log.event("window_left", window=window, groups=len(made.groups), reason="stopped")
                    return False
                groups = made.groups[: best_prefix([group.group for group in made.groups])]
                if not groups:
                    lost = "more groups were lost than a file may lack"
                    reason = lost if made.groups else _why_none(waited_s)
                    log.event("window_empty", window=window, reason=reason, **_counts(made))
                    return False
                log.event("groups_produced", window=window, groups=len(groups), **_counts(made))
                return self._store(context, prepared, replace(made, groups=groups), pipeline.trace, stop)
        finally:
            self._keep_trace(window, pipeline.trace)

    def _store(
        self, context: WindowContext, prepared: PreparedCheckpoint, made: Made, trace: Trace, stop: threading.Event
    ) -> bool:
        """File first, seal last; returns whether both are stored."""
        self._goes_on("packs and checks its file")
        packed = self._packed(context, prepared, made.groups, trace) if self.mining.packs_early else None
        self._goes_on("waits for the last blocks before the deadline")
        if not self._wait_for_the_last_blocks(context.window, stop):
            return False
        packed = packed or self._packed(context, prepared, made.groups, trace)
        if packed.fault is not None:
            log.event(
                "window_withheld",
                level=logging.ERROR,
                window=context.window,
                check=packed.fault.check,
                reason=packed.fault.detail or "",
                group=packed.fault.group,
                rollout=packed.fault.rollout,
            )
            return False
        self._goes_on("uploads file and seal")
        start_ms, seal = self._now_ms(), self.mining.seal(context, packed.data)
        own, store = ss58(self.mining.signer.hotkey), self.participant.own_store
        try:
            with trace.span(UPLOAD, 0):
                store.put(window_key(own, context.window), packed.data)
                info = store.put(seal_key(own, context.window), seal.encode())
        except DiskFullError:
            raise  # no later window will fare better: end with the message
        except StorageError as error:
            log.event("upload_failed", window=context.window, reason=error.what)
            return False
        self.budget.observe_finish(packed.seconds + self._seconds_since(start_ms))
        deadline_ms = self.participant.time_of_block_ms(context.times.deadline_block)
        spare_s = (deadline_ms - info.stored_at_ms) / 1000
        figures: dict[str, Any] = _figures(packed, made, trace, self.mining.prover.slots)
        log.event("window_mined", window=context.window, **figures, seconds_to_spare=spare_s)
        return True

    def _goes_on(self, doing: str) -> None:
        if self.hand is not None:
            self.hand = replace(self.hand, doing=doing)

    def _packed(self, context: WindowContext, prepared: PreparedCheckpoint, groups: list[Group], trace: Trace) -> _Packed:
        """The file, of as many groups as fit into the largest that there may be (long answers: about 190), and what a
        validator's checks of all rows would reject it for."""
        start_ms = self._now_ms()
        while True:
            with trace.span(FILE, groups[0].group):
                data = self.mining.pack(context, prepared, groups)
            if len(data) <= MAX_FILE_BYTES or len(groups) == 1:
                break
            fitting = groups[: max(1, int(0.98 * len(groups) * MAX_FILE_BYTES / len(data)))]
            groups = fitting[: max(1, best_prefix([group.group for group in fitting]))]
            log.event("groups_left_out", window=context.window, groups=len(groups), reason=f"{len(data)} bytes are too many")
        with trace.span(CHECK, groups[0].group):
            fault = self.mining.own_fault(context, prepared, data)
        return _Packed(groups, data, fault, self._seconds_since(start_ms))

    def _keep_trace(self, window: Window, trace: Trace) -> None:
        """A trace that cannot be written costs the trace."""
        if self.trace_dir is None or not trace.spans:
            return
        try:
            path = write_trace(self.trace_dir, window, trace)
        except StorageError as error:
            log.event("trace_lost", level=logging.WARNING, window=window, reason=error.what)
        else:
            log.event("trace_written", window=window, path=str(path))

    def _wait_for_the_last_blocks(self, window: Window, stop: threading.Event) -> bool:
        """A file that lies there early can be read early. False: stopped meanwhile."""
        params = self.participant.params
        spare_s = max(0.0, self.budget.reserve - seconds_of(self.safety_blocks, params.block_time_ms))
        blocks = self.safety_blocks + blocks_in(spare_s, params.block_time_ms) + bool(spare_s)
        block = Block(self.participant.times(window).deadline_block - blocks)
        log.event("upload_waits", window=window, until_block=block)
        return self.participant.wait_for_block(block, stop)

    def _seconds_left(self, window: Window) -> float:
        """Until the upload must begin."""
        return (self._upload_ms(window) - self._now_ms()) / 1000

    def _upload_ms(self, window: Window) -> int:
        participant = self.participant
        return participant.time_of_block_ms(Block(participant.times(window).deadline_block - self.safety_blocks))

    def _now_ms(self) -> int:
        """By the clock that the deadline is on."""
        return self.participant.chain.now_ms()

    def _seconds_since(self, start_ms: int) -> float:
        """Of chain time; a clock that was set back meanwhile says nothing."""
        return max(0, self._now_ms() - start_ms) / 1000


@dataclass(frozen=True)
class _Packed:
    """`fault`: why it is not to be stored; `seconds`: of chain time, that packing and checking took."""

    groups: list[Group]
    data: bytes
    fault: Finding | None
    seconds: float


def _counts(made: Made) -> dict[str, int]:
    return {"groups_begun": made.begun, "groups_dropped": len(made.dropped), "groups_cancelled": len(made.cancelled)}


def _figures(packed: _Packed, made: Made, trace: Trace, slots: int) -> dict[str, Value]:
    """What a mined window's event says. Seconds are those that the threads of a stage were at work."""
    records = [record for group in packed.groups for record in group.rollouts]
    generate, prove = trace.seconds(GENERATE), trace.seconds(PROVE)
    lasted = made.seconds or 1.0
    return {
        "groups": len(packed.groups),
        "rollouts": len(records),
        "tokens": sum(len(record.tokens) - record.prompt_length for record in records),
        "reward_mean": sum(record.reward for record in records) / len(records),
        "seconds_generate": generate,
        "seconds_grade": trace.seconds(JUDGE),
        "seconds_prove": prove,
        "seconds_pack": trace.seconds(PACK) + trace.seconds(FILE),
        "seconds_check": trace.seconds(CHECK),
        "seconds_upload": trace.seconds(UPLOAD),
        "seconds_held": trace.seconds(HELD),
        "seconds_groups": made.seconds,
        "idle_generate": max(0.0, 1 - generate / lasted),
        "idle_prove": max(0.0, 1 - prove / (lasted * slots)),
        "bytes": len(packed.data),
        **_counts(made),
    }


def _why_none(waited_s: float) -> str:
    """No group, and no other reason than time: whose it was."""
    reason = "no group fitted before the deadline"
    late = f"{reason}: it had its checkpoint only after {waited_s:.0f} s (a slow store, or an engine that takes long to load)"
    return late if waited_s >= _LONG_S else reason
