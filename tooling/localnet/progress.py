"""What the roles have done, from the events they write: the conductor's view of a run.

Every event counted here is written after the durable act it tells of (the object is in the bucket, the row in the ledger, the
extrinsic on the chain). Where a role was killed between the act and the line, its restart finds the act done and says so.
"""

from __future__ import annotations

from collections import Counter

from grail_core.protocol.types import Window
from tooling.localnet.conductor import Need, Task
from tooling.localnet.events import Event

PRODUCED = {
    "groups_produced",
    "window_mined",
    "window_already_mined",
    "window_skipped",
    "window_empty",
    "window_withheld",
}
"""Events after which a miner makes no more groups of the window they name."""
TASKS = {
    "trainer_started": Task.START,
    "validator_started": Task.START,
    "miner_started": Task.START,
    "training_begun": Task.PUBLISH,
    "window_mined": Task.MINE,
    "window_already_mined": Task.MINE,
    "window_skipped": Task.MINE,
    "window_empty": Task.MINE,
    "window_withheld": Task.MINE,
    "upload_failed": Task.MINE,
    "first_sight": Task.SIGHT,
    "first_sight_kept": Task.SIGHT,
    "first_sight_missed": Task.SIGHT,
    "verdict_published": Task.JUDGE,
    "verdict_kept": Task.JUDGE,
    "weights_sent": Task.WEIGH,
    "weights_awaited": Task.WEIGH,
    "weights_kept": Task.WEIGH,
    "weights_refused": Task.WEIGH,
    "window_trained": Task.TRAIN,
    "window_not_trained": Task.TRAIN,
}
"""What each event says was done, for the window it names."""


class Progress:
    """Folds events. `signs` counts the events of each process: whoever writes one lives."""

    def __init__(self) -> None:
        self.done: set[Need] = set()
        self.awaiting: set[Need] = set()  # verdicts that wait for blocks, since a drawn file could not be had
        self.signs: Counter[str] = Counter()

    def apply(self, event: Event) -> None:
        self.signs[event.process] += 1
        window = event.integer("window")
        if event.name in PRODUCED:
            self._note(event.process, Task.PRODUCE, window)
        if event.name == "files_awaited" and window is not None:
            self.awaiting.add(Need(event.process, Task.JUDGE, Window(window)))
        if task := TASKS.get(event.name):
            self._note(event.process, task, window)
        elif event.name == "training_resumed":
            self._note(event.process, Task.PUBLISH)
            published = event.integer("published")  # the last window that was published or passed over, as all before it
            if published is not None:
                self._note(event.process, Task.TRAIN, published)

    def _note(self, role: str, task: Task, window: int | None = None) -> None:
        named = None if window is None or task in (Task.START, Task.PUBLISH) else Window(window)
        self.done.add(Need(role, task, named))
