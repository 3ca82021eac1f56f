"""Which published checkpoints are evaluated, as a state machine of one number: the last checkpoint that had its turn.

A turn comes with the first checkpoint that is seen, and then whenever a multiple of `every` is reached or passed by the
checkpoints' own numbers, which go on over restarts. Where an evaluation is still running then, the turn is passed over and not
made up for: the next one is another's. `step` is a pure function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


@dataclass(frozen=True)
class Schedule:
    """`considered`: number of the last checkpoint that had its turn, whatever came of it; None: none had."""

    every: int  # checkpoints; 0: none is evaluated
    considered: int | None = None
    running: bool = False


class Turn(Enum):
    NONE = "none"
    START = "start"
    PASSED = "passed"  # the evaluation before is not done


@dataclass(frozen=True)
class Out:
    """A checkpoint is in the store."""

    sequence: int


@dataclass(frozen=True)
class Ended:
    """The evaluation that was running is over, one way or another."""


def step(schedule: Schedule, event: Out | Ended) -> tuple[Schedule, Turn]:
    """What becomes of the schedule, and what is to be done."""
    if isinstance(event, Ended):
        return replace(schedule, running=False), Turn.NONE
    if not _due(schedule, event.sequence):
        return schedule, Turn.NONE
    if schedule.running:
        return replace(schedule, considered=event.sequence), Turn.PASSED
    return replace(schedule, considered=event.sequence, running=True), Turn.START


def _due(schedule: Schedule, sequence: int) -> bool:
    if schedule.every < 1:
        return False
    return schedule.considered is None or sequence // schedule.every > schedule.considered // schedule.every
