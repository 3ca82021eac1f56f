"""The ledger's tables, and how a ledger of an earlier version becomes one of this version.

A migration is one transaction together with the number that says it was made, so one that is killed anywhere was not made. What
it changes is copied first, beside the ledger: a program of the former version goes on from that copy.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from grail_core.database import Database
from grail_core.disk import storage_errors, sync_folder
from grail_core.errors import ConfigurationError
from grail_core.telemetry import get_logger
from grail_validator.cases import WindowStage
from grail_validator.ledger_rounds import ROUND_TABLES

log = get_logger(__name__)

SCHEMA_VERSION: Final = 5
_STAGES = ", ".join(f"'{stage.value}'" for stage in WindowStage if stage is not WindowStage.UNSEEN)  # that is having no row
_MEASURED = """
CREATE TABLE measured (
    window INTEGER NOT NULL, hotkey BLOB NOT NULL, basis BLOB NOT NULL, verdict BLOB NOT NULL, identities BLOB NOT NULL,
    evidence BLOB, sha256 BLOB NOT NULL, PRIMARY KEY (window, hotkey)) STRICT"""
_TABLES: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    f"""
CREATE TABLE windows (
    window INTEGER PRIMARY KEY, step TEXT NOT NULL CHECK (step IN ({_STAGES})),
    verdict BLOB, evidence BLOB) STRICT""",
    """
CREATE TABLE sightings (
    window INTEGER NOT NULL, hotkey BLOB NOT NULL, seal BLOB, stored_at_ms INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (window, hotkey)) STRICT""",
    """
CREATE TABLE scores (
    window INTEGER NOT NULL, hotkey BLOB NOT NULL, declared INTEGER NOT NULL, active INTEGER NOT NULL,
    checked INTEGER NOT NULL, unique_valid INTEGER NOT NULL, failed INTEGER NOT NULL, probability TEXT,
    inconclusive INTEGER NOT NULL, PRIMARY KEY (window, hotkey)) STRICT""",
    """
CREATE TABLE adopted (
    window INTEGER PRIMARY KEY, validator BLOB NOT NULL, told INTEGER NOT NULL DEFAULT 0) STRICT""",
    """
CREATE TABLE work (
    window INTEGER PRIMARY KEY, crashes INTEGER NOT NULL, running INTEGER NOT NULL, hotkey BLOB) STRICT""",
    "CREATE TABLE given_up (window INTEGER NOT NULL, hotkey BLOB NOT NULL, PRIMARY KEY (window, hotkey)) STRICT",
    _MEASURED,
    """
CREATE TABLE counted (
    hotkey BLOB NOT NULL, identity BLOB NOT NULL, window INTEGER NOT NULL, PRIMARY KEY (hotkey, identity)) STRICT""",
    """
CREATE TABLE sums (
    window INTEGER NOT NULL, part TEXT NOT NULL, sha256 BLOB NOT NULL, PRIMARY KEY (window, part)) STRICT""",
    """
