"""Generation that requests join and leave while it runs: tokens are handed out as they are drawn, row by row.

The caller owns the loop: `add` what came, `step`, pass on what it gave, `cancel` what nobody waits for any more. A seed makes a
row's tokens independent of its company, up to near ties of numerics. No threads and no waiting here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType, Protocol

from grail_core.generation.base import GenerationRequest

Handle = NewType("Handle", int)
"""A row of one generator, from `add` until it is finished or cancelled; never given twice."""


@dataclass(frozen=True)
class Advance:
    """What a step drew of one row."""

    handle: Handle
    tokens: tuple[int, ...]  # the end token, if any, is the last; none where all that is new is that it is finished
    finished: bool
    first: bool  # the row had none before


class StreamingGenerator(Protocol):
    """Draws tokens, those of every row in order. Calls come from one thread."""

    def add(self, request: GenerationRequest) -> Handle:
        """From a next step on this row is drawn too, by its own policy if it has one.

        Raises:
            OutOfVocabularyError, OverlongSequenceError, ProtocolViolationError: it cannot be drawn; nothing else is touched.
        """
        ...

    def step(self) -> list[Advance]:
        """Some more tokens of the rows that run, each row at most once; none where there is nothing to draw.

        After an error nothing of this generator can be used.

        Raises:
            CheckpointError: the model's code asks for what is not decoded here. What memory and devices raise.
        """
        ...

    def cancel(self, handle: Handle) -> None:
        """Nothing more of this row; of one that is not there any more nothing happens."""
        ...
