"""A miner's round of gradient work: train, keep, seal by D, reveal and open by V, settle.

Each step can be taken again: what is fixed is kept on disk before anything of it is stored anywhere, and what is stored is
asked of the miner's own bucket. So a miner that is killed anywhere goes on with the round where time allows, and never seals
twice. The update's bytes go up only after the sight of seals is over: nobody can copy what nobody sees.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np

from grail_core.chain.base import seconds_of
from grail_core.errors import (
    ChainError,
    CheckpointError,
    ConfigurationError,
    GrailError,
    MachineFaultError,
    ProtocolViolationError,
    StorageError,
)
from grail_core.gradient.update_file import read_front
from grail_core.keys import ss58
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.rounds import first_window, round_of_window, wait_for_round_challenge
from grail_core.participant.waiting import until_had, wait_for_window
from grail_core.proof.inner import clipped_gradient
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.gradient.assignment import require_sequences
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.records import UpdateHeader
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.types import Block, Window
from grail_core.storage.base import ObjectInfo
from grail_core.storage.layout import UPDATE_PREFIX, opening_key, seal_key, update_key, window_of_key
from grail_core.telemetry import get_logger
from grail_miner.gradient.state import Feedback, GradientState, Pending
from grail_miner.gradient.training import Training

log = get_logger(__name__)

SPARE_BLOCKS: Final = 2
"""Before the deadline, in which training has ended: for packing and the seal's upload."""
NO_WORK: Final = "no work"


