"""Which training log a new one follows: found in one's own bucket after a start, and remembered from then on."""

from __future__ import annotations

from dataclasses import dataclass

from grail_core.errors import StorageError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import training_log_key
from grail_trainer.publishing.training_log import MAX_LOG_BYTES, LogLink, SignedLog, TrainingLog, digest_of_log


@dataclass(frozen=True)
class LogBefore:
    """`origin`: the checkpoint that its state began with; None where it does not say (an earlier version's)."""

    link: LogLink
    origin: Digest | None


class OwnLogs:
    """The training logs in a trainer's own bucket, of which it is the only writer."""

    def __init__(self, store: ObjectStore, network_id: Digest) -> None:
        self._store, self._network_id = store, network_id
        self._newest: LogBefore | None = None  # of this process

    def before(self, window: Window, first: Window) -> LogBefore | None:
        """The newest log of a window before this one and not before `first`, the network's first.

        A window that was passed over has none, so this goes back window by window, once in a process.

        Raises:
            StorageError: the store does not answer, or what lies there is no log.
        """
        if self._newest is not None and self._newest.link.window < window:
            return self._newest
        for one in range(window - WINDOW_LENGTH, first - 1, -WINDOW_LENGTH):
            key = training_log_key(Window(one))
            if self._store.head(key) is None:
                continue
            try:
                return self._read(Window(one), self._store.get(key, max_bytes=MAX_LOG_BYTES))
            except ValueError as error:
                raise StorageError(
                    f"what lies in our own bucket is no training log: {error}",
                    where=key,
                    hint="somebody else writes into this bucket; bring the log back, or remove it",
                ) from error
        return None

    def put(self, log: TrainingLog) -> None:
        """This process has put one."""
        self._newest = LogBefore(LogLink(log.window, log.digest()), log.origin)

    def forget(self) -> None:
        """Look again: what was put is of another version."""
        self._newest = None

    def _read(self, window: Window, raw: bytes) -> LogBefore:
        digest = digest_of_log(raw, self._network_id)
        try:
            origin = SignedLog.decode(raw).log.origin
        except ValueError:  # a body of an earlier version, which still has its digest
            origin = None
        return LogBefore(LogLink(window, digest), origin)
