"""The SQLite file of the development chain: its tables, how it is opened, and what its errors mean to who asks a chain."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from grail_core.database import Database
from grail_core.disk import storage_error
from grail_core.errors import ChainError, DamagedStateError, DiskFullError, OutOfMemoryError

_BUSY_SECONDS = 30.0
SCHEMA = """
CREATE TABLE chain (id INTEGER PRIMARY KEY CHECK (id = 0), format INTEGER NOT NULL, parameters TEXT NOT NULL);
CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 0), mode TEXT NOT NULL, anchor_wall_ms INTEGER NOT NULL,
                    anchor_chain_ms INTEGER NOT NULL, rate_permille INTEGER NOT NULL, head INTEGER NOT NULL);
CREATE TABLE extrinsics (seq INTEGER PRIMARY KEY AUTOINCREMENT, block INTEGER NOT NULL, hotkey BLOB NOT NULL,
                         nonce INTEGER NOT NULL, call TEXT NOT NULL, arguments TEXT NOT NULL, signature BLOB NOT NULL,
                         UNIQUE (hotkey, nonce));
CREATE INDEX extrinsics_by_block ON extrinsics (block);
CREATE TABLE lost_calls (hotkey BLOB PRIMARY KEY, calls INTEGER NOT NULL);
"""


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # In WAL mode NORMAL loses nothing when a process is killed; a power cut may take the last moments.
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


@contextlib.contextmanager
def database_errors(path: Path) -> Iterator[None]:
    recovery = "bring a copy back, or make a network in a new folder (`grail devnet init`, localnet)"
    try:
        yield
    except sqlite3.Error as error:
        typed = Database(path, "the development chain", recovery).error(error)
        if isinstance(typed, DiskFullError | DamagedStateError | OutOfMemoryError):
            raise typed from error
        what, hint = (typed.what, typed.hint) if typed is not None else (f"the chain's database refused: {error}", "")
        raise ChainError(what, where=str(path), hint=hint) from error
    except OSError as error:
        typed = storage_error(error, path)
        if isinstance(typed, DiskFullError):
            raise typed from error
        raise ChainError(f"the chain's file cannot be used: {error.strerror}", where=str(path), hint=typed.hint) from error
