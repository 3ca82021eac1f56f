"""The next window's checkpoint is made ready while this window is still worked on.

A checkpoint is out for `checkpoint_lead` blocks before it is valid. Whoever waits for the window's first block with fetching,
decoding and hashing it does so in time that could earn. One thread does it in the background; what fails there is told and
tried again, here or by whoever needs it in the end, and is nobody's error before that.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from grail_core.errors import GrailError
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Window
from grail_core.telemetry import get_logger, record_traceback

log = get_logger(__name__)

T = TypeVar("T")

POLL_SECONDS: Final = 12.0
"""Between two looks into the trainer's bucket: a block of mainnet."""
KEPT: Final = 2  # what is in use, and what is to be used next


class CheckpointAhead(Generic[T]):
    """Makes checkpoints ready by `prepare`, which must be safe to call from several threads. Keeps the last two results.

    Args:
        prepare: everything that can be done before a checkpoint is used. valid_at: as `CheckpointSource.valid_at`.
    """

    def __init__(
        self,
        prepare: Callable[[CheckpointManifest], T],
        valid_at: Callable[[Window], CheckpointManifest],
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._prepare, self._valid_at, self._poll_seconds = prepare, valid_at, poll_seconds
        self._changed = threading.Condition()
        self._wanted: CheckpointManifest | Window | None = None
        self._running: Digest | None = None
        self._ready: OrderedDict[Digest, T] = OrderedDict()
        self._told: str | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def fetch(self, manifest: CheckpointManifest) -> None:
        """Make this one ready in the background. What was asked for before and has not begun is forgotten."""
        self._want(manifest)

    def follow(self, window: Window) -> None:
        """Make ready whatever is going to be valid in this window, as it comes to be known, until something else is wanted."""
        self._want(window)

    def take(self, manifest: CheckpointManifest) -> T:
        """Ready, or made so here and now; one that is being made is waited for. Raises what `prepare` raises."""
        with self._changed:
            while self._running == manifest.digest:
                self._changed.wait()
            if manifest.digest in self._ready:
                self._ready.move_to_end(manifest.digest)
                return self._ready[manifest.digest]
        made = self._prepare(manifest)
        self._remember(manifest.digest, made)
        return made

    def forget(self, digest: Digest) -> None:
        """Its result is of no use any more."""
        with self._changed:
            self._ready.pop(digest, None)

    def ready(self) -> dict[Digest, T]:
        """What is kept, oldest use first."""
        with self._changed:
            return dict(self._ready)

    def close(self) -> None:
        """End the thread, once what it is at has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _want(self, what: CheckpointManifest | Window) -> None:
        with self._changed:
            self._wanted = what
            self._changed.notify_all()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="checkpoint-ahead", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._wanted is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                wanted = self._wanted
            done = self._try(wanted)
            with self._changed:
                if self._wanted is wanted and not self._closed:
                    if done and isinstance(wanted, CheckpointManifest):
                        self._wanted = None
                    else:
                        self._changed.wait(self._poll_seconds)

    def _try(self, wanted: CheckpointManifest | Window | None) -> bool:
        try:
            if wanted is not None:
                manifest = wanted if isinstance(wanted, CheckpointManifest) else self._valid_at(wanted)
                self._make(manifest)
        except GrailError as error:
            self._tell(error.what)
        except Exception as error:  # noqa: BLE001 - nobody waits for this thread; whoever needs it meets the error himself
            self._tell(f"{type(error).__name__}, its traceback is in {record_traceback(error)}")
        else:
            self._told = None
            return True
        return False

    def _make(self, manifest: CheckpointManifest) -> None:
        digest = manifest.digest
        with self._changed:
            if digest in self._ready:
                return
            self._running = digest
        try:
            made = self._prepare(manifest)
            self._remember(digest, made)
            log.event("checkpoint_ahead", sequence=manifest.sequence, valid_from=manifest.valid_from)
        finally:
            with self._changed:
                self._running = None
                self._changed.notify_all()

    def _remember(self, digest: Digest, made: T) -> None:
        with self._changed:
            self._ready[digest] = made
            self._ready.move_to_end(digest)
            while len(self._ready) > KEPT:
                self._ready.popitem(last=False)

    def _tell(self, reason: str) -> None:
        """Once for each reason, not once for each try."""
        if reason != self._told:
            self._told = reason
            log.event("checkpoint_ahead_failed", level=logging.WARNING, reason=reason)
