"""The miner's window loop, as one would draw it on a whiteboard.

wait for the window → sync the checkpoint → assigned problems → generate → grade → prove → pack → upload → seal. File and seal
are stored in the last blocks before the deadline, the file first: a miner that is killed in between has no window, and not a
failed one. There is no state to recover: whether a window is done is read from the miner's own bucket, so a killed miner
starts again where time allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from grail_core.chain.base import blocks_in, seconds_of
from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_core.errors import ChainError, DiskFullError, MachineFaultError, StorageError
from grail_core.keys import ss58
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import until_had, wait_for_window
from grail_core.protocol import best_prefix
from grail_core.protocol.constants import MAX_FILE_BYTES, WINDOW_LENGTH
from grail_core.protocol.context import WindowContext
from grail_core.protocol.types import Block, Window
from grail_core.storage.layout import seal_key, window_key
from grail_core.storage.retention import Retention
from grail_core.telemetry import get_logger
from grail_miner.budget import TimeBudget
from grail_miner.mining import Group, Mining, Timings

log = get_logger(__name__)


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
        waited = wait_for_window(self.participant, window, stop, too_late=lambda: self._seconds_left(window) <= 0)
        if isinstance(waited, Stopped):
            return False
        if isinstance(waited, Void):
            log.event("window_skipped", window=window, reason=waited.reason)
            return False
        context = waited.value
        if self.participant.own_store.head(key) is not None:
            log.event("window_already_mined", window=window)
            return False
        if self._seconds_left(window) <= 0:
            log.event("window_skipped", window=window, reason="no time is left before its deadline")
            return False
        self.mining.timings = Timings()
        had = until_had(
            self.participant,
            window,
            stop,
            partial(self.mining.select_model, context),
            too_late=lambda: self._seconds_left(window) <= 0,
        )
        if not isinstance(had, Opened):
            if isinstance(had, Void):
                log.event("window_skipped", window=window, reason=had.reason)
            return False
        loaded = had.value
        produced = self._produce(context, loaded, stop)
        groups = produced[: best_prefix([group.group for group in produced])]
        if not groups:
            reason = "no group fitted before the deadline" if not produced else "more groups were lost than a file may lack"
            log.event("window_empty", window=window, reason=reason)
            return False
        log.event("groups_produced", window=window, groups=len(groups))
        return self._upload(context, loaded, groups, stop)

    def _produce(self, context: WindowContext, loaded: LoadedCheckpoint, stop: threading.Event) -> list[Group]:
        """Groups 0, 1, 2, … in batches, as many as the time before the deadline allows."""
        produced: list[Group] = []
        following = 0
        while following < self.max_groups and not stop.is_set():
            left = self._seconds_left(context.window)
            count = self.budget.groups_that_fit(left, min(self.mining.groups_per_batch, self.max_groups - following))
            if count == 0:
                break
            start_ms = self._now_ms()
            produced += self.mining.produce_groups(context, loaded, range(following, following + count))
            self.budget.observe_groups(count, self._seconds_since(start_ms))
            following += count
        return produced

    def _upload(self, context: WindowContext, loaded: LoadedCheckpoint, groups: list[Group], stop: threading.Event) -> bool:
        """File first, seal last; returns whether both are stored."""
        if not self._wait_for_the_last_blocks(context.window, stop):
            return False
        start, start_ms = time.perf_counter(), self._now_ms()
        groups, data = self._packed(context, loaded, groups)
        seal = self.mining.seal(context, data)
        own, store = ss58(self.mining.signer.hotkey), self.participant.own_store
        try:
            store.put(window_key(own, context.window), data)
            info = store.put(seal_key(own, context.window), seal.encode())
        except DiskFullError:
            raise  # no later window will fare better: end with the message
        except StorageError as error:
            log.event("upload_failed", window=context.window, reason=error.what)
            return False
        seconds = time.perf_counter() - start
        self.budget.observe_finish(self._seconds_since(start_ms))
        deadline_ms = self.participant.time_of_block_ms(context.times.deadline_block)
        timings = self.mining.timings
        rewards = [record.reward for group in groups for record in group.rollouts]
        log.event(
            "window_mined",
            window=context.window,
            groups=len(groups),
            rollouts=len(rewards),
            tokens=sum(len(record.tokens) - record.prompt_length for group in groups for record in group.rollouts),
            reward_mean=sum(rewards) / len(rewards),
            seconds_generate=timings.generate,
            seconds_grade=timings.grade,
            seconds_prove=timings.prove,
            seconds_pack=timings.pack,
            seconds_upload=seconds - timings.pack,
            bytes=len(data),
            seconds_to_spare=(deadline_ms - info.stored_at_ms) / 1000,
        )
        return True

    def _packed(self, context: WindowContext, loaded: LoadedCheckpoint, groups: list[Group]) -> tuple[list[Group], bytes]:
        """The file, of as many groups as fit into the largest that there may be (long answers: about 190)."""
        while True:
            data = self.mining.pack(context, loaded, groups)
            if len(data) <= MAX_FILE_BYTES or len(groups) == 1:
                return groups, data
            fitting = groups[: max(1, int(0.98 * len(groups) * MAX_FILE_BYTES / len(data)))]
            groups = fitting[: max(1, best_prefix([group.group for group in fitting]))]
            log.event("groups_left_out", window=context.window, groups=len(groups), reason=f"{len(data)} bytes are too many")

    def _wait_for_the_last_blocks(self, window: Window, stop: threading.Event) -> bool:
        """A file that lies there early can be read early. False: stopped meanwhile."""
        params = self.participant.params
        spare_s = max(0.0, self.budget.reserve - seconds_of(self.safety_blocks, params.block_time_ms))
        blocks = self.safety_blocks + blocks_in(spare_s, params.block_time_ms) + bool(spare_s)
        block = Block(self.participant.times(window).deadline_block - blocks)
        return self.participant.wait_for_block(block, stop)

    def _seconds_left(self, window: Window) -> float:
        """Until the upload must begin."""
        participant = self.participant
        last = Block(participant.times(window).deadline_block - self.safety_blocks)
        return (participant.time_of_block_ms(last) - self._now_ms()) / 1000

    def _now_ms(self) -> int:
        """By the clock that the deadline is on."""
        return self.participant.chain.now_ms()

    def _seconds_since(self, start_ms: int) -> float:
        """Of chain time; a clock that was set back meanwhile says nothing."""
        return max(0, self._now_ms() - start_ms) / 1000
