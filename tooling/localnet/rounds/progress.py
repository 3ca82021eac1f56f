"""What the roles have done in rounds, from their events. As in `localnet.progress`, each is written after what it tells of."""

from __future__ import annotations

from tooling.localnet.conductor import Task
from tooling.localnet.events import Event
from tooling.localnet.progress import Progress

TASKS = {
    "aggregator_started": (Task.START,),
    "round_sealed": (Task.MINE,),
    "round_revealed": (Task.REVEAL,),
    "round_withheld": (Task.REVEAL,),
    "round_opened": (Task.REVEAL, Task.OPEN),
    "round_void": (Task.REVEAL, Task.OPEN),
    "window_skipped": (Task.REVEAL, Task.OPEN),
    "round_seals_seen": (Task.SIGHT,),
    "round_files_seen": (Task.SIGHT_FILES,),
    "merge_published": (Task.TRAIN,),
    "merge_kept": (Task.TRAIN,),
    "round_not_merged": (Task.TRAIN,),
}
"""What each event says was done, for the round it names."""
SIGHTS = {"seal": Task.SIGHT, "update": Task.SIGHT_FILES, "opening": Task.SIGHT_FILES}
"""What `round_sight_kept` and `round_sight_missed` tell of."""


class RoundProgress(Progress):
    def apply(self, event: Event) -> None:
        super().apply(event)
        window = event.integer("window")
        round_ = event.integer("round") if window is None else window
        for task in TASKS.get(event.name, ()):
            self._note(event.process, task, round_)
        if event.name in ("round_sight_kept", "round_sight_missed"):
            self._note(event.process, SIGHTS.get(event.text("of"), Task.SIGHT), round_)
        if event.name == "round_sight_missed":  # of whose seals were not seen no files are looked at
            self._note(event.process, Task.SIGHT_FILES, round_)
