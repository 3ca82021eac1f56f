"""First sight: which seals lay in the registered hotkeys' buckets when the deadline had passed.

Only a seal seen now counts, and nothing but seals is read: 32 KiB a hotkey, all hotkeys at once. What comes is recorded when
it comes, hotkey by hotkey, so that a store that answers late, drips or lies costs its own miner's window and nobody else's.
Runs in its own thread, so that slow judging of one window never costs the next one its first sight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from grail_core.chain.base import Neuron, seconds_of
from grail_core.errors import ChainError, StorageError
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.seals import MAX_SEAL_BYTES
from grail_core.protocol.types import Block, Window
from grail_core.storage.base import ObjectNotFoundError, ObjectTooLargeError
from grail_core.storage.layout import seal_key
from grail_core.storage.time_limits import at_most
from grail_core.telemetry import get_logger
from grail_validator.cases import Sighting, WindowStage
from grail_validator.ledger import Ledger
from grail_validator.steps import Buckets, SightingsRecord, sight

log = get_logger(__name__)

MAX_TRIES: Final = 2
"""At one hotkey's seal."""
UNREADABLE: Final = "the seal could not be read at first sight"
"""One wording for whatever a store said: validators that saw nothing say the same, and the log has the store's words."""
TOO_LARGE: Final = f"the seal has more than {MAX_SEAL_BYTES} bytes"
_RETRY_SECONDS = 1.0
_POLL_SECONDS = 0.1
_PARALLEL = 256  # a subnet's hotkeys: none waits for another's store


@dataclass
class FirstSight:
    participant: Participant
    ledger: Ledger

    def run(self, first: Window, stop: threading.Event, done: Callable[[Window], None]) -> None:
        """Sight windows from `first` on; `done(window)` after each, sighted or missed."""
        window = first
        while not stop.is_set():
            try:
                if not self.participant.wait_for_block(self.participant.times(window).deadline_block, stop):
                    return
                self.sight(window)
            except ChainError as error:  # until first sight is over it may answer again
                log.event("chain_unreadable", window=window, reason=error.what)
                stop.wait(_RETRY_SECONDS)
                continue
            done(window)
            window = Window(window + WINDOW_LENGTH)

    def sight(self, window: Window) -> None:
        """Read every registered hotkey's seal, unless it is done already or first sight is over.

        Raises:
            ChainError: worth another try; what was recorded stays, and is not read again.
        """
        stage = self.ledger.stage(window)
        if stage is not WindowStage.UNSEEN:
            log.event("first_sight_kept", window=window, stage=stage.value)  # from before a restart
            return
        chain, last_block = self.participant.chain, self.participant.times(window).first_sight_end_block
        now = chain.current_block()
        if now > last_block:
            log.event("first_sight_missed", window=window, block_now=now, last_block=last_block)
            return
        neurons = self.participant.miners_at(window)
        seen_before = {sighting.hotkey for sighting in self.ledger.sightings_so_far(window)}
        asked = [neuron for neuron in neurons if neuron.hotkey not in seen_before]
        answered = self._ask(window, asked, last_block)
        late = [Sighting(neuron.hotkey, reason=UNREADABLE) for neuron in asked if neuron.hotkey not in answered]
        everything_late = bool(asked) and not answered and not seen_before
        taken = sight(stage, Buckets(tuple(late), Block(last_block + everything_late), last_block))
        if not isinstance(taken.record, SightingsRecord):
            log.event("first_sight_missed", window=window, reason="no store answered before first sight was over")
            return
        self.ledger.record_sightings(window, taken.record.sightings)
        sightings = self.ledger.sightings(window) or ()
        log.event(
            "first_sight",
            window=window,
            registered=len(neurons),
            seen=sum(sighting.seal is not None for sighting in sightings),
            late=len(late),
        )

    def _ask(self, window: Window, neurons: Sequence[Neuron], last_block: Block) -> set[bytes]:
        """Whose store answered, one way or the other, before first sight was over; each answer is in the ledger by then."""
        if not neurons:
            return set()
        pool = ThreadPoolExecutor(min(_PARALLEL, len(neurons)), thread_name_prefix="seal")
        pending: set[Future[Sighting]] = {pool.submit(self._read, window, neuron) for neuron in neurons}
        answered: set[bytes] = set()
        try:
            while pending:
                came, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                # Asked after they came: who answered before this block answered in time.
                if self.participant.chain.current_block() > last_block:
                    break
                for sighting in (future.result() for future in came):
                    self.ledger.record_sighting(window, sighting)
                    answered.add(sighting.hotkey)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a store that still drips ends at its own time limit
        return answered

    def _read(self, window: Window, neuron: Neuron) -> Sighting:
        """One hotkey's seal. Never raises: whatever is wrong with a store is its miner's matter."""
        hotkey, key = neuron.hotkey, seal_key(ss58(neuron.hotkey), window)
        reason = ""
        for _ in range(MAX_TRIES):
            try:
                store = self.participant.directory.open(neuron.commitment or "")
                with at_most(self._seconds_a_try()):
                    info, data = store.read(key, max_bytes=MAX_SEAL_BYTES)
                return Sighting(hotkey, data, info.stored_at_ms)
            except ObjectNotFoundError:
                return Sighting(hotkey)
            except ObjectTooLargeError:
                return Sighting(hotkey, reason=TOO_LARGE)
            except StorageError as error:
                reason = error.what
            except Exception as error:  # a reader's fault must not cost everybody's first sight
                log.exception("unforeseen while reading %s of %s", key, ss58(hotkey))
                reason = type(error).__name__
        log.event("seal_unreadable", window=window, hotkey=ss58(hotkey), reason=reason)
        return Sighting(hotkey, reason=UNREADABLE)

    def _seconds_a_try(self) -> float:
        """A third of first sight."""
        params = self.participant.params
        return seconds_of(params.first_sight_ends_after_D / 3, params.block_time_ms)
