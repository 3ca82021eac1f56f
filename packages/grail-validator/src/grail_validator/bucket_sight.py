"""One look into the buckets of many hotkeys before a block: what lies under a key of each, recorded as it comes.

What is looked for (seals of windows or rounds, updates, openings) is said by a `Look`. All hotkeys are asked at once, each a
few times and for a bounded time, so that a store that answers late, drips or lies costs its own miner and nobody else. What
counts came before the look was over by the chain's block; the bytes are judged later, by somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from grail_core.chain.base import Chain, Neuron, has_passed
from grail_core.errors import StorageError
from grail_core.keys import ss58
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.storage.base import ObjectInfo, ObjectNotFoundError, ObjectStore, ObjectTooLargeError, StoreDirectory
from grail_core.storage.time_limits import at_most
from grail_core.telemetry import get_logger

log = get_logger(__name__)

_POLL_SECONDS = 0.1
_PARALLEL = 256  # a subnet's hotkeys: none waits for another's store


@dataclass(frozen=True)
class Look:
    """What is looked for, until when, and what is said of a store that did not give it.

    `what` is one word for events. `max_bytes` bounds the content; None: only what the store says of the object is asked for.
    `unreadable` is one wording for whatever a store said, so that validators that saw nothing say the same.
    """

    what: str
    window: Window  # or the round
    key_of: Callable[[str], str]  # from a hotkey's SS58 address
    last_block: Block
    max_bytes: int | None
    unreadable: str
    too_large: str


@dataclass(frozen=True)
class Seen:
    """What one hotkey's store answered. `info` None: nothing is there, or nothing that could be read, which `reason` says."""

    hotkey: Hotkey
    info: ObjectInfo | None = None
    data: bytes | None = None  # None too where it was not asked for
    reason: str = ""


@dataclass(frozen=True)
class BucketSight:
    """`tries`: at one hotkey's object. `seconds_a_try`: that its store has for one answer."""

    chain: Chain
    directory: StoreDirectory
    tries: int
    seconds_a_try: float

    def look(self, look: Look, neurons: Sequence[Neuron], record: Callable[[Seen], None]) -> set[Hotkey]:
        """Whose store answered, one way or the other, before `last_block` was over; each answer was given to `record` by then.

        Raises:
            ChainError: worth another try; what was recorded need not be asked again.
        """
        if not neurons:
            return set()
        pool = ThreadPoolExecutor(min(_PARALLEL, len(neurons)), thread_name_prefix=look.what)
        pending: set[Future[Seen]] = {pool.submit(self._read, look, neuron) for neuron in neurons}
        answered: set[Hotkey] = set()
        try:
            while pending:
                came, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                # Asked after they came: who answered before this block answered in time.
                if has_passed(self.chain, look.last_block):
                    break
                for seen in (future.result() for future in came):
                    record(seen)
                    answered.add(seen.hotkey)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a store that still drips ends at its own time limit
        return answered

    def _read(self, look: Look, neuron: Neuron) -> Seen:
        """One hotkey's object. Never raises: whatever is wrong with a store is its miner's matter."""
        hotkey, key = neuron.hotkey, look.key_of(ss58(neuron.hotkey))
        reason = ""
        for _ in range(self.tries):
            try:
                store = self.directory.open(neuron.commitment or "")
                with at_most(self.seconds_a_try):
                    return _answer(look, store, key, hotkey)
            except ObjectNotFoundError:
                return Seen(hotkey)
            except ObjectTooLargeError:
                return Seen(hotkey, reason=look.too_large)
            except StorageError as error:
                reason = error.what
            except Exception as error:  # a reader's fault must not cost everybody's sight
                log.exception("unforeseen while reading %s of %s", key, ss58(hotkey))
                reason = type(error).__name__
        log.event(f"{look.what}_unreadable", window=look.window, hotkey=ss58(hotkey), reason=reason)
        return Seen(hotkey, reason=look.unreadable)


def _answer(look: Look, store: ObjectStore, key: str, hotkey: Hotkey) -> Seen:
    if look.max_bytes is None:
        return Seen(hotkey, store.head(key))
    info, data = store.read(key, max_bytes=look.max_bytes)
    return Seen(hotkey, info, data)
