"""Publishing beside the waiting for the next window: one thread, one window at a time, in the order of windows.

It owns what it publishes: weights that were copied from the masters before the next update could touch them. With the main
thread it shares the journal, whose steps are taken one at a time, and nothing else. What fails is told and tried until the
role is stopped; what nobody foresaw gets a few tries and then ends the role, with its own error, so that whoever started it
starts it again: the journal still holds the window.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from grail_core.errors import AlarmStopError, ChainError, DiskFullError, GrailError, StorageError, is_out_of_memory
from grail_core.participant.waiting import LEAST_TRIES, RETRY_SECONDS
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_core.telemetry import get_logger
from grail_trainer.publishing.publication import Publisher
from grail_trainer.state import TrainerState
from grail_trainer.steps import MAX_PENDING, Published, StoreFailed, TrainedWindow

log = get_logger(__name__)

LOOK_SECONDS: Final = 0.2
"""Between two looks at whether the role is to stop, while something has to be published first."""


Tell = Callable[[TrainedWindow, CheckpointManifest | None], None]
"""What was published of a window; None: its weights come with the next checkpoint."""


@dataclass(frozen=True)
class Snapshot:
    """A trained window and the weights that its update ended with, bfloat16 on the CPU."""

    trained: TrainedWindow
    weights: Mapping[str, Tensor]


class BackgroundPublisher:
    """Publishes snapshots in the order in which they are given.

    Args:
        stop: the role's. What is waiting when it is set is still tried once, and stays in the journal where that fails.
        last: no window after this one will follow (see `Publisher.publish_trained`).
        tell: called in this thread once a window is in the store, and the journal says so.
    """

    def __init__(
        self, publisher: Publisher, state: TrainerState, stop: threading.Event, *, last: Window | None, tell: Tell
    ) -> None:
        self._publisher, self._state, self._stop, self._last, self._tell = publisher, state, stop, last, tell
        self._changed = threading.Condition()
        self._waiting: deque[Snapshot] = deque()
        self._closing = False
        self._hurried = False  # the main thread has ended with an error and waits for this one
        self._error: Exception | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """The thread lives as long as this is entered; leaving it waits for what was given.

        Where the body raises, what was given is tried once more and stays in the journal where that fails: an error is not held
        back while a store is away. What an alarm stopped is published first, however long that takes.

        Raises: what ended the thread, where the body did not raise by itself.
        """
        thread = threading.Thread(target=self._run, name="publisher")
        thread.start()
        try:
            yield
        except AlarmStopError:
            raise
        except BaseException:
            self._hurried = True
            raise
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            thread.join()
        if self._error is not None:
            raise self._error

    @property
    def halting(self) -> threading.Event:
        """The role's stop, set too once this thread has ended with an error."""
        return _Either(self._stop, self)

    @property
    def failed(self) -> bool:
        return self._error is not None

    def give(self, snapshot: Snapshot) -> None:
        with self._changed:
            self._waiting.append(snapshot)
            self._changed.notify_all()

    def has_room(self) -> bool:
        """Wait until another window may be learned from; False: stopped or failed meanwhile."""
        with self._changed:
            while len(self._state.pending) >= MAX_PENDING:
                if self.failed or self._stop.is_set():
                    return False
                self._changed.wait(LOOK_SECONDS)
        return not self.failed

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                snapshot = self._waiting[0]
            try:
                published = self._published(snapshot)
            except Exception as error:  # noqa: BLE001 - the main thread raises it
                self._end(error)
                return
            if not published:
                return
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _published(self, snapshot: Snapshot) -> bool:
        """Try until it is done; False: stopped, and the journal keeps it."""
        trained, unforeseen = snapshot.trained, 0
        while True:
            try:
                manifest = self._publisher.publish_trained(trained, snapshot.weights, last=self._is_last(trained.window))
                break
            except DiskFullError:
                raise
            except (StorageError, ChainError) as error:
                reason = error.what
            except GrailError:
                raise  # somebody has to look: the sequence is not the one that this trainer continues
            except Exception as error:
                unforeseen += 1
                if is_out_of_memory(error) or unforeseen >= LEAST_TRIES:
                    raise
                log.exception("unforeseen while window %d was published", trained.window)
                reason = f"unforeseen in this trainer: {type(error).__name__}"
            log.event("publish_failed", window=trained.window, reason=reason)
            self._state.take(StoreFailed(trained.window, reason))
            if self._hurried or self._stop.wait(RETRY_SECONDS):
                return False
        self._state.take(Published(trained.window))
        self._tell(trained, manifest)
        return True

    def _is_last(self, window: Window) -> bool:
        return self._last is not None and window >= self._last


class _Either(threading.Event):
    """Set once the role's stop is, or the publisher has failed. Whoever waits looks again at least as often as it would."""

    def __init__(self, stop: threading.Event, publisher: BackgroundPublisher) -> None:
        super().__init__()
        self._stop, self._publisher = stop, publisher

    def is_set(self) -> bool:
        return self._stop.is_set() or self._publisher.failed

    def wait(self, timeout: float | None = None) -> bool:
        self._stop.wait(timeout)
        return self.is_set()
