"""The bytes that seals name: from the miner's bucket, from other validators' buckets, and into our own.

The seal's digest says which bytes they are, so it does not matter who hands them over: what is not those bytes is as if not
there. Files wait in a cache whose loss costs another fetch; they are opened one at a time, by whoever judges.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from grail_core.chain.base import Neuron, seconds_of
from grail_core.disk import remove_any, storage_errors
from grail_core.errors import ChainError, DiskFullError, StorageError
from grail_core.files.shared import put_file
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol import Seal
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.layout import file_key, window_key
from grail_core.storage.time_limits import at_most
from grail_core.telemetry import get_logger
from grail_validator.cases import Sealed

log = get_logger(__name__)

TRIES_AT_BLOCKS: Final = (0, 2, 5)
"""After the challenge block: when a drawn file that could not be had is asked for again."""
MAX_FETCH_BLOCKS: Final = 10
"""In which a file has to come, once asked for: 350 MiB in them are 3 MB/s on subnet 81."""
MAX_ROUNDS_BLOCKS: Final = 15
"""That all tries take together, however many files are drawn: with what comes after it, less than a window."""
MAX_ELSEWHERE_BLOCKS: Final = 5
"""That looking for files in other validators' buckets takes together."""
_PARALLEL = 64  # fetches at once: one that drips holds up none, and each holds a chunk in memory
_CHUNK = 4 * 2**20
_MAX_HEAD_SECONDS = 5.0  # that another validator's bucket gets to say whether it has a file


