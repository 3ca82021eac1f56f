"""The bytes of the files that the quorum accepted, one at a time, from the buckets of validators that accepted them.

Each is read up to MAX_FILE_BYTES and hashed: whoever hands them over, they are the bytes that were sealed or they are not
there. They are kept on disk while the window is decided, as far as there is room: what is not kept is read again.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from grail_core.chain.base import Neuron, seconds_of
from grail_core.disk import write_atomically
from grail_core.errors import ChainError, StorageError
from grail_core.files.shared import get_file
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import LEAST_TRIES
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.base import ObjectTooLargeError
from grail_core.storage.layout import file_key
from grail_core.storage.time_limits import at_most, seconds_left
from grail_core.telemetry import get_logger
from grail_trainer.data.intake import MIN_PAUSE_SECONDS, PATIENCE_BLOCKS, Intake, WantedFile
from grail_trainer.data.refusals import Refusals

log = get_logger(__name__)

MAX_KEPT_BYTES: Final = 16 * 2**30
"""Of one window's files on disk."""
MAX_FETCH_BLOCKS: Final = 10
"""In which a bucket has to hand a file over: 350 MiB in them are 3 MB/s on subnet 81."""


class WantedFiles:
    """The wanted files of one window.

    Args:
        too_late: from this block on nothing of the window is learned from.
    """

    def __init__(self, participant: Participant, window: Window, *, too_late: Block) -> None:
        self._participant, self._window, self._too_late = participant, window, too_late
        self._parent = participant.cache_dir / "accepted"
        self._refusals = Refusals()
        self._complaints: set[tuple[bytes, bytes]] = set()
        self._slow = Counter[Hotkey]()
        self._kept_bytes = 0
        self.forget()  # of a process that was killed

    def each(self, intake: Intake, stop: threading.Event) -> Iterator[tuple[WantedFile, bytes]]:
        """Every file that can be had, once. What cannot be had at first is asked for again, also from validators that had not
        spoken yet, until the trainer's patience with the window is over, and at least `LEAST_TRIES` times; the rest is learned
        from without it."""
        had, tries = 0, 0
        missing = list(intake.wanted)
        while missing and not stop.is_set():
            still: list[WantedFile] = []
            for file in missing:
                data = None if stop.is_set() else self.read(file)
                if data is None:
                    still.append(file)
                    continue
                had += 1
                yield file, data
                del data  # before the next one comes
            missing, tries = still, tries + 1
            if not missing or not self._patient(tries, had):
                break
            stop.wait(self._pause())
            lacking = {file.hotkey for file in missing}
            missing = [file for file in intake.ask_rest() if file.hotkey in lacking]
        if missing and not stop.is_set():
            names = ", ".join(ss58(file.hotkey) for file in missing)
            log.event("accepted_files_missing", window=self._window, files=len(missing), miners=names)

    def read(self, file: WantedFile) -> bytes | None:
        """The file's bytes, None where no validator that accepted it hands them over now."""
        data = self._kept(file.content_digest)
        if data is not None:
            return data
        # Who used all of its time up before is asked behind the others: so it costs once what it may take.
        for holder in sorted(file.holders, key=lambda holder: self._slow[holder.hotkey]):
            data = self._fetch(holder, file)
            if data is not None:
                self._keep(file.content_digest, data)
                return data
        return None

    def forget(self) -> None:
        """Nothing of any window is on disk any more."""
        shutil.rmtree(self._parent, ignore_errors=True)  # it is cache: what stays costs disk and nothing else
        self._kept_bytes = 0

    def _fetch(self, holder: Neuron, file: WantedFile) -> bytes | None:
        if self._refusals.given_up(holder.hotkey):
            return None
        with at_most(seconds_of(MAX_FETCH_BLOCKS, self._participant.params.block_time_ms)):
            data = self._fetched(holder, file)
            if data is None and seconds_left() <= 0:
                self._slow[holder.hotkey] += 1
        return data

    def _fetched(self, holder: Neuron, file: WantedFile) -> bytes | None:
        validator, key = holder.hotkey, file_key(file.content_digest)
        etag = ""
        try:
            store = self._participant.directory.open(holder.commitment or "")
            info = store.head(key)
            if info is None:
                self._complain(holder, file, "the validator accepted this file and does not have it")
                return None
            if self._refusals.knows(validator, key, info.etag):
                return None
            etag = info.etag
            if info.size > MAX_FILE_BYTES:
                raise ObjectTooLargeError(f"{info.size} bytes; a window file has at most {MAX_FILE_BYTES}", where=key)
            data = get_file(store, key, file.content_digest, size=MAX_FILE_BYTES)
        except ObjectTooLargeError as error:
            self._refusals.add(validator, key, etag)
            self._complain(holder, file, error.what)
            return None
        except StorageError as error:
            self._complain(holder, file, error.what)
            return None
        except Exception as error:  # what a bucket does that nobody thought of costs what it alone has
            log.exception("unforeseen with the bucket of %s in window %d", ss58(validator), self._window)
            self._refusals.add(validator, key, etag)
            self._complain(holder, file, f"unforeseen in this trainer: {type(error).__name__}")
            return None
        if data is None:
            self._refusals.add(validator, key, etag)
            self._complain(holder, file, "the bytes are not those of the digest")
        return data

    def _complain(self, holder: Neuron, file: WantedFile, reason: str) -> None:
        if (holder.hotkey, file.content_digest) not in self._complaints:
            self._complaints.add((holder.hotkey, file.content_digest))
            log.event(
                "accepted_file_unreadable",
                window=self._window,
                validator=ss58(holder.hotkey),
                hotkey=ss58(file.hotkey),
                reason=reason,
            )

    def _patient(self, tries: int, had: int) -> bool:
        """Is what is missing asked for again? Where nothing was had at all the fault may be ours, and the window is not given
        up before its rollouts are too old."""
        until = self._participant.times(self._window).challenge_block + PATIENCE_BLOCKS if had else self._too_late
        try:
            return tries < LEAST_TRIES or self._participant.chain.current_block() < until
        except ChainError:
            return True

    def _pause(self) -> float:
        return max(MIN_PAUSE_SECONDS, seconds_of(0.25, self._participant.params.block_time_ms))

    def _kept(self, digest: Digest) -> bytes | None:
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            return None  # never kept, or the cache was cleaned
        return data if hashlib.sha256(data).digest() == digest else None

    def _keep(self, digest: Digest, data: bytes) -> None:
        if self._kept_bytes + len(data) > MAX_KEPT_BYTES:
            return
        try:
            write_atomically(self._path(digest), data)
        except StorageError as error:  # a full disk among them: the file is read again where it is needed again
            log.event("accepted_file_not_kept", window=self._window, digest=digest.hex(), reason=error.what)
            return
        self._kept_bytes += len(data)

    def _path(self, digest: Digest) -> Path:
        return self._parent / str(self._window) / digest.hex()
