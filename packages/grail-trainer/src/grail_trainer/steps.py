"""The trainer as a state machine: what its journal says next, from where it stands and what became known.

    NEW --Beginning--> WAITING --TrainedWindow--> PUBLISHING --TrainedWindow--> FULL
                       |  ^ ^                      |  ^   ^                       |
                       +--+ +------ Published -----+  |   +------- Published -----+
                NothingToLearn                        +-- NothingToLearn, StoreFailed: again later

`step` is a pure function. What it asks for is carried out by whoever calls it, in this order: the records, one after the
other; then the publications; then the wait. Before the journal's record a window has not been learned from, after it it
has, and there is nothing in between. What is not published yet stands in the journal, with its training state beside it, and is
published in the order of windows, by this process while it waits for the next window's verdicts, or by whoever comes next.
Windows are decided in order, each once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from grail_core.participant.outcomes import Stopped
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window

MAX_PENDING: Final = 2
"""Windows learned from whose checkpoint or log is not in the store: one on its way, and the one learned from meanwhile. Each
costs a training state on disk and published weights in memory; a store that is away for longer stops the learning."""


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
    """What a trainer remembers. `decided` is the last window that was learned from or passed over, `pending` what is to be
    published of windows learned from, the oldest first."""

    decided: Window
    learned: int = 0  # windows learned from, in all
    state_file: str | None = None  # None: nothing learned yet, the first checkpoint's weights
    pending: tuple[TrainedWindow, ...] = ()

    @property
    def next_window(self) -> Window:
        return Window(self.decided + WINDOW_LENGTH)

    @property
    def published(self) -> Window:
        """The last window of which, and of all before it, nothing is left to be published."""
        return Window(self.pending[0].window - WINDOW_LENGTH) if self.pending else self.decided

    @property
    def state_files(self) -> tuple[str, ...]:
        """Training states that are needed: of what is pending, in its order, and the one that is gone on from."""
        names = [state_file_of(trained.window) for trained in self.pending]
        return tuple(dict.fromkeys([*names, *([self.state_file] if self.state_file else [])]))


def state_file_of(window: Window) -> str:
    return f"state-{window}.safetensors"


class TrainerStage(Enum):
    NEW = "new"  # no journal
    WAITING = "waiting"  # for what the validators say of the next window
    PUBLISHING = "publishing"  # the same, while the checkpoint or the log of a window is on its way
    FULL = "full"  # no other window is learned from before something is published


def stage_of(journal: Journal | None) -> TrainerStage:
    if journal is None:
        return TrainerStage.NEW
    if len(journal.pending) >= MAX_PENDING:
        return TrainerStage.FULL
    return TrainerStage.PUBLISHING if journal.pending else TrainerStage.WAITING


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
    """Checkpoint (where it has a place) and log of the oldest pending window are in the store."""

    window: Window


@dataclass(frozen=True)
class StoreFailed:
    window: Window
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
    VERDICTS = "verdicts"  # of the window after the last decided one, whatever is on its way to the store
    STORE = "store"  # until something is published
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
        ValueError: there is no such arrow, or the window is not the one whose turn it is.
    """
    match journal, event:
        case (_, Stopped()):
            return Step(journal, wait=Wait.NOTHING)
        case (None, Beginning(decided)):
            return _write(Journal(decided))
        case (Journal(), NothingToLearn(window)):
            return _write(replace(_before(journal, window), decided=window))
        case (Journal(), TrainedWindow(window)) if stage_of(journal) is not TrainerStage.FULL:
            before, name = _before(journal, window), state_file_of(window)
            after = Journal(window, before.learned + 1, name, (*before.pending, event))
            return replace(_write(after), records=(StateRecord(name), JournalRecord(after)), publish=event)
        case (Journal(), Published(window)):
            _oldest(journal, window)
            return _write(replace(journal, pending=journal.pending[1:]))
        case (Journal(), StoreFailed(window)):
            return Step(journal, publish=_oldest(journal, window), wait=_wait(journal))
    raise ValueError(f"a trainer that is {stage_of(journal).value} cannot take {type(event).__name__}")


def _before(journal: Journal, window: Window) -> Journal:
    if window != journal.next_window:
        raise ValueError(f"window {window} does not follow {journal.decided}, the last decided one")
    return journal


def _oldest(journal: Journal, window: Window) -> TrainedWindow:
    if not journal.pending or journal.pending[0].window != window:
        raise ValueError(f"window {window} is not the one that is published next")
    return journal.pending[0]


def _write(journal: Journal) -> Step:
    return Step(journal, (JournalRecord(journal),), wait=_wait(journal))


def _wait(journal: Journal) -> Wait:
    return Wait.STORE if stage_of(journal) is TrainerStage.FULL else Wait.VERDICTS
