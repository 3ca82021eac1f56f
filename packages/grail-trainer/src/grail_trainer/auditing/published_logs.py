"""The training logs of a network's trainer, as somebody reads them who was not there."""

from __future__ import annotations

from typing import Final

from grail_core.errors import StorageError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.base import ObjectNotFoundError, ObjectStore, ObjectTooLargeError
from grail_core.storage.layout import training_log_key
from grail_core.storage.time_limits import at_most
from grail_trainer.publishing.training_log import MAX_LOG_BYTES, SignedLog, TrainingLog

MAX_READ_SECONDS: Final = 120.0
"""That one log may take, whatever its store does."""


class NoLogError(StorageError):
    """The trainer has published no log of this window: it learned nothing from it, or has not come to it."""


class BadLogError(StorageError):
    """What lies there is no training log of this trainer, network and window."""


class PublishedLogs:
    """Logs in the trainer's bucket; each is read once."""

    def __init__(self, store: ObjectStore, *, network_id: Digest, trainer: Hotkey) -> None:
        self._store, self._network_id, self._trainer = store, network_id, trainer
        self._read: dict[Window, TrainingLog] = {}

    def of(self, window: Window) -> TrainingLog:
        """A window's log, its signature verified.

        Raises:
            NoLogError, BadLogError; StorageError: the store does not answer.
        """
        if window not in self._read:
            self._read[window] = self._fetch(window)
        return self._read[window]

    def windows(self, first: Window, last: Window) -> list[Window]:
        """Those from `first` to `last` that something lies for. Raises StorageError."""
        found = []
        for window in range(first, last + 1, WINDOW_LENGTH):
            with at_most(MAX_READ_SECONDS):
                if self._store.head(training_log_key(Window(window))) is not None:
                    found.append(Window(window))
        return found

    def _fetch(self, window: Window) -> TrainingLog:
        key = training_log_key(window)
        try:
            with at_most(MAX_READ_SECONDS):
                signed = SignedLog.decode(self._store.get(key, max_bytes=MAX_LOG_BYTES))
        except ObjectNotFoundError as error:
            raise NoLogError("the trainer has published no log of it", where=key) from error
        except ObjectTooLargeError as error:
            raise BadLogError(f"no training log: more than {MAX_LOG_BYTES} bytes", where=key) from error
        except ValueError as error:
            raise BadLogError(f"no training log: {error}", where=key) from error
        if not signed.verify(self._network_id, self._trainer) or signed.log.window != window:
            raise BadLogError("the log is not signed by this network's trainer, or of another window", where=key)
        return signed.log
