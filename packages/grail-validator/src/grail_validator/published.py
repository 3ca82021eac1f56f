"""What a validator and the miners it judged have published, as somebody reads it who was not there: `replay` and nobody else.

Everything is a stranger's: sizes are bounded before anything is read, every answer has its time, bytes are hashed, and what
is signed is verified by whoever uses it. Where the validator's ledger is on this machine, its verdicts come from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from grail_core.errors import StorageError
from grail_core.files.evidence import MAX_EVIDENCE_BYTES
from grail_core.keys import ss58
from grail_core.protocol import Seal
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.seals import MAX_SEAL_BYTES
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import VERDICT_PREFIX, evidence_key, file_key, seal_key, verdict_key, window_key, window_of_key
from grail_core.storage.time_limits import at_most
from grail_validator.ledger import Ledger, PublishedFiles
from grail_validator.round_cases import RoundFiles

MAX_READ_SECONDS: Final = 120.0
"""That one object may take, whatever its store does."""


class Verdicts(Protocol):
    """The encoded verdicts of one validator."""

    def windows(self) -> list[Window]:
        """Those there are, ascending. Raises StorageError."""
        ...

    def read(self, window: Window) -> bytes | None:
        """`verdict.json`, None where there is none. Raises StorageError."""
        ...


@dataclass(frozen=True)
class BucketVerdicts:
    store: ObjectStore

    def windows(self) -> list[Window]:
        with at_most(MAX_READ_SECONDS):
            keys = [info.key for info in self.store.list(VERDICT_PREFIX)]
        found = {window for key in keys if (window := window_of_key(key)) is not None and key == verdict_key(window)}
        return sorted(found)

    def read(self, window: Window) -> bytes | None:
        return _read(self.store, verdict_key(window), MAX_VERDICT_BYTES)


@dataclass(frozen=True)
class LedgerVerdicts:
    ledger: Ledger

    def windows(self) -> list[Window]:
        rounds = self.ledger.rounds.judged() if self.ledger.rounds.kept else []
        return sorted({*self.ledger.judged(), *rounds})

    def read(self, window: Window) -> bytes | None:
        files = files_of(self.ledger, window)
        return None if files is None else files.verdict


def files_of(ledger: Ledger, window: Window) -> PublishedFiles | RoundFiles | None:
    """What a ledger has of a window, or of the round that begins with it."""
    files = ledger.files(window)
    if files is not None or not ledger.rounds.kept:
        return files
    return ledger.rounds.files(window)


@dataclass(frozen=True)
class Published:
    """One validator's verdicts, and the buckets in which the rest is looked for.

    `own` is that validator's bucket, None where only its ledger is here; `beside` are any others, in the order asked: whose
    they are makes no difference, since whatever is taken from them is bound by a digest or a signature.
    """

    verdicts: Verdicts
    own: ObjectStore | None = None
    beside: Sequence[ObjectStore] = ()
    held: Callable[[Window], bytes | None] = field(default=lambda _: None)  # evidence that is not published yet

    @property
    def buckets(self) -> Iterator[ObjectStore]:
        if self.own is not None:
            yield self.own
        yield from self.beside

    def evidence(self, window: Window) -> bytes | None:
        """What this validator published as evidence, or has not published yet. Raises StorageError."""
        held = self.held(window)
        if held or self.own is None:
            return held or None
        return _read(self.own, evidence_key(window), MAX_EVIDENCE_BYTES)

    def lying(self, key: str, most: int) -> Iterator[bytes]:
        """Whatever lies under a key, bucket by bucket; what cannot be read, or is larger, is passed over."""
        for store in self.buckets:
            try:
                data = _read(store, key, most)
            except StorageError:
                continue  # another bucket may have it; who gets none is told so by the caller
            if data is not None:
                yield data

    def file(self, window: Window, hotkey: Hotkey, digest: Digest) -> bytes | None:
        """A window file: from a validator that shared it, else from a bucket in which its miner put it."""
        shared = self._of_digest(self.buckets, file_key(digest), digest, MAX_FILE_BYTES)
        if shared is not None:
            return shared
        return self._of_digest(self.buckets, window_key(ss58(hotkey), window), digest, MAX_FILE_BYTES)

    def seal(self, window: Window, hotkey: Hotkey, digest: Digest, network_id: bytes) -> Seal | None:
        """A miner's signed seal of this very file, if it still lies somewhere."""
        for store in self.buckets:
            try:
                raw = _read(store, seal_key(ss58(hotkey), window), MAX_SEAL_BYTES)
                seal = None if raw is None else Seal.decode(raw)
            except (StorageError, ValueError):
                continue  # another bucket may have it; who gets none is told so by the caller
            if seal is None or (seal.header.hotkey, seal.header.window, seal.content_digest) != (hotkey, window, digest):
                continue
            if seal.signed(network_id):
                return seal
        return None

    @staticmethod
    def _of_digest(stores: Iterator[ObjectStore], key: str, digest: Digest, most: int) -> bytes | None:
        for store in stores:
            try:
                data = _read(store, key, most)
            except StorageError:
                continue  # another bucket may have it; who gets none is told so by the caller
            if data is not None and hashlib.sha256(data).digest() == digest:
                return data
        return None


def _read(store: ObjectStore, key: str, most: int) -> bytes | None:
    with at_most(MAX_READ_SECONDS):
        info = store.head(key)
        if info is None:
            return None
        return store.get(key, max_bytes=min(info.size, most) or 1, if_match=info.etag)
