"""SQLite files of this machine: opened one way, and whatever is wrong with one said as an error that a person can act on.

SQLite tells a full disk, a damaged page, a file that is none of its own, a lock that somebody keeps and a folder that nobody
may write in by codes. Each becomes an error of ours, from whichever call meets it; what is left raw is a statement's mistake.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grail_core.disk import disk_full
from grail_core.errors import ConfigurationError, DamagedStateError, GrailError, OutOfMemoryError, StorageError

BUSY_SECONDS: Final = 30.0  # how long another process's transaction is waited for
CHECK_SECONDS: Final = 10.0  # of looking through a file when it is opened; a damaged page behind that is found when it is read
_LITTLE_SPACE: Final = 64 << 10  # bytes free; SQLite tells a full disk as an I/O error where it cannot make its shared memory


@dataclass(frozen=True)
class Database:
    """One SQLite file. `what` it is ("the ledger") and how its owner gets over its loss (`recovery`) are part of the errors."""

    path: Path
    what: str
    recovery: str
    read_only: bool = False

    def connect(self) -> sqlite3.Connection:
        """A connection whose every call raises the errors of `error`; the caller closes it. WAL, and every commit flushed."""
        with self.errors():
            if self.read_only:
                db: _Connection = sqlite3.connect(self._read_only_uri(), uri=True, timeout=BUSY_SECONDS, factory=_Connection)
                db.typed = self.error
                return db
            db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, factory=_Connection)
            db.typed = self.error
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        except BaseException:
            db.close()
            raise
        return db

    def check(self, seconds: float = CHECK_SECONDS) -> None:
        """Look through the file, for at most so many seconds.

        Raises:
            DamagedStateError: a page is damaged. Others: as `error`.
        """
        db, end = self.connect(), time.monotonic() + seconds
        try:
            db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            try:
                found = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
                    raise
                return
        finally:
            db.close()
        if found != ["ok"]:
            raise self.damaged(found[0] if found else "the check says nothing")

    def damaged(self, how: str) -> DamagedStateError:
        return DamagedStateError(f"{self.what} is damaged: {how[:200]}", where=str(self.path), hint=self.recovery)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors inside the block into ours."""
        try:
            yield
        except sqlite3.Error as error:
            typed = self.error(error)
            if typed is None:
                raise
            raise typed from error

    def error(self, error: sqlite3.Error) -> GrailError | None:
        """The typed form of an error of SQLite's; None for one that a statement is to blame for."""
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the rest of an extended code says where, not what
        if code == sqlite3.SQLITE_FULL or (code in _NO_ANSWER and _is_full(self.path.parent)):
            return disk_full(self.path)
        lacks = code == sqlite3.SQLITE_ERROR and str(error).startswith(
            ("no such", "malformed")
        )  # what its own tables are made of
        undecodable = code == 0 and str(error).startswith(
            "Could not decode to UTF-8"
        )  # Python's own: a text with a flipped bit
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or lacks or undecodable:
            return self.damaged(str(error))
        if code == sqlite3.SQLITE_NOMEM:
            return OutOfMemoryError("no memory is left", where=str(self.path), hint="free memory, or use a larger machine")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StorageError(
                f"another process has kept {self.what} locked for {BUSY_SECONDS:.0f} s",
                where=str(self.path),
                hint="end the program that has it open (a copy that is being made, a database browser)",
            )
        if code == sqlite3.SQLITE_IOERR:
            return StorageError(
                f"the device failed under {self.what}: {error}",
                where=str(self.path),
                hint="look at the system's log (dmesg) and the limits of this user (ulimit -f); what was acknowledged is kept",
            )
        if code in _FORBIDDEN and not self.read_only:
            return ConfigurationError(
                f"{self.what} cannot be used: {error}",
                where=str(self.path),
                hint="make the file and its folder readable and writable for this user, and mount their device for writing",
            )
        return None

    def _read_only_uri(self) -> str:
        return f"{self.path.resolve().as_uri()}?mode=ro"


_NO_ANSWER: Final = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_FORBIDDEN: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)

Typed = Callable[[sqlite3.Error], GrailError | None]


def _is_full(folder: Path) -> bool:
    try:
        there = os.statvfs(folder)
    except OSError:
        return False
    return there.f_bavail * there.f_frsize < _LITTLE_SPACE or (there.f_files > 0 and there.f_favail == 0)


def _translated(name: str, base: type) -> Callable[..., Any]:
    original = getattr(base, name)

    def call(self: Any, *arguments: Any) -> Any:
        try:
            return original(self, *arguments)
        except sqlite3.Error as error:
            typed = self.typed(error)
            if typed is None:
                raise
            raise typed from error
        except UnicodeDecodeError as error:  # SQLite's own message, which quotes a text with a flipped bit
            raise self.typed(sqlite3.DatabaseError(f"Could not decode to UTF-8: {error}")) from error

    return call


class _Cursor(sqlite3.Cursor):
    """Rows are made while they are fetched, so a damaged page may be met there."""

    connection: _Connection

    def typed(self, error: sqlite3.Error) -> GrailError | None:
        return self.connection.typed(error)


class _Connection(sqlite3.Connection):
    typed: Typed

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)

    def executescript(self, *arguments: Any) -> Any:
        return self.cursor().executescript(*arguments)


for _name in ("execute", "executemany", "executescript", "fetchone", "fetchmany", "fetchall", "__next__"):
    setattr(_Cursor, _name, _translated(_name, sqlite3.Cursor))
for _name in ("commit", "rollback", "__exit__"):
    setattr(_Connection, _name, _translated(_name, sqlite3.Connection))
