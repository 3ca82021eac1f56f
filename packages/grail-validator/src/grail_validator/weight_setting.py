r"""Setting weights, and knowing that they are set.

    due --written down, sent--> SENT --the chain shows them--> SET
                                 ↑  \ it does not, some blocks later
                                 └───┘ said aloud, sent again, later each time

A call that returns says that a node took a request, no more. So the block before a call is written down first; weights are set
once the finalised chain shows an update, or a commit, of this hotkey after that block. Killed anywhere, a validator asks the
chain before it sends anything: nothing is lost, and nothing sent twice in an interval. What is sent is always the last judged
window's, for who holds which UID now.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from functools import cached_property
from typing import Final

from grail_core.chain.base import seconds_of, weights_update
from grail_core.errors import ChainError, CheckpointError, StorageError
from grail_core.participant.participant import Participant
from grail_core.protocol import SignedVerdict, VerdictBody, weights_now
from grail_core.protocol.gradient.scores import largest_power
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.spec import GRADIENT, GradientSpec
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.scores import MAX_POWER, KindOfWork, WeightRule, powers, shares_of_kinds, shares_of_powers
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.telemetry import get_logger
from grail_validator import steps
from grail_validator.cases import SentWeights
from grail_validator.kinds import WindowKinds
from grail_validator.ledger import Ledger

log = get_logger(__name__)

FIRST_LOOK_BLOCKS: Final = 4
"""After which final block weights that the chain does not show are taken for lost: the block that includes them, and some more.
Twice as many after each further try, and never more than an interval."""
HINT: Final = (
    "look whether this hotkey is registered with a permit, whether the node behind BT_CHAIN_ENDPOINT is in step with others, "
    "and what the chain's rate limit is"
)


class Answer(Enum):
    """What the chain says of weights that were sent."""

    SHOWN = "shown"
    MISSING = "missing"
    NOT_YET = "not yet"


def answer_of(sent: SentWeights, update: Block | None, best: Block, finalised: Block, interval: int) -> Answer:
    """What to think of weights that were sent.

    Args:
        update: when this hotkey last set weights or committed to some, as of the finalised block; None: never.
        best: the newest block. An interval of blocks of which none gets final is no reason to wait any longer; nor is a block
            that is that far ahead of it, which a node told that was not on this chain.
        interval: blocks between two sets of weights.
    """
    if update is not None and update > sent.block:
        return Answer.SHOWN
    patience = min(interval, FIRST_LOOK_BLOCKS * 2 ** min(sent.attempt - 1, 32))
    return Answer.MISSING if finalised - sent.block >= patience or abs(best - sent.block) >= interval else Answer.NOT_YET


@dataclass
class WeightSetting:
    participant: Participant
    ledger: Ledger
    _next_look: float = field(default=0.0, init=False)  # monotonic seconds
    _unseen: bool = field(default=False, init=False)  # it was said that the chain does not tell

    @cached_property
    def kinds(self) -> WindowKinds:
        return WindowKinds(self.participant)

    def turn(self) -> None:
        """Look for what was sent; then send what is due. Once after each window, and at the start."""
        try:
            self._turn()
        except (ChainError, StorageError, CheckpointError) as error:
            log.event("weights_refused", level=logging.WARNING, window=self.ledger.last_judged(), reason=error.what)

    def look(self) -> None:
        """Look for what was sent, as often as there are blocks, while nothing else is to be done."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + seconds_of(1, self.participant.params.block_time_ms)
        sent = self.ledger.weights_sent()
        if sent is None:
            return
        try:
            if self._answer(sent) is Answer.MISSING:
                self._send(self._known(), sent.attempt + 1)
            self._unseen = False
        except ChainError as error:
            if not self._unseen:
                log.event("weights_unseen", level=logging.WARNING, window=sent.window, sent_at=sent.block, reason=error.what)
            self._unseen = True

    def _turn(self) -> None:
        sent = self.ledger.weights_sent()
        answer = Answer.SHOWN if sent is None else self._answer(sent)
        known = self._known()
        if sent is not None and answer is Answer.NOT_YET:
            log.event("weights_awaited", window=known.of_window, sent_at=sent.block, attempt=sent.attempt)
        elif sent is not None and answer is Answer.MISSING:
            self._send(known, sent.attempt + 1)
        elif known.due(now := self.participant.chain.current_block(), self.participant.params.weight_interval):
            lately = self._set_lately(now)
            if lately is None:
                self._send(known, 1)
            else:  # by a process of this hotkey of which this ledger, brought back from a copy, does not know
                log.event("weights_kept", block=now, window=known.of_window, set_at=lately)
        elif known.of_window is not None:
            log.event("weights_kept", block=now, window=known.of_window, set_at=known.set_at)

    def _set_lately(self, now: Block) -> Block | None:
        """When the chain shows weights of this interval, less the blocks that a call may take to be in one."""
        chain, interval = self.participant.chain, self.participant.params.weight_interval
        update = weights_update(chain, self.participant.signer.hotkey, chain.finalised_block())
        return update if update is not None and now - update < interval - min(FIRST_LOOK_BLOCKS, interval // 2) else None

    def _answer(self, sent: SentWeights) -> Answer:
        """What the chain shows of it now, written down where that is an end of it."""
        chain, hotkey = self.participant.chain, self.participant.signer.hotkey
        best, finalised = chain.current_block(), chain.finalised_block()
        update = weights_update(chain, hotkey, finalised)
        answer = answer_of(sent, update, best, finalised, self.participant.params.weight_interval)
        if answer is Answer.SHOWN:
            self.ledger.record_weights(sent.block)
            log.event("weights_set", block=sent.block, window=sent.window, shown_at=update, attempt=sent.attempt)
        elif answer is Answer.MISSING:
            log.event(
                "weights_not_on_chain",
                level=logging.ERROR,
                window=sent.window,
                sent_at=sent.block,
                block=best,
                finalised=finalised,
                last_update=update,
                attempt=sent.attempt,
                hint=HINT,
            )
        return answer

    def _send(self, known: steps.Weights, attempt: int) -> None:
        if known.of_window is None or not known.weights:
            return  # the ledger is older than the call
        chain, params = self.participant.chain, self.participant.params
        registered = {neuron.hotkey: neuron.uid for neuron in chain.metagraph().neurons}
        setting = weights_now(known.weights, known.hotkeys, registered, params.burn_uid)
        before = chain.current_block()
        self.ledger.record_weights_sent(SentWeights(before, known.of_window, attempt))
        try:
            chain.set_weights(self.participant.signer, setting)
        except ChainError as error:  # it may be on the chain all the same: that is asked for first, next time
            log.event(
                "weights_refused",
                level=logging.WARNING,
                window=known.of_window,
                attempt=attempt,
                reason=error.what,
                hint=error.hint,
            )
            return
        weights = {str(uid): weight for uid, weight in setting.items()}
        log.event("weights_sent", block=before, window=known.of_window, attempt=attempt, weights=weights)

    def _known(self) -> steps.Weights:
        """Of the last judged window or round. In a network that has turned to other work each kind has its share of the last 12
        windows: a body of rollouts says nothing of rounds, so what these are owed is added here."""
        window, round_ = self.ledger.last_judged(), self.ledger.rounds.last_judged()
        if round_ is not None and (window is None or round_ > window):
            files_of_round = self.ledger.rounds.files(round_)
            if files_of_round is None:
                return steps.Weights(round_, set_at=self.ledger.weights_block())
            said = SignedGradientVerdict.decode(files_of_round.verdict).body
            return steps.Weights(round_, said.weights, said.hotkeys, self.ledger.weights_block())
        files = self.ledger.files(window) if window is not None else None
        if files is None:
            return steps.Weights(window, set_at=self.ledger.weights_block())
        body = SignedVerdict.decode(files.verdict).body
        owed = None if window is None or round_ is None else self._owed_to_rounds(window, round_)
        if owed is None:
            return steps.Weights(window, body.weights, body.hotkeys, self.ledger.weights_block())
        weights, hotkeys = with_rounds(body, owed.body, owed.share, owed.largest, self.participant.params)
        return steps.Weights(window, weights, hotkeys, self.ledger.weights_block())

    def _owed_to_rounds(self, window: Window, round_: Window) -> _Owed | None:
        """What the last rounds' miners have of the weights of a window of rollouts; None: nothing."""
        share = shares_of_kinds(self.kinds.last(window)).get(GRADIENT, Fraction(0))
        files = self.ledger.rounds.files(round_)
        if not share or files is None:
            return None
        body = SignedGradientVerdict.decode(files.verdict).body
        manifest = self.participant.checkpoints.valid_at(round_)
        return _Owed(body, share, largest_power(GradientSpec.of(manifest.environment)))


@dataclass(frozen=True)
class _Owed:
    body: GradientVerdictBody
    share: Fraction
    largest: int


def with_rounds(
    body: VerdictBody, rounds: GradientVerdictBody, share: Fraction, largest: int, rule: WeightRule
) -> tuple[dict[int, int], dict[int, Hotkey]]:
    """Weights by UID of a window of rollouts in a network that had rounds before, and the hotkeys they belong to.

    Args:
        rounds: the last body of gradient work. share: of all weight, that is its miners'. largest: of its powers.
    """
    uids = {hotkey: uid for uid, hotkey in body.hotkeys.items()}
    owed = {uids[hotkey]: rounds.powers[uid] for uid, hotkey in rounds.hotkeys.items() if hotkey in uids}
    kinds = [KindOfWork(1 - share, powers(body.score_inputs), MAX_POWER), KindOfWork(share, owed, largest)]
    return shares_of_powers(kinds, rule), dict(body.hotkeys)