@dataclass
class WindowFiles:
    """The drawn files of one window."""

    participant: Participant
    window: Window
    _neurons: dict[Hotkey, Neuron] = field(default_factory=dict)
    _had: set[Digest] = field(default_factory=set)
    _others: list[Neuron] = field(default_factory=list)
    _again_until: float | None = None  # time.monotonic(): what files that were lost may take together
    _elsewhere_until: float | None = None  # and those that are looked for in other buckets

    def fetch(self, drawn: Sequence[Sealed], stop: threading.Event) -> None:
        """Bring what can be had into the cache, side by side; what cannot is asked for again some blocks later.

        Raises:
            DiskFullError: there is no room for them.
        """
        self._neurons = {one.entry.neuron.hotkey: one.entry.neuron for one in drawn}
        self._forget_partial()
        missing = list(drawn)
        first = self.participant.times(self.window).challenge_block
        until: float | None = None
        for after in TRIES_AT_BLOCKS:
            if not missing or stop.is_set() or not self._waited(Block(first + after), stop):
                return
            until = until or time.monotonic() + self._seconds(MAX_ROUNDS_BLOCKS)
            bring = partial(self._bring_by, until)
            with ThreadPoolExecutor(min(_PARALLEL, len(missing)), thread_name_prefix="file") as pool:
                quickly_refused = list(pool.map(bring, missing))
            # Who took so long to say nothing has had its time; who said no at once is asked again, however long others took.
            missing = [one for one, again in zip(missing, quickly_refused, strict=True) if again]
            if missing and not after:
                log.event("files_awaited", window=self.window, files=len(missing))

    def of(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        """From the cache; once more from the miner's bucket where the cache has lost it.

        Raises:
            StorageError: it was had, and this machine has lost it: nobody's fault but ours.
        """
        if seal.content_digest not in self._had:
            return None
        data = self._read(seal.content_digest)
        if data is not None:
            return data
        self._again_until = self._again_until or time.monotonic() + self._seconds(MAX_FETCH_BLOCKS)
        if self._bring(self._neurons[hotkey], seal, self._again_until - time.monotonic()):
            data = self._read(seal.content_digest)
        if data is None:
            raise StorageError(
                "the cache has lost a file that was fetched",
                where=str(self.participant.files.root),
                hint="leave it more room (GRAIL_FILE_CACHE_GIB): the drawn files of a window should fit",
            )
        return data

    def elsewhere(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        self._elsewhere_until = self._elsewhere_until or time.monotonic() + self._seconds(MAX_ELSEWHERE_BLOCKS)
        holders = self._holders(seal, self._elsewhere_until - time.monotonic())
        for neuron in holders:
            left_s = self._elsewhere_until - time.monotonic()
            # Half of what is left: who says that it has the file and drips leaves time to the next one.
            if left_s > 0 and self._download(neuron, file_key(seal.content_digest), seal, left_s / 2):
                log.event("file_from_validator", window=self.window, hotkey=ss58(hotkey), validator=ss58(neuron.hotkey))
                return self._read(seal.content_digest)
        return None

    def _holders(self, seal: Seal, left_s: float) -> list[Neuron]:
        """Other validators who say that they have it, by stake; all are asked at once."""
        others = self._others = self._others or self._other_validators()
        if left_s <= 0 or not others:
            return []

        def has(neuron: Neuron) -> bool:
            try:
                with at_most(min(left_s, _MAX_HEAD_SECONDS)):
                    info = self.participant.directory.open(neuron.commitment or "").head(file_key(seal.content_digest))
            except StorageError:
                return False
            except Exception:  # a stranger's bucket
                log.exception("unforeseen in the bucket of %s", ss58(neuron.hotkey))
                return False
            return info is not None and info.size == seal.size

        with ThreadPoolExecutor(min(_PARALLEL, len(others)), thread_name_prefix="elsewhere") as pool:
            return [neuron for neuron, there in zip(others, pool.map(has, others), strict=True) if there]

    def share(self, hotkey: Hotkey, seal: Seal, data: bytes) -> None:
        """Now, for other validators; where our store does not take it now, `share_cached` tries again with the verdict."""
        try:
            put_file(self.participant.own_store, seal.content_digest, data)
        except DiskFullError:
            raise
        except StorageError as error:
            self.participant.files.put(self._key(seal.content_digest), data, seal.content_digest)
            log.event("file_not_shared", window=self.window, hotkey=ss58(hotkey), reason=error.what, retry="with the verdict")

    def share_cached(self, digest: Digest) -> None:
        """Make sure that an accepted file lies in our bucket.

        Raises:
            StorageError: our store does not answer.
        """
        store = self.participant.own_store
        if store.head(file_key(digest)) is not None:
            return
        data = self._read(digest)
        if data is None:
            # Its verdict stands without it: whoever wants the bytes has them from the miner or another validator.
            log.event("file_lost", window=self.window, digest=digest.hex())
            return
        put_file(store, digest, data)

    def forget(self) -> None:
        """What was fetched for this window, at the latest once its verdict is out."""
        self.participant.files.forget(f"{self.window}/{self.participant.signer.hotkey.hex()}")

    def _bring_by(self, until: float, one: Sealed) -> bool:
        """Whether it is worth another try: it did not come, and that took no time."""
        started = time.monotonic()
        limit_s = min(self._seconds(MAX_FETCH_BLOCKS), until - started)
        there = self._bring(one.entry.neuron, one.seal, limit_s)
        return not there and time.monotonic() - started < self._seconds(TRIES_AT_BLOCKS[-1])

    def _bring(self, neuron: Neuron, seal: Seal, limit_s: float) -> bool:
        """Into the cache, if it is not there."""
        there = self.participant.files.has(self._key(seal.content_digest))
        if not there:
            there = self._download(neuron, window_key(ss58(neuron.hotkey), self.window), seal, limit_s)
        if there:
            self._had.add(seal.content_digest)
        return there

    @property
    def _fetching(self) -> Path:
        return self.participant.files.root / "fetching"

    @property
    def _own_prefix(self) -> str:
        """The processes of this machine share the folder, and one of them runs this hotkey."""
        return f"{self.participant.signer.hotkey.hex()}-"

    def _forget_partial(self) -> None:
        """What a process that was killed had begun to fetch; no budget counts it."""
        for path in self._fetching.glob(f"{self._own_prefix}*"):
            remove_any(path)

    def _download(self, neuron: Neuron, key: str, seal: Seal, limit_s: float) -> bool:
        """Chunk by chunk onto the disk, whoever's bucket it is; what is not the sealed bytes is dropped.

        Two hotkeys may have sealed one digest, one of them to spoil the other's: each owner's bytes have a place of their own.
        """
        files = self.participant.files
        partial = self._fetching / f"{self._own_prefix}{neuron.hotkey.hex()}-{seal.content_digest.hex()}"
        digest, size = hashlib.sha256(), 0
        try:
            store = self.participant.directory.open(neuron.commitment or "")
            with storage_errors(partial):
                partial.parent.mkdir(parents=True, exist_ok=True)
                with at_most(limit_s), partial.open("wb") as file:
                    for offset in range(0, seal.size, _CHUNK):
                        length = min(_CHUNK, seal.size - offset)
                        data = store.get(key, max_bytes=length, offset=offset, length=length)
                        digest.update(data)
                        size += file.write(data)
                        if len(data) != length:
                            break
            same = size == seal.size and digest.digest() == seal.content_digest
            if same:
                files.adopt(self._key(seal.content_digest), partial)
            else:
                log.event("file_not_had", window=self.window, key=key, reason="other bytes than were sealed")
        except DiskFullError:
            raise
        except StorageError as error:
            log.event("file_not_had", window=self.window, key=key, owner=ss58(neuron.hotkey), reason=error.what)
            return False
        except Exception as error:  # what a bucket does that nobody thought of costs what lies in it
            log.exception("unforeseen while fetching %s", key)
            log.event("file_not_had", window=self.window, key=key, owner=ss58(neuron.hotkey), reason=type(error).__name__)
            return False
        finally:
            remove_any(partial)
        return same

    def _read(self, digest: Digest) -> bytes | None:
        """From the cache, None where it was cleaned or the disk has changed it."""
        return self.participant.files.get(self._key(digest), digest)

    def _key(self, digest: Digest) -> str:
        return f"{self.window}/{self.participant.signer.hotkey.hex()}/{digest.hex()}"

    def _seconds(self, blocks: int) -> float:
        return seconds_of(blocks, self.participant.params.block_time_ms)

    def _other_validators(self) -> list[Neuron]:
        """By stake, as of block T."""
        own = self.participant.signer.hotkey
        try:
            neurons = self.participant.chain.metagraph(Block(self.window)).neurons
        except ChainError as error:
            log.event("chain_unreadable", window=self.window, reason=error.what)
            return []
        others = [n for n in neurons if n.validator_permit and n.stake > 0 and n.commitment is not None and n.hotkey != own]
        return sorted(others, key=lambda neuron: (-neuron.stake, neuron.hotkey))

    def _waited(self, block: Block, stop: threading.Event) -> bool:
        try:
            return self.participant.wait_for_block(block, stop)
        except ChainError as error:
            log.event("chain_unreadable", window=self.window, reason=error.what)
            return True  # the try itself needs no chain
