"""Waiting for a window, written once for every role.

A wait ends in one of three ways: what was waited for is there, it cannot be had any more (the window is void for this role),
or the role was told to stop. Faults that may heal are told in the log and tried again until the window's time is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeVar

from grail_core.beacon.base import RoundNotYetError
from grail_core.chain.base import has_passed
from grail_core.checkpoints.manifests import RollbackError
from grail_core.errors import BeaconError, ChainError, CheckpointError, DiskFullError, MissingObjectError, StorageError
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.windows import open_challenge
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.types import Window
from grail_core.telemetry import get_logger

log = get_logger(__name__)

RETRY_SECONDS: Final = 1.0
LEAST_TRIES: Final = 3  # of what failed: a role that is late does not lose a window to one refused request
BEACON_SECONDS: Final = 0.2  # the round after a block is due within a period; nothing is wrong

T = TypeVar("T")

Stopping = Callable[[], AbstractContextManager[threading.Event]]
"""Entered once a role has started: the event that asks it to stop. Until then a signal ends the process at once."""


@dataclass(frozen=True)
class ChallengedWindow:
    """A window whose challenge is known: all that a validator draws from."""

    context: WindowContext
    challenge: Challenge


def wait_for_window(
    participant: Participant, window: Window, stop: threading.Event, *, too_late: Callable[[], bool] | None = None
) -> Opened[WindowContext] | Void | Stopped:
    """The window's context once its seed beacon is out. `too_late`: as in `until_had`."""

    def attempt() -> WindowContext | None:
        there = participant.wait_for_block(participant.times(window).seed_beacon_block, stop)
        return participant.open_window(window) if there else None

    return until_had(participant, window, stop, attempt, too_late=too_late)


def wait_for_challenge(
    participant: Participant, window: Window, stop: threading.Event
) -> Opened[ChallengedWindow] | Void | Stopped:
    """Context and challenge once the challenge block is final and its beacon round is out."""

    def attempt() -> ChallengedWindow | None:
        if not participant.wait_for_block(participant.times(window).challenge_block, stop, finalised=True):
            return None
        context = participant.open_window(window)
        return ChallengedWindow(context, open_challenge(participant.chain, participant.beacon, context))

    return until_had(participant, window, stop, attempt)


def until_had(
    participant: Participant,
    window: Window,
    stop: threading.Event,
    attempt: Callable[[], T | None],
    *,
    too_late: Callable[[], bool] | None = None,
) -> Opened[T] | Void | Stopped:
    """Try until it is had, or too late.

    A checkpoint that is not valid or damaged ends it at once, one whose objects the store does not have, or that it does not
    list any more, after `LEAST_TRIES`; a full disk is the operator's to mend and is raised; every other fault of beacon, chain
    and store may heal, and gets at least `LEAST_TRIES`.

    Args:
        attempt: None: stopped meanwhile.
        too_late: asked after a failed try; by default whether the window's void block has passed. While the chain does not
            answer, or cannot show the block that it says is its best, nothing is known to be too late.
    """
    void_block, faults = participant.times(window).void_block, 0
    over = too_late or (lambda: has_passed(participant.chain, void_block))
    while not stop.is_set():
        try:
            had = attempt()
            if faults:
                participant.faults_told.healed()
            return Stopped() if had is None else Opened(had)
        except (MissingObjectError, RollbackError) as error:  # a list of earlier looks like a rollback, and passes
            faults += 1
            if faults >= LEAST_TRIES:
                return Void(f"no valid checkpoint: {error.what}")
            log.event("window_input_late", window=window, reason=error.what)
            stop.wait(RETRY_SECONDS)
        except CheckpointError as error:
            return Void(f"no valid checkpoint: {error.what}")
        except DiskFullError:
            raise
        except (BeaconError, ChainError, StorageError) as error:
            early = isinstance(error, RoundNotYetError)
            told = not early and participant.faults_told.failed()
            faults += not early
            if (early or faults >= LEAST_TRIES) and _is(over):
                return Void(f"an input could not be had in time: {error.what}")
            if told:
                log.event("window_input_late", window=window, reason=error.what)
            stop.wait(BEACON_SECONDS if early else RETRY_SECONDS)
    return Stopped()


def _is(over: Callable[[], bool]) -> bool:
    try:
        return over()
    except ChainError:
        return False
