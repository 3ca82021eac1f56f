"""The lead body: what the stake said last of gradient work.

Of the latest round that any trusted validator has published a verdict of, the body with most stake behind it; ties go to the
lower digest. The aggregator orders candidates by it, and a validator without history begins with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from grail_core.chain.base import Neuron
from grail_core.errors import ProtocolViolationError, StorageError
from grail_core.files.verdicts import read_round_verdict
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.scores import MEMORY_ROUNDS
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdicts import WindowStatus
from grail_core.storage.time_limits import at_most, seconds_left
from grail_core.telemetry import get_logger

log = get_logger(__name__)

STORE_SHARE: Final = 0.25
"""Of the whole time that one validator's bucket has for its verdict of one round: no single one can use it up."""
_PARALLEL: Final = 32


@dataclass(frozen=True)
class LeadBody:
    """`verdict`: one that holds the body, of the validator with the most stake among those that published it."""

    verdict: SignedGradientVerdict
    stake: int


def lead_body(
    participant: Participant, context: RoundContext, *, seconds: float, without: Collection[Hotkey] = ()
) -> LeadBody | None:
    """As of the rounds before this one; None where nobody has published any, or none could be read in time.

    Args:
        seconds: for everything together. without: validators who are not asked.

    Raises:
        ChainError: who is registered cannot be had.
    """
    neurons = participant.chain.metagraph(context.times.first_block).neurons
    trusted = [
        neuron
        for neuron in neurons
        if neuron.validator_permit and neuron.stake > 0 and neuron.commitment is not None and neuron.hotkey not in without
    ]
    length = context.spec.round_blocks
    oldest = max(0, context.round - MEMORY_ROUNDS * length)
    if not trusted:
        return None
    with at_most(seconds), ThreadPoolExecutor(min(_PARALLEL, len(trusted)), thread_name_prefix="lead") as pool:
        for first in range(context.round - length, oldest - 1, -length):
            if seconds_left() <= 0:
                break
            read = partial(_read, participant, Window(first), seconds=min(seconds_left(), STORE_SHARE * seconds))
            found = _of_round(zip(trusted, pool.map(read, trusted), strict=True))
            if found is not None:
                return found
    return None


def _of_round(read: Iterable[tuple[Neuron, SignedGradientVerdict | None]]) -> LeadBody | None:
    stakes: dict[Digest, int] = defaultdict(int)
    bodies: dict[Digest, tuple[int, SignedGradientVerdict]] = {}
    for neuron, verdict in read:
        if verdict is None or verdict.body.status is not WindowStatus.SCORED:
            continue
        digest = verdict.body.digest()
        stakes[digest] += neuron.stake
        if digest not in bodies or bodies[digest][0] < neuron.stake:
            bodies[digest] = (neuron.stake, verdict)
    if not stakes:
        return None
    best = min(stakes, key=lambda digest: (-stakes[digest], digest))
    return LeadBody(bodies[best][1], stakes[best])


def _read(participant: Participant, round_: Window, neuron: Neuron, *, seconds: float) -> SignedGradientVerdict | None:
    """A stranger's bytes: whatever is wrong with them costs that verdict."""
    try:
        with at_most(seconds):
            store = participant.directory.open(neuron.commitment or "")
            return read_round_verdict(store, round_, neuron.hotkey, participant.network_id)
    except (StorageError, ProtocolViolationError) as error:
        reason = error.what
    except Exception as error:  # a stranger's bytes
        log.exception("unforeseen with the verdict of %s of round %d", ss58(neuron.hotkey), round_)
        reason = type(error).__name__
    log.event("verdict_unreadable", window=round_, validator=ss58(neuron.hotkey), reason=reason)
    return None
