"""The trainer as a state machine: what its journal says next, from where it stands and what became known.

    NEW --Beginning--> WAITING --TrainedWindow--> PENDING --Published--> WAITING (the next window)
                       |     ^                    |     ^
                       +-----+ NothingToLearn     +-----+ StoreFailed: again later

`step` is a pure function. What it asks for is carried out by whoever calls it, in this order: the records, one after the
other; then the publications; then the wait. Before the journal's record a window has not been learned from, after it it
has, and there is nothing in between; what is not published yet stands in the journal and is published by whoever comes next.
Windows are decided in order, each once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from grail_core.participant.outcomes import Stopped
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window


@dataclass(frozen=True)
class TrainedWindow:
    """A window that was learned from, and what is to be published of it.

    `log` is the body of its training log, `summary` what the manifest will say of it (both canonical-JSON values), `event`
    the fields of its event.
    """

    window: Window
    log: Mapping[str, Any]
    summary: Mapping[str, Any]
    event: Mapping[str, Any]


@dataclass(frozen=True)
class Journal:
    """What a trainer remembers. `decided` is the last window that was learned from or passed over."""

    decided: Window
    learned: int = 0  # windows learned from, in all
    state_file: str | None = None  # None: nothing learned yet, the first checkpoint's weights
    pending: TrainedWindow | None = None

    @property
    def next_window(self) -> Window:
        return Window(self.decided + WINDOW_LENGTH)


class TrainerStage(Enum):
    NEW = "new"  # no journal
    WAITING = "waiting"  # for what the validators say of the next window
    PENDING = "pending"  # the checkpoint or the log of a window is not published


def stage_of(journal: Journal | None) -> TrainerStage:
    if journal is None:
        return TrainerStage.NEW
    return TrainerStage.WAITING if journal.pending is None else TrainerStage.PENDING


# --- what may become known --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beginning:
    """Where a journal starts: behind the last window that the published checkpoints speak of."""

    decided: Window


@dataclass(frozen=True)
class NothingToLearn:
    """The window is passed over."""

    window: Window
    reason: str


@dataclass(frozen=True)
class Published:
    """Checkpoint (where it has a place) and log of the pending window are in the store."""


@dataclass(frozen=True)
class StoreFailed:
    reason: str


Event = Beginning | NothingToLearn | TrainedWindow | Published | StoreFailed | Stopped


# --- what a step asks for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateRecord:
    """Masters and moments as they are now, under this name."""

    file: str


@dataclass(frozen=True)
class JournalRecord:
    """Replaced in one step; states that it does not name may go."""

    journal: Journal


Record = StateRecord | JournalRecord


class Wait(Enum):
    VERDICTS = "verdicts"  # of the window after the last decided one
    STORE = "store"  # try to publish again
    NOTHING = "nothing"  # the role stops


@dataclass(frozen=True)
class Step:
    """The next journal, and what has to be done for it to be true."""

    journal: Journal | None
    records: tuple[Record, ...] = ()
    publish: TrainedWindow | None = None  # what the publisher does next, see `publication_steps`
    wait: Wait = Wait.VERDICTS


def step(journal: Journal | None, event: Event) -> Step:
    """The arrow that `event` takes from the journal's stage.

    Raises:
        ValueError: there is no such arrow, or the window is not the one after the last decided.
    """
    match journal, event:
        case (_, Stopped()):
            return Step(journal, wait=Wait.NOTHING)
        case (None, Beginning(decided)):
            return _write(Journal(decided))
        case (Journal(pending=None), NothingToLearn(window)):
            return _write(replace(_before(journal, window), decided=window))
        case (Journal(pending=None), TrainedWindow(window)):
            before, name = _before(journal, window), f"state-{window}.safetensors"
            after = Journal(window, before.learned + 1, name, event)
            return Step(after, (StateRecord(name), JournalRecord(after)), event, Wait.STORE)
        case (Journal(pending=TrainedWindow()), Published()):
            return _write(replace(journal, pending=None))
        case (Journal(pending=TrainedWindow() as pending), StoreFailed()):
            return Step(journal, publish=pending, wait=Wait.STORE)
    raise ValueError(f"a trainer that is {stage_of(journal).value} cannot take {type(event).__name__}")


def _before(journal: Journal, window: Window) -> Journal:
    if window != journal.next_window:
        raise ValueError(f"window {window} does not follow {journal.decided}, the last decided one")
    return journal


def _write(journal: Journal) -> Step:
    return Step(journal, (JournalRecord(journal),))