@dataclass
class GradientMiner:
    """`batch`: sequences of an inner step; None: as many as this machine was measured to train in time."""

    participant: Participant
    training: Training
    state: GradientState
    batch: int | None = None

    def mine(self, window: WindowContext, stop: threading.Event) -> bool:
        """The round that begins with this window, from its seed to its opening. Returns whether file and opening are stored.

        A window inside a round has no work of its own, but what was sealed before a kill is still to be shown. What this
        machine, a store or the chain cannot do costs the round.
        """
        first = first_window(window)
        if first != window.window:
            begun = self._begun_before(first, stop)
            if begun is None:
                return False
            window = begun
        context = round_of_window(window)
        pending = self.prepare(context, stop)
        if pending is None or not self._until_reveal(context, stop, partial(self.seal, context, pending)):
            return False
        if not self.participant.wait_for_block(Block(context.times.first_sight_end_block + 1), stop):
            return False
        revealed = self._until_reveal(context, stop, partial(self.reveal, context, pending))
        if stop.is_set():
            return False
        had = wait_for_round_challenge(self.participant, context, stop, until=context.times.reveal_block)
        if isinstance(had, Stopped):
            return False
        if isinstance(had, Void):
            self._unchallenged(context, had.reason)
            return False
        opened = revealed and self._until_reveal(context, stop, partial(self.open, context, had.value, pending))
        if stop.is_set():
            return False
        self.settle(context)
        return opened

    def _begun_before(self, first: Window, stop: threading.Event) -> WindowContext | None:
        """The first window of a round that is kept here and not settled: this process was away when it began."""
        pending = self.state.pending()
        if pending is None or pending.round != first:
            return None
        had = wait_for_window(self.participant, first, stop)
        return had.value if isinstance(had, Opened) else None

    def _until_reveal(self, context: RoundContext, stop: threading.Event, step: Callable[[], bool]) -> bool:
        """A step that needs the own store, tried until V: what is sealed and not shown in time costs far more than a round."""
        due = context.times.reveal_block
        had = until_had(self.participant, context.round, stop, step, too_late=lambda: self._now_ms() > self._time(due))
        if isinstance(had, Void):
            log.event("window_skipped", window=context.round, reason=had.reason)
        return isinstance(had, Opened) and had.value

    # --- the steps ------------------------------------------------------------------------------------------------------

    def prepare(self, context: RoundContext, stop: threading.Event) -> Pending | None:
        """The round's file and seal, on disk: made now, or found from before a kill. None: there is no work in this round."""
        pending = self.state.pending()
        if pending is not None and pending.round == context.round:
            log.event("round_resumed", window=context.round)
            return pending
        if pending is not None:
            self._settle_late(pending)
        if self._seconds_left(context) <= 0:
            settled = self.state.settled() == context.round
            reason = "this hotkey has ended it already" if settled else "no time is left before its deadline"
            log.event("window_skipped", window=context.round, reason=reason)
            return None
        started = time.perf_counter()
        had = until_had(
            self.participant,
            context.round,
            stop,
            partial(self._work, context),
            too_late=lambda: self._seconds_left(context) <= 0,
        )
        if isinstance(had, Void):
            log.event("window_skipped", window=context.round, reason=had.reason)
        if not isinstance(had, Opened) or had.value == NO_WORK:
            return None
        made = had.value
        assert isinstance(made, Pending)
        self.state.keep(made)
        header, seconds = _header(made.update), time.perf_counter() - started
        log.event(
            "round_trained",
            window=context.round,
            uid=header.uid,
            bytes=len(made.update),
            declared=header.declared,
            seconds=seconds,
        )
        return made

    def seal(self, context: RoundContext, pending: Pending) -> bool:
        """The promise, stored by D. Returns whether it is there in time."""
        key = seal_key(self._own, context.round)
        info = self._stored(key)
        if info is None:
            if self._now_ms() >= self._time(context.times.deadline_block):
                return self._missed(context, "its deadline has passed before the seal was stored")
            info = self.participant.own_store.put(key, pending.seal)
        in_time = info.stored_at_ms <= self._time(context.times.deadline_block)
        if not in_time:
            return self._missed(context, "the seal was stored after the deadline")
        log.event("round_sealed", window=context.round, bytes=len(pending.update))
        return True

    def reveal(self, context: RoundContext, pending: Pending) -> bool:
        """The file's bytes, once the sight of seals is over. Returns whether they are stored."""
        key = update_key(self._own, context.round)
        if self._stored(key) is None:
            self.participant.own_store.put(key, pending.update)
        log.event("round_revealed", window=context.round, bytes=len(pending.update))
        return True

    def open(self, context: RoundContext, challenge: Challenge, pending: Pending) -> bool:
        """What the challenge asks to be shown. Returns whether it is stored."""
        key = opening_key(self._own, context.round)
        if self._stored(key) is None:
            self.participant.own_store.put(key, self.training.open(context, challenge, pending, self.state.feedback()))
        log.event("round_opened", window=context.round)
        return True

    def settle(self, context: RoundContext) -> None:
        """Whose feedback the next round begins with: this file's, if validators saw it in time."""
        info, due_ms = self._stored(update_key(self._own, context.round)), self._time(context.times.reveal_block)
        self.state.settle(context.round, counts=info is not None and info.stored_at_ms <= due_ms)

    # --- what a step needs ----------------------------------------------------------------------------------------------

    def _work(self, context: RoundContext) -> Pending | Literal["no work"]:
        if self._stored(seal_key(self._own, context.round)) is not None:
            log.event("window_skipped", window=context.round, reason="its seal is stored, and what it promises is lost here")
            return NO_WORK
        uid = self._uid(context)
        if uid is None:
            return NO_WORK
        try:
            batch = self._batch_asked(context.spec) or self._batch_in_time(context, uid)
            return self.training.work(context, uid, batch, self._feedback(context))
        except (ChainError, CheckpointError, ConfigurationError, StorageError):
            raise  # what may heal is tried again; of what does not, the operator is told
        except GrailError as error:
            raise MachineFaultError(f"no update could be made: {error.what}", where=error.where, hint=error.hint) from error

    def _feedback(self, context: RoundContext) -> Feedback | None:
        """What earlier rounds left, if it is what others saw last: a state brought back from a copy would fail the round."""
        feedback = self.state.feedback()
        if feedback is None:
            return None
        newest, settled = self._newest_update(context.round), self.state.settled()
        if newest is None or newest <= max(feedback.round, settled or feedback.round):
            return feedback
        log.event(
            "feedback_forgotten",
            level=logging.WARNING,
            window=context.round,
            reason=f"it is of round {feedback.round}, and this hotkey has revealed round {newest} since",
        )
        self.state.forget_feedback()
        return None

    def _newest_update(self, before: Window) -> Window | None:
        listed = self.participant.own_store.list(f"{UPDATE_PREFIX}{self._own}-window-")
        rounds = [window_of_key(info.key) for info in listed]
        return max((one for one in rounds if one is not None and one < before), default=None)

    def _settle_late(self, pending: Pending) -> None:
        """A round that was pending when this process ended. Whether it counted cannot be told from here for sure, and to begin
        anew is always allowed."""
        log.event("feedback_forgotten", window=pending.round, reason="this process was away when the round was settled")
        self.state.settle(pending.round, counts=False)
        self.state.forget_feedback()

    def _batch_asked(self, spec: GradientSpec) -> int | None:
        """Raises ConfigurationError: the round takes no batch of this size."""
        if self.batch is not None and not spec.batch_least <= self.batch <= spec.batch_most:
            raise ConfigurationError(
                f"a step of this network has {spec.batch_least} to {spec.batch_most} sequences, not {self.batch}",
                where="--batch-sequences",
                hint="give one of these, or leave the option out: then this machine is measured",
            )
        return self.batch

    def _batch_in_time(self, context: RoundContext, uid: int) -> int:
        """Sequences of a step that H steps get through in time, by one trial step of the least batch."""
        spec, training = context.spec, self.training
        model = training.select_model(context)
        first = training.batches(context, uid, spec.batch_least)[0]
        started = time.perf_counter()
        clipped_gradient(model.trained, model.theta, np.ascontiguousarray(first), spec)
        a_sequence = (time.perf_counter() - started) / spec.batch_least
        room = self._seconds_left(context) / (spec.inner_steps * a_sequence)
        return max(spec.batch_least, min(spec.batch_most, int(room)))

    def _uid(self, context: RoundContext) -> int | None:
        """Ours as of block T; None where there is no work for us."""
        neurons = self.participant.chain.metagraph(context.times.first_block).neurons
        own = next((neuron for neuron in neurons if neuron.hotkey == self.training.signer.hotkey), None)
        if own is None or own.commitment is None:
            reason = "this hotkey had no bucket on the chain when the round began"
            log.event("window_skipped", window=context.round, reason=reason)
            return None
        try:
            require_sequences(context.spec, max(neuron.uid for neuron in neurons))
        except ValueError as error:
            raise ProtocolViolationError(f"there is no work in this round: {error}") from error
        return own.uid

    def _unchallenged(self, context: RoundContext, reason: str) -> None:
        """No challenge came to us while anything could be opened. Whether the round is void for everybody, so that its file
        left nothing, is not known before its void block, which may be rounds away: to begin anew is always allowed."""
        log.event("round_void", window=context.round, reason=reason)
        void = self.participant.chain.current_block() > context.times.void_block
        self.state.settle(context.round, counts=False)
        if not void:
            self.state.forget_feedback()

    def _missed(self, context: RoundContext, reason: str) -> bool:
        log.event("window_skipped", window=context.round, reason=reason)
        self.state.settle(context.round, counts=False)
        return False

    def _stored(self, key: str) -> ObjectInfo | None:
        return self.participant.own_store.head(key)

    def _seconds_left(self, context: RoundContext) -> float:
        """Until training has to be over."""
        deadline = self._time(context.times.deadline_block)
        spare = seconds_of(SPARE_BLOCKS, self.participant.params.block_time_ms)
        return (deadline - self._now_ms()) / 1000 - spare

    def _time(self, block: Block) -> int:
        return self.participant.time_of_block_ms(block)

    def _now_ms(self) -> int:
        return self.participant.chain.now_ms()

    @property
    def _own(self) -> str:
        return ss58(self.training.signer.hotkey)


def _header(update: bytes) -> UpdateHeader:
    return UpdateHeader.from_canonical(read_front(update)[0])
