"""The bytes that seals name: from the miner's bucket, from other validators' buckets, and into our own.

The seal's digest says which bytes they are, so it does not matter who hands them over: what is not those bytes is as if not
there. Files wait in a cache whose loss costs another fetch; they are opened one at a time, by whoever judges.

What all of it costs this machine: of memory a chunk for each file that is fetched (`MOST_AT_ONCE` · 1 MiB), of the disk what
`GRAIL_FILE_CACHE_GIB` and the device allow. A file is fetched once there is room for its sealed size, and is off the disk once
it is judged.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import file_key, verdict_key, window_key
from grail_core.storage.time_limits import at_most
from grail_core.telemetry import get_logger
from grail_validator.arrivals import MOST_AT_ONCE, Arrivals, Patience, Tried
from grail_validator.cases import NotSoughtError, Sealed
from grail_validator.disk_room import DiskRoom

log = get_logger(__name__)

TRIES_AT_BLOCKS: Final = (0, 2, 5)
"""After the challenge block: when a drawn file that could not be had is asked for again."""
MAX_FETCH_BLOCKS: Final = 10
"""In which a file has to come, once asked for: 350 MiB in them are 3 MB/s on subnet 81."""
MAX_ROUNDS_BLOCKS: Final = 15
"""That all tries take together, however many files are drawn: with what comes after it, less than a window."""
MAX_ELSEWHERE_BLOCKS: Final = 5
"""That looking for files in other validators' buckets takes together."""
MAX_ONCE_MORE_BLOCKS: Final = 5
"""That the last look into the buckets of miners whose files did not come takes together."""
GRACE_BLOCKS: Final = 1
"""That a file may be behind the even pace of MAX_FETCH_BLOCKS, while others wait for the room that it holds."""
_CHUNK = 2**20  # bytes of a file that are in memory
_MAX_HEAD_SECONDS = 5.0  # that another validator's bucket gets to say whether it has a file


class _BehindError(Exception):
    """It is slow, and others wait for its room."""


