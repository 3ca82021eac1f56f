"""What a validator without memory takes over: its own scored verdicts, and those of the trusted validator with the most stake.

A new validator, or one that was away, would take everybody for a newcomer for about thirty windows, draw otherwise than the
others and pay nobody. What it has published itself is what others compute its scores again from, so a ledger that was lost, or
brought back from an older copy, begins with that. The windows it did not score it fills from another's signed bodies, and its
next verdict says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from grail_core.chain.base import Neuron, seconds_of
from grail_core.errors import ChainError, ProtocolViolationError, StorageError
from grail_core.files.verdicts import read_verdict
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol import VerdictBody, WindowStatus
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.time_limits import at_most, seconds_left
from grail_core.telemetry import get_logger
from grail_validator.ledger import Ledger

log = get_logger(__name__)

MAX_BLOCKS: Final = 10
"""That one call may take, whatever the leader's store does: a window waits for it. What is left is asked with the next one."""
MAX_ASKED: Final = 2
"""Times that a process asks for one window: the other one may not have scored it either, or may be a little slower."""


@dataclass
class Adoption:
    participant: Participant
    ledger: Ledger
    _asked: Counter[Window] = field(default_factory=Counter)
    _asked_own: Counter[Window] = field(default_factory=Counter)

    def fill(self, before: Window) -> int:
        """Adopt what is missing of the memory that `before` is judged with. Returns how many windows.

        Never raises for what another's store or the chain does: without a memory to adopt one goes on without.
        """
        missing = [window for window in self.ledger.unremembered(before) if self._asked[window] < MAX_ASKED]
        if not missing:
            return 0
        leader: Neuron | None = None
        try:
            leader = self._leader(before)
        except ChainError as error:
            log.event("nothing_adopted", window=before, reason=error.what)
        own = adopted = 0
        with at_most(seconds_of(MAX_BLOCKS, self.participant.params.block_time_ms)):
            for window in missing:
                if seconds_left() <= 0:
                    whose = "" if leader is None else ss58(leader.hotkey)
                    log.event("adoption_goes_on_later", window=before, validator=whose, next=window)
                    break
                if self._remembered_again(window):
                    own += 1
                elif leader is not None:
                    self._asked[window] += 1
                    adopted += self._adopt(leader, window)
        if own:
            log.event("memory_adopted", window=before, windows=own, validator=ss58(self.participant.signer.hotkey))
        if adopted and leader is not None:
            log.event("memory_adopted", window=before, windows=adopted, validator=ss58(leader.hotkey))
        return own + adopted

    def _remembered_again(self, window: Window) -> bool:
        """From this validator's own verdict, which says of it what its ledger does not know (any more)."""
        own = self.participant.signer.hotkey
        if self._asked_own[window] >= MAX_ASKED:
            return False
        self._asked_own[window] += 1
        body = self._read(window, own, lambda: self.participant.own_store)
        return body is not None and self.ledger.adopt_scores(body, own, told=True)

    def _leader(self, window: Window) -> Neuron | None:
        """The trusted validator with the most stake besides this one."""
        neurons = self.participant.chain.metagraph(Block(window)).neurons
        own = self.participant.signer.hotkey
        others = [n for n in neurons if n.validator_permit and n.stake > 0 and n.commitment is not None and n.hotkey != own]
        return min(others, key=lambda neuron: (-neuron.stake, neuron.hotkey), default=None)

    def _adopt(self, leader: Neuron, window: Window) -> bool:
        body = self._read(window, leader.hotkey, lambda: self.participant.directory.open(leader.commitment or ""))
        return body is not None and self.ledger.adopt_scores(body, leader.hotkey)

    def _read(self, window: Window, validator: Hotkey, bucket: Callable[[], ObjectStore]) -> VerdictBody | None:
        """A validator's body of a window that it scored. What is unforeseen in it costs that verdict."""
        try:
            verdict = read_verdict(bucket(), window, validator, self.participant.network_id)
        except (StorageError, ProtocolViolationError) as error:
            reason = error.what
        except Exception as error:  # a stranger's bytes
            log.exception("unforeseen with the verdict of %s of window %d", ss58(validator), window)
            reason = type(error).__name__
        else:
            return verdict.body if verdict is not None and verdict.body.status is WindowStatus.SCORED else None
        log.event("verdict_unreadable", window=window, validator=ss58(validator), reason=reason)
        return None
