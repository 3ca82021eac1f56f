"""Opening a round of gradient work: its context, its challenge, and the waits for its blocks.

A round is opened like a window, whose first block it shares; from there on its own times count (`RoundTimes`).
"""

from __future__ import annotations

import threading

from grail_core.chain.base import has_passed
from grail_core.errors import ProtocolViolationError
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import until_had
from grail_core.participant.windows import challenge_of, round_at
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.gradient.assignment import require_sequences
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.rounds import round_of
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.types import Block, Window


class NoWorkError(ProtocolViolationError):
    """The corpus is too small for everybody who is registered: nobody has work in this round, whatever he stores."""


def require_work(participant: Participant, context: RoundContext) -> int:
    """The highest UID at block T. Errors: NoWorkError; ChainError where who is registered cannot be had."""
    highest = max((neuron.uid for neuron in participant.chain.metagraph(context.times.first_block).neurons), default=-1)
    try:
        require_sequences(context.spec, highest)
    except ValueError as error:
        raise NoWorkError(
            f"there is no work in this round: {error}",
            where=f"round {context.round}",
            hint="the network needs a checkpoint whose spec names a larger corpus",
        ) from error
    return highest


def round_of_window(context: WindowContext) -> RoundContext:
    """The round that begins with this window.

    Raises:
        ProtocolViolationError: the manifest's spec makes no gradient work that this software or network can do.
    """
    try:
        return RoundContext(context)
    except ValueError as error:
        raise ProtocolViolationError(
            f"the checkpoint names gradient work that cannot be done here: {error}",
            where=f"checkpoint {context.manifest.sequence}",
            hint="upgrade, or wait for a checkpoint with another spec; the trainer chose this one",
        ) from error


def first_window(context: WindowContext) -> Window:
    """Of the round that this window lies in. Errors: ProtocolViolationError for a spec that this software cannot follow."""
    try:
        return round_of(context.window, GradientSpec.of(context.manifest.environment))
    except ValueError as error:
        raise ProtocolViolationError(f"the checkpoint names gradient work that cannot be done here: {error}") from error


def open_round_challenge(participant: Participant, context: RoundContext) -> Challenge:
    """The challenge of a round whose challenge block is final. Errors: ChainError, BeaconError."""
    chain, times = participant.chain, context.times
    block = chain.block(times.first_sight_end_block)
    return challenge_of(context.window, block, round_at(chain, participant.beacon, participant.params, times.challenge_block))


def wait_for_round_challenge(
    participant: Participant, context: RoundContext, stop: threading.Event, *, until: Block | None = None
) -> Opened[Challenge] | Void | Stopped:
    """The challenge once its block is final and its beacon round is out; void where that takes until the void block.

    Args:
        until: the block after which whoever waits has no use for it, where that comes before.
    """
    times, chain = context.times, participant.chain
    last = times.void_block if until is None else min(until, times.void_block)

    def attempt() -> Challenge | None:
        there = participant.wait_for_block(times.challenge_block, stop, finalised=True)
        return open_round_challenge(participant, context) if there else None

    return until_had(participant, context.round, stop, attempt, too_late=lambda: has_passed(chain, last))
