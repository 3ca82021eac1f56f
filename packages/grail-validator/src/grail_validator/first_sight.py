"""First sight: which seals lay in the registered hotkeys' buckets when the deadline had passed.

Only a seal seen now counts, and nothing but seals is read: 32 KiB a hotkey, all hotkeys at once. What comes is recorded when
it comes, hotkey by hotkey, so that a store that answers late, drips or lies costs its own miner's window and nobody else's.
Runs in its own thread, so that slow judging of one window never costs the next one its first sight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final, Protocol

from grail_core.chain.base import has_passed, seconds_of
from grail_core.errors import ChainError, UpgradeRequiredError
from grail_core.participant.participant import Participant
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.seals import MAX_SEAL_BYTES
from grail_core.protocol.types import Block, Window
from grail_core.storage.layout import seal_key
from grail_core.telemetry import get_logger
from grail_validator.bucket_sight import BucketSight, Look, Seen
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


class Sighted(Enum):
    """What became of a window of gradient work."""

    ROUND = "round"  # its sights are over, or were missed
    PART_OF_A_ROUND = "part of a round"  # it has no work of its own


class RoundWatch(Protocol):
    """Sees the rounds that begin with windows of gradient work."""

    def watch(self, window: Window, stop: threading.Event) -> Sighted | None:
        """Wait through the sights of a window's round; None for a window of rollouts. Errors: ChainError: ask again."""
        ...


@dataclass
class FirstSight:
    """`rounds`: takes windows of gradient work; without it every window is one of rollouts."""

    participant: Participant
    ledger: Ledger
    rounds: RoundWatch | None = None
    ended: UpgradeRequiredError | None = field(default=None, init=False)  # why no further window is sighted

    def run(self, first: Window, stop: threading.Event, done: Callable[[Window], None]) -> None:
        """Sight windows from `first` on; `done(window)` after each, sighted or missed."""
        window = first
        while not stop.is_set():
            try:
                taken = None if self.rounds is None else self.rounds.watch(window, stop)
                if taken is None:
                    if not self.participant.wait_for_block(self.participant.times(window).deadline_block, stop):
                        return
                    self.sight(window)
            except ChainError as error:  # until first sight is over it may answer again
                log.event("chain_unreadable", window=window, reason=error.what)
                stop.wait(_RETRY_SECONDS)
                continue
            except UpgradeRequiredError as error:  # the role ends once what was sighted is judged
                self.ended = error
                return
            if stop.is_set():
                return
            if taken is not Sighted.PART_OF_A_ROUND:
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
        if has_passed(chain, last_block):
            log.event("first_sight_missed", window=window, block_now=chain.current_block(), last_block=last_block)
            return
        neurons = self.participant.miners_at(window)
        seen_before = {sighting.hotkey for sighting in self.ledger.sightings_so_far(window)}
        asked = [neuron for neuron in neurons if neuron.hotkey not in seen_before]
        look = Look("seal", window, partial(seal_key, window=window), last_block, MAX_SEAL_BYTES, UNREADABLE, TOO_LARGE)
        answered = self._buckets().look(look, asked, lambda seen: self.ledger.record_sighting(window, _sighting(seen)))
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

    def _buckets(self) -> BucketSight:
        """A store has a third of first sight for one answer."""
        participant, params = self.participant, self.participant.params
        seconds = seconds_of(params.first_sight_ends_after_D / 3, params.block_time_ms)
        return BucketSight(participant.chain, participant.directory, MAX_TRIES, seconds)


def _sighting(seen: Seen) -> Sighting:
    return Sighting(seen.hotkey, seen.data, 0 if seen.info is None else seen.info.stored_at_ms, seen.reason)
