"""Waiting for a window, written once for every role.

A wait ends in one of three ways: what was waited for is there, it cannot be had any more (the window is void for this role),
or the role was told to stop. Faults that may heal are told in the log and tried again until the window's time is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from grail_core.beacon.base import RoundNotYetError
from grail_core.errors import BeaconError, ChainError, CheckpointError, StorageError
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.windows import open_challenge
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.types import Window
from grail_core.telemetry import get_logger

log = get_logger(__name__)

RETRY_SECONDS: Final = 1.0
BEACON_SECONDS: Final = 0.2  # the round after a block is due within a period; nothing is wrong

T = TypeVar("T")


@dataclass(frozen=True)
class ChallengedWindow:
    """A window whose challenge is known: all that a validator draws from."""

    context: WindowContext
    challenge: Challenge


def wait_for_window(
    participant: Participant, window: Window, stop: threading.Event, *, too_late: Callable[[], bool] | None = None
) -> Opened[WindowContext] | Void | Stopped:
    """The window's context once its seed beacon is out.

    Args:
        too_late: asked after a failed try; by default whether the window's void block has passed.
    """
    if not participant.wait_for_block(participant.times(window).seed_beacon_block, stop):
        return Stopped()
    return _until_open(participant, window, stop, lambda: participant.open_window(window), too_late)


def wait_for_challenge(
    participant: Participant, window: Window, stop: threading.Event
) -> Opened[ChallengedWindow] | Void | Stopped:
    """Context and challenge once the challenge block is final and its beacon round is out."""
    if not participant.wait_for_block(participant.times(window).challenge_block, stop, finalised=True):
        return Stopped()

    def attempt() -> ChallengedWindow:
        context = participant.open_window(window)
        return ChallengedWindow(context, open_challenge(participant.chain, participant.beacon, context))

    return _until_open(participant, window, stop, attempt, None)


def _until_open(
    participant: Participant,
    window: Window,
    stop: threading.Event,
    attempt: Callable[[], T],
    too_late: Callable[[], bool] | None,
) -> Opened[T] | Void | Stopped:
    void_block = participant.times(window).void_block
    while not stop.is_set():
        try:
            return Opened(attempt())
        except CheckpointError as error:
            return Void(f"no valid checkpoint: {error.what}")
        except (BeaconError, ChainError, StorageError) as error:
            over = too_late() if too_late is not None else _is_past(participant, void_block)
            if over:
                return Void(f"an input could not be had in time: {error.what}")
            if isinstance(error, RoundNotYetError):
                stop.wait(BEACON_SECONDS)
                continue
            log.event("window_input_late", window=window, reason=error.what)
            stop.wait(RETRY_SECONDS)
    return Stopped()


def _is_past(participant: Participant, block: int) -> bool:
    try:
        return participant.chain.current_block() > block
    except ChainError:
        return False  # it is the chain that does not answer; nothing is known to be over
