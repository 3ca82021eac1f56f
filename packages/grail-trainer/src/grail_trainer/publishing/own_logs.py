"""Which training log a new one follows: found in one's own bucket after a start, and remembered from then on."""

from __future__ import annotations

from grail_core.errors import StorageError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import training_log_key
from grail_trainer.publishing.training_log import MAX_LOG_BYTES, LogLink, digest_of_log


class OwnLogs:
    """The training logs in a trainer's own bucket, of which it is the only writer."""

    def __init__(self, store: ObjectStore, network_id: Digest) -> None:
        self._store, self._network_id = store, network_id
        self._newest: LogLink | None = None  # of this process

    def before(self, window: Window, first: Window) -> LogLink | None:
        """The newest log of a window before this one and not before `first`, the network's first.

        A window that was passed over has none, so this goes back window by window, once in a process.

        Raises:
            StorageError: the store does not answer, or what lies there is no log.
        """
        if self._newest is not None and self._newest.window < window:
            return self._newest
        for one in range(window - WINDOW_LENGTH, first - 1, -WINDOW_LENGTH):
            key = training_log_key(Window(one))
            if self._store.head(key) is None:
                continue
            try:
                digest = digest_of_log(self._store.get(key, max_bytes=MAX_LOG_BYTES), self._network_id)
            except ValueError as error:
                raise StorageError(
                    f"what lies in our own bucket is no training log: {error}",
                    where=key,
                    hint="somebody else writes into this bucket; bring the log back, or remove it",
                ) from error
            return LogLink(Window(one), digest)
        return None

    def put(self, window: Window, digest: Digest) -> None:
        """This process has put one."""
        self._newest = LogLink(window, digest)
