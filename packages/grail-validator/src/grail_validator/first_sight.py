"""First sight: what lay in every registered hotkey's bucket when the deadline had passed.

Only an object seen now is a window file. Runs in its own thread, so that slow judging of one window never costs the next
one its first sight; what it saw goes to the ledger at once, the files are fetched right after, pinned by their ETags.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from grail_core.chain.base import Neuron
from grail_core.disk import write_atomically
from grail_core.errors import ChainError, StorageError
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol.constants import MAX_FILE_BYTES, WINDOW_LENGTH
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdicts import MAX_ETAG
from grail_core.storage.base import ObjectNotFoundError, PreconditionFailedError
from grail_core.storage.layout import window_key
from grail_core.telemetry import get_logger
from grail_validator.cases import FetchedFile, Sighting, WindowStage
from grail_validator.ledger import Ledger
from grail_validator.steps import Buckets, SightingsRecord, sight

log = get_logger(__name__)

_RETRY_SECONDS = 1.0
_PARALLEL = 16  # HEADs and GETs at once: I/O, not computation


@dataclass
class FirstSight:
    participant: Participant
    ledger: Ledger
    cache: Path

    def run(self, first: Window, stop: threading.Event, done: Callable[[Window], None]) -> None:
        """Sight windows from `first` on; `done(window)` after each, sighted or missed."""
        window = first
        while not stop.is_set():
            try:
                if not self.participant.wait_for_block(self.participant.times(window).deadline_block, stop):
                    return
                self.sight(window)
            except ChainError as error:  # until first sight is over it may answer again
                log.event("chain_unreadable", window=window, reason=error.what)
                stop.wait(_RETRY_SECONDS)
                continue
            done(window)
            window = Window(window + WINDOW_LENGTH)

    def sight(self, window: Window) -> None:
        """HEAD every registered key, unless it is done already or first sight is over.

        Raises:
            ChainError: nothing is recorded; worth another try.
        """
        stage = self.ledger.stage(window)
        if stage is not WindowStage.UNSEEN:
            log.event("first_sight_kept", window=window, stage=stage.value)  # from before a restart
            return
        chain, last_block = self.participant.chain, self.participant.times(window).first_sight_end_block
        now = chain.current_block()
        if now > last_block:
            log.event("first_sight_missed", window=window, block_now=now, last_block=last_block)
            return
        neurons = self.participant.miners_at(window)
        with ThreadPoolExecutor(_PARALLEL) as pool:
            sightings = tuple(pool.map(lambda neuron: self._head(window, neuron), neurons))
        taken = sight(stage, Buckets(sightings, chain.current_block(), last_block))
        if not isinstance(taken.record, SightingsRecord):
            log.event("first_sight_missed", window=window, reason="the stores answered after first sight was over")
            return
        self.ledger.record_sightings(window, taken.record.sightings)
        log.event("first_sight", window=window, registered=len(neurons), seen=sum(s.etag is not None for s in sightings))

    def fetch(self, window: Window, neuron: Neuron, sighting: Sighting) -> FetchedFile:
        """The bytes seen at first sight, from the cache or the store."""
        path = self._cached(window, neuron.hotkey)
        try:
            data = path.read_bytes()
        except OSError:
            data = b""  # not fetched yet, or the cache was cleaned
        if data and len(data) == sighting.size:
            return FetchedFile(data, _sha256(data))
        if sighting.size > MAX_FILE_BYTES:
            return FetchedFile(
                None, None, gone=True, reason=f"the file has {sighting.size} bytes, the limit is {MAX_FILE_BYTES}"
            )
        key = window_key(ss58(neuron.hotkey), window)
        try:
            store = self.participant.directory.open(neuron.commitment or "")
            data = store.get(key, max_bytes=MAX_FILE_BYTES, if_match=sighting.etag)
        except (ObjectNotFoundError, PreconditionFailedError) as error:
            return FetchedFile(None, None, gone=True, reason=f"seen at first sight, then changed or removed: {error.what}")
        except StorageError as error:
            return FetchedFile(None, None, reason=f"the store does not answer: {error.what}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        return FetchedFile(data, _sha256(data))

    def forget(self, window: Window) -> None:
        """Drop the cached files of a window."""
        shutil.rmtree(self.cache / str(window), ignore_errors=True)  # it is cache: what stays costs disk and nothing else

    def _head(self, window: Window, neuron: Neuron) -> Sighting:
        try:
            info = self.participant.directory.open(neuron.commitment or "").head(window_key(ss58(neuron.hotkey), window))
        except StorageError as error:
            log.event("head_failed", window=window, hotkey=ss58(neuron.hotkey), reason=error.what)
            return Sighting(neuron.hotkey)
        if info is None:
            return Sighting(neuron.hotkey)
        return Sighting(neuron.hotkey, info.etag[:MAX_ETAG], info.size, info.stored_at_ms)

    def _cached(self, window: Window, hotkey: Hotkey) -> Path:
        return self.cache / str(window) / f"{hotkey.hex()}.parquet"


def _sha256(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())
