"""Where a page's verdicts come from: this machine's ledger, or a bucket or folder in which somebody publishes them.

One interface, read-only. A ledger is read beside the validator that writes it. A bucket is a stranger's: sizes are bounded
before anything is read, every answer has its time, and what is signed is verified by whoever decodes it (`records`). Evidence
leaves a ledger once it is published: then it is looked for in this validator's own bucket, where the settings name one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from grail_core.errors import StorageError
from grail_core.files.evidence import MAX_EVIDENCE_BYTES
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import VERDICT_PREFIX, evidence_key, verdict_key, window_of_key
from grail_core.storage.time_limits import at_most
from grail_validator.ledger import Ledger
from grail_validator.ledger_schema import ledger_database, owner_of
from grail_validator.published import files_of

LIST_SECONDS: Final = 60.0
READ_SECONDS: Final = 20.0
"""That a listing, and one object or piece of one, may take."""
PIECE: Final = 1 << 20
"""Bytes of evidence that are read and sent at a time."""


@dataclass(frozen=True)
class Pieces:
    """Bytes that are read while they are sent. `next` raises StorageError."""

    size: int
    content: Iterator[bytes]


class Source(Protocol):
    """One validator's verdicts. Everything may raise StorageError or ConfigurationError (a damaged ledger)."""

    @property
    def what(self) -> str:
        """For the page, in a few words; it holds no key."""
        ...

    @property
    def owner(self) -> tuple[Hotkey, Digest] | None:
        """Validator and network, where the source itself says so; None: its newest verdict does."""
        ...

    def listed(self) -> Mapping[Window, str]:
        """Every window that has a verdict, with a text that is another one where the verdict is."""
        ...

    def verdict(self, window: Window) -> bytes:
        """`verdict.json` as published."""
        ...

    def evidence(self, window: Window) -> Pieces | None:
        """`evidence.parquet` as published, None where it is not there."""
        ...


@dataclass(frozen=True)
class LedgerSource:
    """A validator's ledger, or a copy that `backup` made. Raises ConfigurationError where it is no ledger of this version."""

    path: Path
    own: ObjectStore | None = None

    def __post_init__(self) -> None:
        Ledger.reading(self.path)

    @property
    def what(self) -> str:
        return f"the ledger {self.path.name}"

    @property
    def owner(self) -> tuple[Hotkey, Digest] | None:
        found = owner_of(self.path)
        try:
            return None if found is None else (Hotkey(bytes.fromhex(found[1])), Digest(bytes.fromhex(found[0])))
        except ValueError as error:
            raise StorageError("the ledger is damaged: it does not say whose it is", where=str(self.path)) from error

    def listed(self) -> Mapping[Window, str]:
        with self._errors():
            ledger = Ledger.reading(self.path)
            windows = [*ledger.judged(), *(ledger.rounds.judged() if ledger.rounds.kept else ())]
            stamps = self._sums()
        return {window: stamps.get(window, "") for window in windows}

    def verdict(self, window: Window) -> bytes:
        with self._errors():
            files = files_of(Ledger.reading(self.path), window)
        if files is None:
            raise StorageError(f"window {window} is not judged in this ledger any more")
        return files.verdict

    def evidence(self, window: Window) -> Pieces | None:
        with self._errors():
            files = files_of(Ledger.reading(self.path), window)
        if files is not None and files.evidence:
            return Pieces(len(files.evidence), iter((files.evidence,)))
        return None if self.own is None else _evidence_in(self.own, window)

    def _sums(self) -> dict[Window, str]:
        with closing(ledger_database(self.path, read_only=True).connect()) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sums'").fetchone() is None:
                return {}
            rows = db.execute("SELECT window, hex(sha256) FROM sums WHERE part IN ('verdict', 'round:verdict')")
            return {Window(window): str(sha256) for window, sha256 in rows}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """A file that has gone, or is no ledger any more, is the store's matter here: the page goes on with what it has."""
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"the ledger cannot be read: {error}", where=str(self.path)) from error


@dataclass(frozen=True)
class BucketSource:
    """What lies in a bucket or folder. `name` is what the page calls it; a commitment holds a read key and is no name."""

    store: ObjectStore
    name: str

    @property
    def what(self) -> str:
        return self.name

    @property
    def owner(self) -> tuple[Hotkey, Digest] | None:
        return None

    def listed(self) -> Mapping[Window, str]:
        found: dict[Window, str] = {}
        with at_most(LIST_SECONDS):
            for info in self.store.list(VERDICT_PREFIX):
                window = window_of_key(info.key)
                if window is not None and window % WINDOW_LENGTH == 0 and info.key == verdict_key(window):
                    found[window] = f"{info.etag} {info.size}"
        return found

    def verdict(self, window: Window) -> bytes:
        with at_most(READ_SECONDS):
            info = self.store.head(verdict_key(window))
            if info is None:
                raise StorageError(f"the verdict of window {window} is not there any more")
            if info.size > MAX_VERDICT_BYTES:
                raise StorageError(f"not a verdict: {info.size} bytes, at most {MAX_VERDICT_BYTES}")
            return self.store.get(info.key, max_bytes=info.size or 1, if_match=info.etag)

    def evidence(self, window: Window) -> Pieces | None:
        return _evidence_in(self.store, window)


def _evidence_in(store: ObjectStore, window: Window) -> Pieces | None:
    with at_most(READ_SECONDS):
        info = store.head(evidence_key(window))
    if info is None:
        return None
    if info.size > MAX_EVIDENCE_BYTES:
        raise StorageError(f"not evidence: {info.size} bytes, at most {MAX_EVIDENCE_BYTES}")

    def pieces() -> Iterator[bytes]:
        for offset in range(0, info.size, PIECE):
            length = min(PIECE, info.size - offset)
            with at_most(READ_SECONDS):
                piece = store.get(info.key, max_bytes=length, if_match=info.etag, offset=offset, length=length)
            yield piece  # outside: the limit is of the thread that reads, and the next piece may be another's

    return Pieces(info.size, pieces())
