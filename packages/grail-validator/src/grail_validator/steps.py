r"""The validator as a state machine: what a window does next, from where it stands and what became known.

    UNSEEN --Buckets, in time--> SIGHTED --Case, Void, Unreadable--> JUDGED --TOOK_ALL--> PUBLISHED
       \------------ Turn: never sighted ---------------------------->/  \ FAILED: again later

`sight` and `step` are pure functions; they read no store, chain, clock or disk and may be replayed. What they ask for is
carried out by whoever calls them, in this order: the record, in one transaction of the ledger; then the publications; then
the wait. Killed anywhere in between, a validator finds the window's stage in its ledger and takes the same step again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from grail_core.participant.outcomes import Stopped, Void
from grail_core.protocol import WindowStatus
from grail_core.protocol.constants import LOOKBACK_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.types import Block, Hotkey, Window
from grail_validator.cases import Case, Sighting, Standing, WindowResult, WindowStage
from grail_validator.judging import judge_window, unscored_window


class Publication(Enum):
    """What is put into the store, in the order of a step's list: who sees a verdict can read what it names."""

    EVIDENCE = "evidence"
    FILES = "files"
    VERDICT = "verdict"


RESULT = (Publication.EVIDENCE, Publication.FILES, Publication.VERDICT)


class Wait(Enum):
    """What a window waits for once a step is carried out."""

    CHALLENGE = "challenge"
    TURN = "turn"  # first sight was missed; its turn among the windows to judge
    STORE = "store"  # publish again with the next window, or at the next start
    NOTHING = "nothing"


# --- what may become known --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Buckets:
    """Every registered bucket was asked for its seal. What answered is in the ledger; `late` are those who did not."""

    late: tuple[Sighting, ...]
    block: Block  # at which the last one answered
    last_block: Block  # of first sight


@dataclass(frozen=True)
class Turn:
    """All earlier windows are judged."""


@dataclass(frozen=True)
class Unreadable:
    """This validator lacks something of its own to judge with."""

    reason: str


class StoreAnswer(Enum):
    """How the store took a window's publications."""

    TOOK_ALL = "took all"
    FAILED = "failed"


Event = Turn | Case | Void | Unreadable | Stopped | StoreAnswer


# --- what a step asks for ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SightingsRecord:
    """First sight is over; these did not answer."""

    sightings: tuple[Sighting, ...]


@dataclass(frozen=True)
class ResultRecord:
    """To be signed and written together with everything that later windows depend on."""

    result: WindowResult


@dataclass(frozen=True)
class PublishedRecord:
    """The evidence may leave the ledger."""


Record = SightingsRecord | ResultRecord | PublishedRecord


@dataclass(frozen=True)
class Step:
    """The window's next stage, and what has to be done for it to be true."""

    stage: WindowStage
    record: Record | None = None
    publications: tuple[Publication, ...] = ()
    wait: Wait = Wait.NOTHING


def sight(stage: WindowStage, buckets: Buckets) -> Step:
    """The arrow of first sight. It is taken beside those of earlier windows, so that slow judging costs no sighting."""
    if stage is not WindowStage.UNSEEN:
        return Step(stage)
    if buckets.block > buckets.last_block:
        # What was seen too late is no first sight: a seal could have been put after the challenge was known.
        return Step(stage, wait=Wait.TURN)
    return Step(WindowStage.SIGHTED, SightingsRecord(buckets.late), wait=Wait.CHALLENGE)


def step(window: Window, stage: WindowStage, event: Event, standing: Standing | None = None) -> Step:
    """The arrow that `event` takes from `stage`.

    Args:
        standing: needed by every arrow that leads to JUDGED.

    Raises:
        ValueError: there is no such arrow; the caller has mixed up its windows.
    """
    match stage, event:
        case (_, Stopped()):
            return Step(stage)
        case (WindowStage.UNSEEN, Turn()) if standing is not None:
            reason = "this validator was not there at first sight"
            return _unscored(window, WindowStatus.INCONCLUSIVE, reason, standing)
        case (WindowStage.SIGHTED, Turn()):
            return Step(stage, wait=Wait.CHALLENGE)
        case (WindowStage.SIGHTED, Case()) if standing is not None:
            return _result(judge_window(event))
        case (WindowStage.SIGHTED, Void(reason)) if standing is not None:
            return _unscored(window, WindowStatus.VOID, reason, standing)
        case (WindowStage.SIGHTED, Unreadable(reason)) if standing is not None:
            return _unscored(window, WindowStatus.INCONCLUSIVE, reason, standing)
        case (WindowStage.JUDGED, Turn()):
            return Step(stage, publications=RESULT, wait=Wait.STORE)
        case (WindowStage.JUDGED, StoreAnswer.TOOK_ALL):
            return Step(WindowStage.PUBLISHED, PublishedRecord())
        case (WindowStage.JUDGED, StoreAnswer.FAILED):
            return Step(stage, wait=Wait.STORE)
        case (WindowStage.PUBLISHED, Turn()):
            return Step(stage)
    raise ValueError(f"a window that is {stage.value} cannot take {type(event).__name__}")


def _result(result: WindowResult) -> Step:
    return Step(WindowStage.JUDGED, ResultRecord(result), RESULT, Wait.STORE)


def _unscored(window: Window, status: WindowStatus, reason: str, standing: Standing) -> Step:
    return _result(unscored_window(window, status, reason, standing))


# --- between windows --------------------------------------------------------------------------------------------------


def first_window(current: Window, last_judged: Window | None, began: Window) -> Window:
    """Where a process begins: after the last judged window, else with the one that was running at this ledger's first start.

    Windows that were sealed while it was away are gone through all the same, so that they are recorded as missed; those
    further back than any failure is remembered are not.
    """
    owed = began if last_judged is None else Window(last_judged + WINDOW_LENGTH)
    return max(owed, Window(current - max(LOOKBACK_WINDOWS) * WINDOW_LENGTH))


@dataclass(frozen=True)
class Weights:
    """The weights of the last judged window with the hotkeys they belong to, and before which block weights were last set."""

    of_window: Window | None = None
    weights: Mapping[int, int] = field(default_factory=dict)
    hotkeys: Mapping[int, Hotkey] = field(default_factory=dict)
    set_at: Block | None = None

    def due(self, now: Block, interval: int) -> bool:
        """Is there something to set, and did `interval` blocks pass since the last time? One that is further ahead than that
        was told by a node that is not on this chain, and is not waited for."""
        return bool(self.weights) and (self.set_at is None or abs(now - self.set_at) >= interval)
