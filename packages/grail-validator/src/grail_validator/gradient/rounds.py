"""Where a validator's windows turn into rounds: the one place that asks which work a window has.

What judges rounds computes with torch in this process, and is made when the first round comes: a validator of rollouts never
imports it. Not so its sights: they run in the thread of first sight, one round after the other like windows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from grail_core.chain.base import has_passed
from grail_core.errors import CheckpointError, GrailError, ProtocolViolationError, StorageError
from grail_core.participant.outcomes import Opened, Void
from grail_core.participant.participant import Participant
from grail_core.participant.rounds import round_of_window
from grail_core.participant.waiting import until_had
from grail_core.protocol.context import WindowContext
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.types import Block, Window
from grail_core.protocol.verdicts import WindowStatus
from grail_core.telemetry import get_logger
from grail_core.work import Work
from grail_validator.first_sight import Sighted
from grail_validator.kinds import WindowKinds

if TYPE_CHECKING:
    from grail_validator.gradient.service import GradientValidator

log = get_logger(__name__)

_RETRY_SECONDS = 1.0


@dataclass
class GradientRounds:
    """`make`: the validator of rounds, called once."""

    participant: Participant
    make: Callable[[WindowKinds], GradientValidator]
    kinds: WindowKinds = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.kinds = WindowKinds(self.participant)
        self._started_ms = self.participant.chain.now_ms()

    @cached_property
    def _made(self) -> GradientValidator:
        made = self.make(self.kinds)
        made.started_ms = self._started_ms  # of the process: the first round may come much later
        return made

    @property
    def validator(self) -> GradientValidator:
        with self._lock:  # asked for by two threads
            return self._made

    def takes(self, window: Window) -> bool:
        """Is it a window of gradient work, as far as the checkpoint that is valid in it can be had?"""
        try:
            return self.kinds.of(window) is Work.GRADIENT
        except GrailError:
            return False

    def watch(self, window: Window, stop: threading.Event) -> Sighted | None:
        """As `first_sight.RoundWatch`. While the trainer's bucket does not answer a window may be either; when its deadline as
        one of rollouts has passed it is taken for that: its seals lie under the same keys."""
        participant = self.participant
        if not participant.wait_for_block(participant.times(window).seed_beacon_block, stop):
            return None
        if not self._has_gradient_work(window, stop):
            return None
        had = until_had(participant, window, stop, partial(participant.open_window, window))
        if not isinstance(had, Opened):
            return Sighted.ROUND
        try:
            if window % GradientSpec.of(had.value.manifest.environment).round_blocks:
                return Sighted.PART_OF_A_ROUND
            self._sight(round_of_window(had.value), stop)
        except (CheckpointError, StorageError, ProtocolViolationError, ValueError) as error:
            log.event("round_sight_missed", window=window, reason=str(error))
        return Sighted.ROUND

    def _sight(self, context: RoundContext, stop: threading.Event) -> None:
        """Both sights; what fails meanwhile is tried again until they are over, and who was seen is not asked again."""
        chain, last = self.participant.chain, context.times.second_sight_end_block
        run = partial(self.validator.sights.run, context, stop)
        had = until_had(self.participant, context.round, stop, lambda: run() or None, too_late=lambda: has_passed(chain, last))
        if isinstance(had, Void):
            log.event("round_sight_missed", window=context.round, reason=had.reason)

    def advance(self, window: Window, stop: threading.Event) -> WindowStatus | None:
        """Judge the round that begins with this window, once its sights are over."""
        had = until_had(self.participant, window, stop, partial(self.participant.open_window, window))
        if not isinstance(had, Opened):
            return None
        context: WindowContext = had.value
        try:
            return self.validator.advance(context, stop)
        except ProtocolViolationError as error:
            log.event("round_not_judged", window=window, reason=error.what, hint=error.hint)
            return None

    def publish(self, round_: Window) -> bool:
        return self.validator.publish(round_)

    def _has_gradient_work(self, window: Window, stop: threading.Event) -> bool:
        """Asked in a thread of its own: a listing may take minutes, or wait for another thread's, and first sight may not."""
        deadline = self.participant.times(window).deadline_block
        pool = ThreadPoolExecutor(1, thread_name_prefix="work")
        try:
            while not stop.is_set():
                asked = pool.submit(self.kinds.of, window)
                while not wait([asked], timeout=_RETRY_SECONDS).done:
                    if stop.is_set() or self._is_over(window, deadline, "the trainer's bucket has not answered yet"):
                        return False
                try:
                    return asked.result() is Work.GRADIENT
                except CheckpointError:
                    return False  # none is valid yet
                except StorageError as error:
                    if self._is_over(window, deadline, error.what):
                        return False
                    stop.wait(_RETRY_SECONDS)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return False

    def _is_over(self, window: Window, deadline: Block, reason: str) -> bool:
        log.event("work_unknown", window=window, reason=reason)
        return self.participant.chain.current_block() >= deadline