CREATE TABLE classes (
    hotkey BLOB PRIMARY KEY, proof TEXT NOT NULL, generation TEXT NOT NULL, since INTEGER NOT NULL) STRICT""",
    *ROUND_TABLES,
)

MIGRATIONS: Final[Mapping[int, tuple[str, ...]]] = {
    3: (
        _MEASURED,
        # Ledgers of the first days of schema 3 have no sums: what stands in them has none until it is written again.
        "CREATE TABLE IF NOT EXISTS sums (window INTEGER NOT NULL, part TEXT NOT NULL, sha256 BLOB NOT NULL, "
        "PRIMARY KEY (window, part)) STRICT",
    ),
    4: ROUND_TABLES,
}
"""Schema → the statements that make the next one of it. From below the lowest there is no way: those ledgers were kept under
other rules of pay, and their scores say nothing under these."""


def ledger_database(path: Path, *, read_only: bool = False) -> Database:
    """The file, with what its owner is told of it where it cannot be used."""
    return Database(
        path,
        "the ledger",
        "bring a copy back (`grail-validator restore`), or move it away to begin anew: scores of earlier windows are lost then",
        read_only,
    )


def prepare(database: Database, owner: Mapping[str, str]) -> None:
    """Make a ledger where there is none, or bring an earlier version's up to this one.

    A new one is made under another name and takes its own when it is whole. So a file without tables is no new ledger but a
    damaged one, and is never begun anew.

    Args:
        owner: `meta` of a new ledger, by name.

    Raises:
        ConfigurationError: it has a schema that this program does not know, or from which there is no way.
        DamagedStateError, DiskFullError, StorageError: as every call on a database may.
    """
    if not database.path.exists():
        _make(database.path, {**owner, "schema": str(SCHEMA_VERSION)})
    with closing(database.connect()) as db:
        version = schema_of(db)
    if version is None:
        raise database.damaged("it has no tables")
    while version != str(SCHEMA_VERSION):
        if not version.isascii() or not version.isdigit() or int(version) not in MIGRATIONS:
            raise other_schema(database.path, version)
        version = _migrate(database, int(version))


def _make(path: Path, meta: Mapping[str, str]) -> None:
    making = path.with_name(f".{path.name}.making")
    with storage_errors(path):
        making.unlink(missing_ok=True)
        making.with_name(f"{making.name}-journal").unlink(missing_ok=True)
    with ledger_database(making).errors(), closing(sqlite3.connect(making)) as db, db:
        for statement in _TABLES:
            db.execute(statement)
        db.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
    _give_its_name(making, path)


def _give_its_name(made: Path, path: Path) -> None:
    """Flushed first, so that a file of this name is whole; never over something else."""
    try:
        if path.exists():
            raise ConfigurationError("there is a file of this name", where=str(path), hint="name another one, or move it away")
        with storage_errors(path):
            with made.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(made, path)
            sync_folder(path.parent)
    finally:
        made.unlink(missing_ok=True)


def schema_of(db: sqlite3.Connection) -> str | None:
    """The schema of a ledger; None of a file without tables, "none" of one with tables that do not say it."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    row = db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() if "meta" in tables else None
    return "none" if row is None else str(row[0])


def owner_of(path: Path) -> tuple[str, str] | None:
    """Network id and hotkey (hex) that a ledger belongs to; None where the file is no ledger. Changes nothing."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
            meta = dict(db.execute("SELECT name, value FROM meta"))
            return str(meta["network"]), str(meta["hotkey"])
    except (sqlite3.Error, KeyError, UnicodeDecodeError):
        return None


def other_schema(path: Path, found: str) -> ConfigurationError:
    if found.isascii() and found.isdigit() and int(found) > SCHEMA_VERSION:
        return ConfigurationError(
            f"this ledger has schema {found}, of a later version of grail-validator; this program's is {SCHEMA_VERSION}",
            where=str(path),
            hint=f"install the version that wrote it, or bring back the copy beside it ({path.name}.schema-{SCHEMA_VERSION}), "
            "without what was judged since",
        )
    return ConfigurationError(
        f"this ledger has schema {found}, and this program's is {SCHEMA_VERSION}",
        where=str(path),
        hint="use the version of grail-validator that wrote it, or move it away: the scores of 72 windows are then another's",
    )


def copy_to(db: sqlite3.Connection, path: Path) -> None:
    """A whole copy under a new name: flushed, and there whole or not at all. A validator that writes meanwhile is not held up.

    Raises:
        ConfigurationError: there is something of this name. StorageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.copying")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.with_name(f"{temporary.name}-journal").unlink(missing_ok=True)
    try:
        db.execute("VACUUM INTO ?", (str(temporary),))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _give_its_name(temporary, path)


def _migrate(database: Database, version: int) -> str:
    kept = database.path.with_name(f"{database.path.name}.schema-{version}")
    with closing(database.connect()) as db:
        if not kept.exists():
            copy_to(db, kept)
        db.execute("BEGIN IMMEDIATE")
        with db:
            if schema_of(db) == str(version):  # else another process was first
                for statement in MIGRATIONS[version]:
                    db.execute(statement)
                db.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(version + 1),))
    log.event("ledger_migrated", path=str(database.path), schema=version + 1, former=str(kept))
    return str(version + 1)