@dataclass
class WindowFiles:
    """The drawn files of one window."""

    participant: Participant
    window: Window
    _neurons: dict[Hotkey, Neuron] = field(default_factory=dict)
    _arrivals: Arrivals | None = None
    _others: list[Neuron] = field(default_factory=list)
    _again_until: float | None = None  # time.monotonic(): what files that were lost may take together
    _elsewhere_until: float | None = None  # and those that are looked for in other buckets
    _drawn: tuple[Sealed, ...] = ()
    _there_again: set[Hotkey] | None = None  # whose own buckets say once more that they have the file; None: not asked yet
    _once_more_s: float = 0.0  # that is left of what these may take together

    def arriving(
        self, drawn: Sequence[Sealed], stop: threading.Event, idle: Callable[[bool], None] = lambda _: None
    ) -> Generator[Sealed]:
        """Each drawn file once it is settled whether it can be had, in that order; `of` has it until the next is asked for.

        Raises:
            Interrupted: `stop` was set.
            DiskFullError: there is no room for the largest of them.
        """
        if not drawn:
            return
        self._neurons = {one.entry.neuron.hotkey: one.entry.neuron for one in drawn}
        self._drawn = tuple(drawn)
        self._forget_partial()
        self._arrivals = Arrivals(
            bring=self._bring,
            wait_for_try=self._try_is_due,
            tries=len(TRIES_AT_BLOCKS),
            room=self._room(max(one.seal.size for one in drawn)),
            patience=Patience(self._seconds(MAX_FETCH_BLOCKS), self._seconds(MAX_ROUNDS_BLOCKS)),
            free=self._free,
            awaited=lambda: log.event("files_awaited", window=self.window),
            clock=lambda: time.monotonic(),
        )
        yield from self._arrivals.take(drawn, stop, idle)

    def of(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        """What was fetched; once more from the miner's bucket where the cache has lost it.

        Raises:
            NotSoughtError: this machine had no room for it while there was time.
            StorageError: it was had, and this machine has lost it: nobody's fault but ours.
        """
        arrivals = self._arrivals
        if arrivals is not None and hotkey in arrivals.unsought:
            raise NotSoughtError(
                "there was no room on the disk for a drawn file while it could be had",
                where=str(self.participant.files.root),
                hint="leave it more room (GRAIL_FILE_CACHE_GIB): the drawn files of a window should fit",
            )
        if arrivals is None or hotkey not in arrivals.had:
            return None
        data = self._fetched(hotkey, seal)
        if data is not None:
            return data
        self._again_until = self._again_until or time.monotonic() + self._seconds(MAX_FETCH_BLOCKS)
        limit_s, neuron = self._again_until - time.monotonic(), self._neurons[hotkey]
        if self._download(hotkey, neuron, window_key(ss58(hotkey), self.window), seal, limit_s):
            data = self._fetched(hotkey, seal)
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
            if left_s > 0 and self._download(hotkey, neuron, file_key(seal.content_digest), seal, left_s / 2):
                log.event("file_from_validator", window=self.window, hotkey=ss58(hotkey), validator=ss58(neuron.hotkey))
                data = self._fetched(hotkey, seal)
                self.participant.files.forget(self._fetched_key(hotkey, seal.content_digest))
                return data
        began = time.monotonic()
        data = self._once_more(hotkey, seal)
        self._elsewhere_until += time.monotonic() - began  # each has its own time, whichever comes in between
        return data

    def _once_more(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        """From the miner's own bucket: a line that was down for a while is nobody's fault but ours.

        All who miss a file are asked at once whether they have it now, and who says so has an even share of a time that is not
        the one for other validators' buckets: stores that drip take neither from a miner whose store answers again.
        """
        if self._there_again is None:
            self._there_again = self._say_again()
            self._once_more_s = self._seconds(MAX_ONCE_MORE_BLOCKS)
        if hotkey not in self._there_again:
            return None
        share_s = self._once_more_s / len(self._there_again)
        self._there_again.remove(hotkey)
        key, began = window_key(ss58(hotkey), self.window), time.monotonic()
        came = self._download(hotkey, self._neurons[hotkey], key, seal, share_s)
        self._once_more_s = max(0.0, self._once_more_s - (time.monotonic() - began))
        if not came:
            return None
        data = self._fetched(hotkey, seal)
        self.participant.files.forget(self._fetched_key(hotkey, seal.content_digest))
        return data

    def _say_again(self) -> set[Hotkey]:
        """Of the miners whose files did not come, those who say now that they have them."""
        had = self._arrivals.had if self._arrivals is not None else set()
        missing = [one for one in self._drawn if one.entry.neuron.hotkey not in had]
        if not missing:
            return set()

        def says(one: Sealed) -> bool:
            key = window_key(ss58(one.entry.neuron.hotkey), self.window)
            return self._has(one.entry.neuron, key, one.seal.size, _MAX_HEAD_SECONDS)

        with ThreadPoolExecutor(min(MOST_AT_ONCE, len(missing)), thread_name_prefix="again") as pool:
            there = pool.map(says, missing)
            return {one.entry.neuron.hotkey for one, yes in zip(missing, there, strict=True) if yes}

    def line_holds(self) -> bool:
        """Whether our own store answers now."""
        try:
            with at_most(_MAX_HEAD_SECONDS):
                self.participant.own_store.head(verdict_key(self.window))
        except StorageError as error:
            log.event("cut_off", window=self.window, reason=error.what)
            return False
        return True

    def _holders(self, seal: Seal, left_s: float) -> list[Neuron]:
        """Other validators who say that they have it, by stake; all are asked at once."""
        others = self._others = self._others or self._other_validators()
        if left_s <= 0 or not others:
            return []

        def has(neuron: Neuron) -> bool:
            return self._has(neuron, file_key(seal.content_digest), seal.size, min(left_s, _MAX_HEAD_SECONDS))

        with ThreadPoolExecutor(min(MOST_AT_ONCE, len(others)), thread_name_prefix="elsewhere") as pool:
            return [neuron for neuron, there in zip(others, pool.map(has, others), strict=True) if there]

    def _has(self, neuron: Neuron, key: str, size: int, limit_s: float) -> bool:
        """Whether a stranger's bucket says that it has an object of this size."""
        try:
            with at_most(limit_s):
                info = self.participant.directory.open(neuron.commitment or "").head(key)
        except StorageError:
            return False
        except Exception:  # a stranger's bucket
            log.exception("unforeseen in the bucket of %s", ss58(neuron.hotkey))
            return False
        return info is not None and info.size == size

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
        self.participant.files.forget(self._folder)

    # --- fetching, in threads -------------------------------------------------------------------------------------------

    def _room(self, largest: int) -> DiskRoom:
        """What the drawn files may take of the disk together.

        Raises:
            DiskFullError: not even the largest fits: the operator's to mend, before anything is fetched.
        """
        files = self.participant.files
        with storage_errors(files.root):
            files.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(files.root).free
        total = min(files.budget_bytes, free + files.bytes_used())
        if largest > total:
            raise DiskFullError(
                f"a drawn file of window {self.window} has {largest} bytes, and there is room for {total}",
                where=str(files.root),
                hint="free some space on the device, or give the files more (GRAIL_FILE_CACHE_GIB); then start again",
            )
        return DiskRoom(total, on_room=files.make_room, clock=lambda: time.monotonic())

    def _try_is_due(self, number: int, ending: threading.Event) -> bool:
        block = Block(self.participant.times(self.window).challenge_block + TRIES_AT_BLOCKS[number])
        try:
            return self.participant.wait_for_block(block, ending)
        except ChainError as error:
            log.event("chain_unreadable", window=self.window, reason=error.what)
            return True  # the try itself needs no chain

    def _bring(self, one: Sealed, limit_s: float) -> Tried:
        """From the miner's own bucket, if it does not lie here since before a restart."""
        neuron, seal, started = one.entry.neuron, one.seal, time.monotonic()
        if self.participant.files.has(self._fetched_key(neuron.hotkey, seal.content_digest)):
            return Tried.HAD
        try:
            key = window_key(ss58(neuron.hotkey), self.window)
            if self._download(neuron.hotkey, neuron, key, seal, limit_s, gives_way=True):
                return Tried.HAD
        except _BehindError:
            log.event("file_gives_way", window=self.window, hotkey=ss58(neuron.hotkey), bytes=seal.size)
            return Tried.BEHIND
        # Who took so long to say nothing has had its time; who said no at once is asked again, however long others took.
        return Tried.REFUSED if time.monotonic() - started < self._seconds(TRIES_AT_BLOCKS[-1]) else Tried.LOST

    def _free(self, one: Sealed) -> None:
        self.participant.files.forget(self._fetched_key(one.entry.neuron.hotkey, one.seal.content_digest))

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

    def _download(
        self, hotkey: Hotkey, holder: Neuron, key: str, seal: Seal, limit_s: float, *, gives_way: bool = False
    ) -> bool:
        """Chunk by chunk onto the disk, whoever's bucket it is; what is not the sealed bytes is dropped.

        Two hotkeys may have sealed one digest, one of them to spoil the other's: each hotkey's file has a place of its own, and
        is had from its own bucket.

        Raises:
            DiskFullError: the device is full.
            _BehindError: it `gives_way`, is late, and others wait for its room.
        """
        partial = self._fetching / f"{self._own_prefix}{holder.hotkey.hex()}-{seal.content_digest.hex()}"
        digest, size = hashlib.sha256(), 0
        try:
            store = self.participant.directory.open(holder.commitment or "")
            with storage_errors(partial):
                partial.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as file:
                    for data in self._chunks(store, key, seal.size, limit_s, gives_way):
                        digest.update(data)
                        size += file.write(data)
            same = size == seal.size and digest.digest() == seal.content_digest
            if same:
                self.participant.files.adopt(self._fetched_key(hotkey, seal.content_digest), partial)
            else:
                log.event("file_not_had", window=self.window, key=key, reason="other bytes than were sealed")
        except (DiskFullError, _BehindError):
            raise
        except StorageError as error:
            log.event("file_not_had", window=self.window, key=key, owner=ss58(holder.hotkey), reason=error.what)
            return False
        except Exception as error:  # what a bucket does that nobody thought of costs what lies in it
            log.exception("unforeseen while fetching %s", key)
            log.event("file_not_had", window=self.window, key=key, owner=ss58(holder.hotkey), reason=type(error).__name__)
            return False
        finally:
            remove_any(partial)
        return same

    def _chunks(self, store: ObjectStore, key: str, size: int, limit_s: float, gives_way: bool) -> Iterator[bytes]:
        """An object's bytes, up to the first chunk that is shorter than was asked for."""
        began, grace_s = time.monotonic(), self._seconds(GRACE_BLOCKS)
        ending = self._arrivals.ending if gives_way and self._arrivals is not None else None
        for offset in range(0, size, _CHUNK):
            length = min(_CHUNK, size - offset)
            even_s = grace_s + limit_s * (offset + length) / size
            data = None
            if gives_way and even_s < limit_s:
                data = self._while_even(store, key, offset, length, began + even_s)
            if data is None:
                with at_most(began + limit_s - time.monotonic(), stop=ending):
                    data = store.get(key, max_bytes=length, offset=offset, length=length)
            yield data
            if len(data) != length:
                return

    def _while_even(self, store: ObjectStore, key: str, offset: int, length: int, until: float) -> bytes | None:
        """The chunk if it comes while the file is not late; None if it is and nobody waits for its room."""
        arrivals = self._arrivals
        assert arrivals is not None
        try:
            with at_most(until - time.monotonic(), stop=arrivals.ending):
                return store.get(key, max_bytes=length, offset=offset, length=length)
        except StorageError:
            if time.monotonic() < until:
                raise
        if arrivals.room.is_wanted:
            raise _BehindError
        return None

    def _fetched(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        """None where the cache was cleaned or the disk has changed it."""
        return self.participant.files.get(self._fetched_key(hotkey, seal.content_digest), seal.content_digest)

    def _fetched_key(self, hotkey: Hotkey, digest: Digest) -> str:
        return f"{self._folder}/{hotkey.hex()}-{digest.hex()}"

    def _read(self, digest: Digest) -> bytes | None:
        """What is kept to be shared with the verdict."""
        return self.participant.files.get(self._key(digest), digest)

    def _key(self, digest: Digest) -> str:
        return f"{self._folder}/{digest.hex()}"

    @property
    def _folder(self) -> str:
        return f"{self.window}/{self.participant.signer.hotkey.hex()}"

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
