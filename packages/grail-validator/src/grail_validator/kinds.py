"""Which kind of work each window has, by the manifests: what a validator's sights and weights go by."""

from __future__ import annotations

from dataclasses import dataclass, field

from grail_core.participant.participant import Participant
from grail_core.protocol.constants import SCORE_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.work import Work, work_of


@dataclass
class WindowKinds:
    """A window's kind never changes once it has begun, so each is asked once."""

    participant: Participant
    _known: dict[Window, Work] = field(default_factory=dict)

    def of(self, window: Window) -> Work:
        """Of a window that has begun.

        Raises:
            CheckpointError, StorageError, ChainError: the checkpoint valid in it cannot be had.
        """
        if window not in self._known:
            self._known[window] = work_of(self.participant.checkpoints.valid_at(window))
        return self._known[window]

    def last(self, window: Window) -> list[str]:
        """Of the last 12 windows up to this one, in ascending order; those before the network's first checkpoint have none.

        Raises:
            CheckpointError, StorageError, ChainError: as `of`.
        """
        stored = self.participant.checkpoints.view().stored
        first = stored[0].manifest.valid_from if stored else window
        oldest = max(first, window - (SCORE_WINDOWS - 1) * WINDOW_LENGTH)
        return [self.of(Window(one)).value for one in range(oldest, window + 1, WINDOW_LENGTH)]
