"""What each client used, by UTC day: requests, tokens, and how often a limit refused it. Kept for 400 days; no text, no digest.

An ended request is one transaction, flushed before its answer goes out: a kill loses none of them and counts none twice (one
whose answer did not arrive any more was computed, and is counted). Refusals cost nothing to ask for, so theirs are written once
a second at most, and a kill loses those of its last second.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from grail_core.clock import WallClock, wall_clock_ms
from grail_core.database import Database
from grail_core.disk import storage_errors

KEEP_DAYS: Final = 400
_DAY_MS: Final = 86_400_000
_WRITE_MS: Final = 1_000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS usage (
    day INTEGER NOT NULL, client TEXT NOT NULL, requests INTEGER NOT NULL, refused INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, client)
) WITHOUT ROWID;
"""
_ADD: Final = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (day, client) DO UPDATE SET
    requests = requests + excluded.requests, refused = refused + excluded.refused,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens, completion_tokens = completion_tokens + excluded.completion_tokens
"""


_Row = tuple[int, str, int, int, int, int]  # as in the schema


@dataclass(eq=False)
class _Waiting:
    """A request's row until it is written."""

    row: _Row
    written: bool = False


@dataclass(frozen=True)
class UsageRow:
    day: str  # 2026-01-31, UTC
    client: str
    requests: int  # that were admitted, whatever became of them
    refused: int  # by a limit
    prompt_tokens: int
    completion_tokens: int


class Usage:
    """Safe to call from several threads.

    Args:
        path: the SQLite file, made if it is not there; readable for this user alone.

    Raises:
        DamagedStateError, StorageError, ConfigurationError: it cannot be used.
    """

    def __init__(self, path: Path, *, clock: WallClock = wall_clock_ms) -> None:
        self._database = Database(
            path, "the clients' usage", "bring it back from a copy, or move the file away: usage is counted from 0 again"
        )
        self._clock = clock
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(path, 0o600)  # SQLite gives its two files beside it the same mode
        self._database.check()
        self._writing = threading.Lock()  # one transaction at a time
        self._lock = threading.Lock()  # guards what follows
        self._waiting: list[_Waiting] = []
        self._refused: Counter[tuple[int, str]] = Counter()  # not written yet
        self._written_ms = 0
        with closing(self._database.connect()) as db:
            db.executescript(_SCHEMA)

    def add(self, client: str, *, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a request that ended; those that end at the same time share a transaction.

        Raises:
            DiskFullError, StorageError: it is not counted.
        """
        now = self._clock()
        mine = _Waiting((now // _DAY_MS, client, 1, 0, prompt_tokens, completion_tokens))
        with self._lock:
            self._waiting.append(mine)
        with self._writing:
            with self._lock:
                if mine.written:
                    return
                batch, self._waiting = self._waiting, []
            try:
                self._write(now, [one.row for one in batch])
            except BaseException:
                with self._lock:  # the others try for themselves
                    self._waiting = [one for one in batch if one is not mine] + self._waiting
                raise
            for one in batch:
                one.written = True

    def refuse(self, client: str) -> None:
        """Count a request that a limit refused. Raises: as `add`."""
        now = self._clock()
        with self._lock:
            self._refused[now // _DAY_MS, client] += 1
            if now - self._written_ms < _WRITE_MS:
                return
        with self._writing:
            self._write(now)

    def rows(self, client: str | None = None, *, days: int = KEEP_DAYS) -> list[UsageRow]:
        """Of one client or of all, of today and the days before it, newest first."""
        now = self._clock()
        with self._writing, closing(self._database.connect()) as db:
            self._write(now)
            found = db.execute(
                "SELECT * FROM usage WHERE day > ? AND (client = ? OR ? IS NULL) ORDER BY day DESC, client",
                (now // _DAY_MS - days, client, client),
            ).fetchall()
        return [UsageRow(datetime.fromtimestamp(row[0] * 86_400, UTC).date().isoformat(), *row[1:]) for row in found]

    def close(self) -> None:
        """Write what is not written yet; everything else goes on working."""
        with self._writing:
            self._write(self._clock())

    def _write(self, now: int, rows: Iterable[_Row] = ()) -> None:
        """One transaction, with the refusals so far."""
        with self._lock:
            refused = self._refused.copy()
        all_rows = [*rows, *((day, client, 0, count, 0, 0) for (day, client), count in refused.items())]
        if not all_rows:
            return
        with closing(self._database.connect()) as db:
            db.isolation_level = None  # the transaction is ours to begin
            _in_transaction(db, all_rows, oldest=now // _DAY_MS - KEEP_DAYS)
        with self._lock:
            self._refused -= refused
            self._written_ms = now


def _in_transaction(db: sqlite3.Connection, rows: Iterable[_Row], *, oldest: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("DELETE FROM usage WHERE day <= ?", (oldest,))
        db.executemany(_ADD, rows)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
