"""How often a client has asked exactly the same before: the nonce of a request that comes without a signed order.

It makes "again" give another text, and lets a client that counts see that it got the next draw and no chosen one. Counted for
each client alone, or one could learn what others asked. The file survives a restart and has a limit: what was not asked for 30
days begins anew, and of too many the oldest go. It holds digests, never text.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Final

from grail_core.clock import WallClock, wall_clock_ms
from grail_core.database import Database
from grail_core.disk import storage_errors

KEEP_MS: Final = 30 * 86_400_000
MAX_ROWS: Final = 1_000_000
_SPARE: Final = 1_000  # so many go at once, so that a full table is not sorted for every request

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS repeats (
    client TEXT NOT NULL, request BLOB NOT NULL, asked INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    PRIMARY KEY (client, request)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS repeats_by_age ON repeats (last_ms);
"""


class Repeats:
    """Safe to call from several threads.

    Args:
        path: the SQLite file; made if it is not there.

    Raises:
        DamagedStateError, StorageError, ConfigurationError: it cannot be used.
    """

    def __init__(self, path: Path, *, clock: WallClock = wall_clock_ms, max_rows: int = MAX_ROWS) -> None:
        self._database = Database(
            path,
            "the count of repeated requests",
            "move the file away: requests are counted from 0 again, so that repeated ones get the texts that they had",
        )
        self._clock = clock
        self._max_rows = max_rows
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(path, 0o600)  # who asked is nobody's to read; SQLite gives its two files beside it the same mode
        self._database.check()
        self._lock = threading.Lock()
        with closing(self._database.connect()) as db:
            db.executescript(_SCHEMA)
            (self._rows,) = db.execute("SELECT count(*) FROM repeats").fetchone()

    def count(self, client: str, request: bytes) -> int:
        """How often this was counted before, and count it now.

        Args:
            request: a digest of all that was asked.
        """
        now = self._clock()
        with self._lock, closing(self._database.connect()) as db:
            db.isolation_level = None  # the transaction is ours to begin
            db.execute("BEGIN IMMEDIATE")
            try:
                gone = db.execute("DELETE FROM repeats WHERE last_ms < ?", (now - KEEP_MS,)).rowcount
                row = db.execute("SELECT asked FROM repeats WHERE client = ? AND request = ?", (client, request)).fetchone()
                before = 0 if row is None else int(row[0])
                if row is None:
                    gone += self._make_room(db, self._rows - gone) - 1
                db.execute(
                    "INSERT INTO repeats VALUES (?, ?, 1, ?) ON CONFLICT (client, request) "
                    "DO UPDATE SET asked = asked + 1, last_ms = excluded.last_ms",
                    (client, request, now),
                )
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
            self._rows -= gone
        return before

    def _make_room(self, db: sqlite3.Connection, rows: int) -> int:
        """Forget the oldest where there are too many. Returns how many went."""
        if rows < self._max_rows:
            return 0
        most = rows - self._max_rows + min(_SPARE, self._max_rows)
        oldest = "SELECT client, request FROM repeats ORDER BY last_ms LIMIT ?"
        return db.execute(f"DELETE FROM repeats WHERE (client, request) IN ({oldest})", (most,)).rowcount
