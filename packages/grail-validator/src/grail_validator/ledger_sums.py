"""Sums over what a window left behind in the ledger, against a flipped bit that SQLite does not see."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final

NO_WINDOW: Final = -1
"""In place of a window: sums of what belongs to no single one."""
LAST_WINDOW: Final = 2**63 - 1


def sums(db: sqlite3.Connection, window: int) -> dict[str, bytes]:
    """SHA-256 over what a window left behind, by its part."""
    if window == NO_WINDOW:
        parts = {"classes": repr(db.execute("SELECT * FROM classes ORDER BY hotkey").fetchall()).encode()}
    else:
        names = ("verdict", "evidence")
        row = db.execute(f"SELECT {', '.join(names)} FROM windows WHERE window = ?", (window,)).fetchone() or ()
        parts = {name: bytes(data) for name, data in zip(names, row, strict=False) if data is not None}
        for table in ("sightings", "scores"):
            rows = db.execute(f"SELECT * FROM {table} WHERE window = ? ORDER BY hotkey", (window,)).fetchall()
            parts[table] = repr(rows).encode()
    return {name: hashlib.sha256(data).digest() for name, data in parts.items()}


def write_sums(db: sqlite3.Connection, window: int) -> None:
    """Of a window, and of what belongs to none, as they stand now in this transaction."""
    for place in (window, NO_WINDOW):
        rows = [(place, part, sum_) for part, sum_ in sums(db, place).items()]
        db.executemany("INSERT OR REPLACE INTO sums VALUES (?, ?, ?)", rows)
