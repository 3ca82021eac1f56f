"""The publisher as a state machine: a trained window's way from the journal to checkpoint and log in the store.

    PENDING --Places: free--> (put the checkpoint) --Stored--> STORED --Logged--> LOGGED
       |  \\--Stored: there since before a crash------------->/          ^
       \\-----Places: taken, and a later one will carry it--> JOINED ---/

A checkpoint takes the first window it can reach in time. Where that window is taken already, by the checkpoint of the window
before, nothing is published and the next checkpoint carries the weights of both: a trainer that was late once is in step
again one window later. `step` is a pure function, and every arrow may be taken again after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window


class PublicationStage(Enum):
    PENDING = "pending"
    STORED = "stored"  # the checkpoint is visible to readers
    JOINED = "joined"  # its weights come with the next checkpoint
    LOGGED = "logged"


@dataclass(frozen=True)
class Publication:
    """Where a trained window's publication stands. `valid_from` is its checkpoint's, None where it has none."""

    stage: PublicationStage = PublicationStage.PENDING
    valid_from: Window | None = None


# --- what may become known --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """What the bucket and the clock say of where the checkpoint may go; all are `valid_from` windows."""

    head: Window  # of the newest checkpoint
    reachable: Window  # the first that a checkpoint published now is in time for
    last: bool = False  # no window will follow, so nothing could carry these weights later


@dataclass(frozen=True)
class Stored:
    """The checkpoint was put: now, or before a crash."""

    valid_from: Window


@dataclass(frozen=True)
class Logged:
    """The training log was put."""


Event = Places | Stored | Logged


# --- what a step asks for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PutCheckpoint:
    valid_from: Window


@dataclass(frozen=True)
class PutLog:
    """It names the checkpoint, where there is one."""


@dataclass(frozen=True)
class Step:
    publication: Publication
    put: PutCheckpoint | PutLog | None = None


def step(publication: Publication, event: Event) -> Step:
    """The arrow that `event` takes from where the publication stands.

    Raises:
        ValueError: there is no such arrow.
    """
    match publication.stage, event:
        case (PublicationStage.PENDING, Places()):
            return _place(event)
        case (PublicationStage.PENDING, Stored(valid_from)):
            return Step(Publication(PublicationStage.STORED, valid_from), PutLog())
        case (PublicationStage.STORED | PublicationStage.JOINED, Logged()):
            return Step(Publication(PublicationStage.LOGGED, publication.valid_from))
    raise ValueError(f"a publication that is {publication.stage.value} cannot take {type(event).__name__}")


def _place(places: Places) -> Step:
    if places.head < places.reachable:
        return Step(Publication(), PutCheckpoint(places.reachable))
    if places.last:
        return Step(Publication(), PutCheckpoint(Window(places.head + WINDOW_LENGTH)))
    return Step(Publication(PublicationStage.JOINED), PutLog())
