"""The rounds of gradient work in a validator's ledger: the same file, the same rules as for windows.

sealed → revealed → judged → published. A step and its results are one transaction, so a validator killed anywhere continues
with the step it was in and counts nothing twice. Kept are bytes: seals, bodies, and per hotkey what a body of long ago would
have to be read for (rating, last feedback digest, failures). What the last rounds say is read from their bodies. Crashes are
counted by the ledger's own `begin_work`, `note_work`, `end_work`: a round is named like a window, which has one kind of work.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Final

from grail_core.database import Database
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_validator.ledger_sums import LAST_WINDOW, NO_WINDOW
from grail_validator.round_cases import (
    Failure,
    KnownFeedback,
    ObjectSighting,
    RoundFiles,
    RoundMeasured,
    RoundMemory,
    RoundStage,
    SightOf,
)

_STAGES: Final = ", ".join(f"'{stage.value}'" for stage in RoundStage if stage is not RoundStage.UNSEEN)
_KINDS: Final = ", ".join(f"'{kind.value}'" for kind in SightOf)
ROUND_TABLES: Final = (
    f"""
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY, step TEXT NOT NULL CHECK (step IN ({_STAGES})), verdict BLOB, evidence BLOB) STRICT""",
    f"""
CREATE TABLE IF NOT EXISTS round_sightings (
    round INTEGER NOT NULL, kind TEXT NOT NULL CHECK (kind IN ({_KINDS})), hotkey BLOB NOT NULL, stored_at_ms INTEGER,
    size INTEGER NOT NULL, digest BLOB, data BLOB, reason TEXT NOT NULL, PRIMARY KEY (round, kind, hotkey)) STRICT""",
    """
CREATE TABLE IF NOT EXISTS round_measured (
    round INTEGER NOT NULL, hotkey BLOB NOT NULL, basis BLOB NOT NULL, body BLOB NOT NULL, evidence BLOB,
    sha256 BLOB NOT NULL, PRIMARY KEY (round, hotkey)) STRICT""",
    """
CREATE TABLE IF NOT EXISTS round_adopted (
    round INTEGER PRIMARY KEY, validator BLOB NOT NULL, verdict BLOB NOT NULL, told INTEGER NOT NULL DEFAULT 0) STRICT""",
    "CREATE TABLE IF NOT EXISTS ratings (hotkey BLOB PRIMARY KEY, round INTEGER NOT NULL, body BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS feedback (hotkey BLOB PRIMARY KEY, round INTEGER NOT NULL, digest BLOB NOT NULL) STRICT",
    """
CREATE TABLE IF NOT EXISTS round_failures (
    hotkey BLOB NOT NULL, round INTEGER NOT NULL, failed TEXT NOT NULL, PRIMARY KEY (hotkey, round)) STRICT""",
)
_OF_HOTKEYS: Final = ("ratings", "feedback", "round_failures")


class RoundLedger:
    """One per ledger (`Ledger.rounds`). Connections are opened per call: any thread may use it.

    Every call may raise DamagedStateError, DiskFullError and StorageError as the ledger's do.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def kept(self) -> bool:
        """Are rounds kept in this ledger? Not in an earlier version's, which is only read."""
        with closing(self._database.connect()) as db:
            return _has_rounds(db)

    def stage(self, round_: Window) -> RoundStage:
        with closing(self._database.connect()) as db:
            row = db.execute("SELECT step FROM rounds WHERE round = ?", (round_,)).fetchone()
        return RoundStage.UNSEEN if row is None else RoundStage(row[0])

    def record_sighting(self, round_: Window, kind: SightOf, sighting: ObjectSighting) -> None:
        """What one hotkey's store answered; the first answer stays."""
        with closing(self._database.connect()) as db, db:
            _insert_sightings(db, round_, kind, (sighting,))  # summed once this sight is over

    def record_sealed(self, round_: Window, rest: Iterable[ObjectSighting]) -> bool:
        """First sight of seals is over: `rest` are those who did not answer. False: it was before, and nothing changes."""
        with closing(self._database.connect()) as db, db:
            values = (round_, RoundStage.SEALED.value)
            if db.execute("INSERT OR IGNORE INTO rounds (round, step) VALUES (?, ?)", values).rowcount == 0:
                return False
            _insert_sightings(db, round_, SightOf.SEAL, rest)
            _write_sums(db, round_)
        return True

    def record_revealed(self, round_: Window, rest: Mapping[SightOf, Iterable[ObjectSighting]]) -> bool:
        """The sight of updates and openings is over: `rest` are those who did not answer. False: the round is not `SEALED`,
        and nothing changes."""
        with closing(self._database.connect()) as db, db:
            values = (RoundStage.REVEALED.value, round_, RoundStage.SEALED.value)
            if db.execute("UPDATE rounds SET step = ? WHERE round = ? AND step = ?", values).rowcount == 0:
                return False
            for kind, sightings in rest.items():
                _insert_sightings(db, round_, kind, sightings)
            _write_sums(db, round_)
        return True

    def sightings(self, round_: Window, kind: SightOf) -> list[ObjectSighting]:
        """Whose store has answered, by hotkey; while the sight still goes on, too."""
        with closing(self._database.connect()) as db:
            self._require_sums(db, round_, round_)
            rows = db.execute(
                "SELECT hotkey, stored_at_ms, size, digest, data, reason FROM round_sightings WHERE round = ? AND kind = ? "
                "ORDER BY hotkey",
                (round_, kind.value),
            ).fetchall()
        return [
            ObjectSighting(Hotkey(hotkey), stored, size, None if digest is None else Digest(digest), data, reason)
            for hotkey, stored, size, digest, data, reason in rows
        ]

    def record_measured(self, round_: Window, hotkey: Hotkey, measured: RoundMeasured) -> None:
        """The checks of one file came to an end: whatever ends this process now, they are not done again."""
        values = (bytes(hotkey), bytes(measured.basis), measured.body, measured.evidence)
        with closing(self._database.connect()) as db, db:
            db.execute(
                "INSERT OR REPLACE INTO round_measured VALUES (?, ?, ?, ?, ?, ?)",
                (round_, *values, _sum(repr(values).encode())),
            )

    def measured(self, round_: Window) -> dict[Hotkey, RoundMeasured]:
        """What was measured of a round that is not judged yet."""
        with closing(self._database.connect()) as db:
            rows = db.execute(
                "SELECT hotkey, basis, body, evidence, sha256 FROM round_measured WHERE round = ?", (round_,)
            ).fetchall()
        for *values, stated in rows:
            if _sum(repr(tuple(values)).encode()) != stated:
                raise self._database.damaged(f"what was measured in round {round_}: not what was written")
        return {Hotkey(hotkey): RoundMeasured(Digest(basis), body, data) for hotkey, basis, body, data, _ in rows}

    def record_judged(self, round_: Window, files: RoundFiles, memory: RoundMemory) -> None:
        """A judged round with everything later rounds depend on, in one transaction.

        Raises:
            ValueError: the round was judged before.
        """
        with closing(self._database.connect()) as db, db:
            db.execute("INSERT OR IGNORE INTO rounds (round, step) VALUES (?, ?)", (round_, RoundStage.SEALED.value))
            changed = db.execute(
                "UPDATE rounds SET step = 'judged', verdict = ?, evidence = ? "
                "WHERE round = ? AND step IN ('sealed', 'revealed')",
                (files.verdict, files.evidence, round_),
            ).rowcount
            if changed != 1:
                raise ValueError(f"round {round_} was judged before")
            _remember(db, round_, memory)
            db.execute("UPDATE round_adopted SET told = 1")
            for table in ("work", "given_up"):
                db.execute(f"DELETE FROM {table} WHERE window <= ?", (round_,))
            db.execute("DELETE FROM round_measured WHERE round <= ?", (round_,))
            _forget_seals(db, round_)
            _write_sums(db, round_)

    def record_published(self, round_: Window) -> None:
        """The bulk of a published round is in the store: it leaves the ledger, the verdict stays."""
        with closing(self._database.connect()) as db, db:
            db.execute("UPDATE rounds SET step = 'published', evidence = NULL WHERE round = ?", (round_,))

    def take_published(self, round_: Window, verdict: bytes, memory: RoundMemory) -> None:
        """Remember a judged round as this validator has published it, where this ledger is older and judged otherwise."""
        with closing(self._database.connect()) as db, db:
            db.execute("UPDATE rounds SET verdict = ? WHERE round = ?", (verdict, round_))
            db.execute("DELETE FROM round_failures WHERE round = ?", (round_,))
            _remember(db, round_, memory)
            _write_sums(db, round_)

    def adopt(self, round_: Window, validator: Hotkey, verdict: bytes, memory: RoundMemory) -> bool:
        """Begin with what another validator's body says, where nothing is remembered yet. Returns whether it did."""
        with closing(self._database.connect()) as db, db:
            known = "SELECT 1 FROM rounds WHERE verdict IS NOT NULL UNION SELECT 1 FROM round_adopted"
            if db.execute(known).fetchone() is not None:
                return False
            db.execute("INSERT INTO round_adopted (round, validator, verdict) VALUES (?, ?, ?)", (round_, validator, verdict))
            _remember(db, round_, memory)
            _write_sums(db, round_)
        return True

    def untold(self) -> tuple[Window, Hotkey] | None:
        """The round and validator of what was adopted and no verdict of ours has said yet."""
        with closing(self._database.connect()) as db:
            row = db.execute("SELECT round, validator FROM round_adopted WHERE told = 0").fetchone()
        return None if row is None else (Window(row[0]), Hotkey(row[1]))

    def files(self, round_: Window) -> RoundFiles | None:
        """None for a round that is not judged."""
        with closing(self._database.connect()) as db:
            row = db.execute("SELECT verdict, evidence FROM rounds WHERE round = ?", (round_,)).fetchone()
            self._require_sums(db, round_, round_)
        return None if row is None or row[0] is None else RoundFiles(row[0], row[1] or b"")

    def bodies(self, before: Window, most: int) -> list[tuple[Window, bytes]]:
        """Verdicts of the last rounds before this one, own or adopted, oldest first: `most` of them at most."""
        with closing(self._database.connect()) as db:
            rows = db.execute(
                "SELECT round, verdict FROM rounds WHERE round < ?1 AND verdict IS NOT NULL "
                "UNION ALL SELECT round, verdict FROM round_adopted WHERE round < ?1 ORDER BY round DESC LIMIT ?2",
                (before, most),
            ).fetchall()
            if rows:
                self._require_sums(db, rows[-1][0], rows[0][0])
        return [(Window(round_), verdict) for round_, verdict in reversed(rows)]

    def sighted_since(self, after: Window, before: Window) -> list[Window]:
        """Rounds between these two of which seals and files were both seen in time, oldest first."""
        with closing(self._database.connect()) as db:
            rows = db.execute(
                "SELECT DISTINCT round FROM round_sightings WHERE round > ? AND round < ? AND kind <> 'seal' ORDER BY round",
                (after, before),
            ).fetchall()
        return [Window(round_) for (round_,) in rows]

    def unfinished(self) -> list[Window]:
        """Rounds that are judged but not published, oldest first."""
        with closing(self._database.connect()) as db:
            return [Window(r) for (r,) in db.execute("SELECT round FROM rounds WHERE step = 'judged' ORDER BY round")]

    def judged(self) -> list[Window]:
        """Every round that has a verdict here, oldest first; not what was adopted."""
        with closing(self._database.connect()) as db:
            return [Window(r) for (r,) in db.execute("SELECT round FROM rounds WHERE verdict IS NOT NULL ORDER BY round")]

    def last_judged(self) -> Window | None:
        with closing(self._database.connect()) as db:
            row = db.execute("SELECT max(round) FROM rounds WHERE verdict IS NOT NULL").fetchone()
        return None if row[0] is None else Window(row[0])

    def ratings(self) -> dict[Hotkey, bytes]:
        """The last rating of every hotkey that has one, as it was recorded."""
        with closing(self._database.connect()) as db:
            self._require_sums(db, NO_WINDOW, NO_WINDOW)
            return {Hotkey(hotkey): body for hotkey, body in db.execute("SELECT hotkey, body FROM ratings ORDER BY hotkey")}

    def feedback(self) -> dict[Hotkey, KnownFeedback]:
        """The last feedback digest of every hotkey that had a file in time."""
        with closing(self._database.connect()) as db:
            self._require_sums(db, NO_WINDOW, NO_WINDOW)
            rows = db.execute("SELECT hotkey, round, digest FROM feedback ORDER BY hotkey").fetchall()
        return {Hotkey(hotkey): KnownFeedback(Window(round_), Digest(digest)) for hotkey, round_, digest in rows}

    def failures(self, since: Window) -> dict[Hotkey, list[Failure]]:
        """Every failure of a round from `since` on, oldest first."""
        with closing(self._database.connect()) as db:
            self._require_sums(db, NO_WINDOW, NO_WINDOW)
            rows = db.execute(
                "SELECT hotkey, round, failed FROM round_failures WHERE round >= ? ORDER BY hotkey, round", (since,)
            ).fetchall()
        found: dict[Hotkey, list[Failure]] = {}
        for hotkey, round_, check in rows:
            found.setdefault(Hotkey(hotkey), []).append(Failure(Window(round_), check))
        return found

    def require_whole(self) -> None:
        """Look at every sum there is. Errors: DamagedStateError where something is not what was written."""
        with closing(self._database.connect()) as db:
            if not _has_rounds(db):
                return
            self._require_sums(db, NO_WINDOW, LAST_WINDOW)
            open_ = [r for (r,) in db.execute("SELECT round FROM rounds WHERE step IN ('sealed', 'revealed')")]
        for round_ in open_:
            self.measured(Window(round_))

    def _require_sums(self, db: sqlite3.Connection, first: int, last: int) -> None:
        stated: dict[int, dict[str, bytes]] = {}
        query = "SELECT window, part, sha256 FROM sums WHERE part LIKE 'round:%' AND window BETWEEN ? AND ?"
        for round_, part, sum_ in db.execute(query, (first, last)):
            stated.setdefault(round_, {})[part] = sum_
        for round_, parts in stated.items():
            found = _sums(db, round_)
            for part in sorted(found.keys() & parts.keys()):
                if found[part] != parts[part]:
                    which = part if round_ == NO_WINDOW else f"{part} of round {round_}"
                    raise self._database.damaged(f"{which}: not what was written")


def _has_rounds(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = 'rounds'").fetchone() is not None


def _insert_sightings(db: sqlite3.Connection, round_: Window, kind: SightOf, sightings: Iterable[ObjectSighting]) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO round_sightings VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(round_, kind.value, s.hotkey, s.stored_at_ms, s.size, s.digest, s.data, s.reason) for s in sightings],
    )


def _remember(db: sqlite3.Connection, round_: Window, memory: RoundMemory) -> None:
    for table, rows in (("ratings", memory.ratings), ("feedback", memory.feedback)):
        db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", [(h, round_, value) for h, value in rows.items()])
    db.executemany(
        "INSERT OR REPLACE INTO round_failures VALUES (?, ?, ?)", [(h, round_, check) for h, check in memory.failures.items()]
    )


def _forget_seals(db: sqlite3.Connection, before: Window) -> None:
    """The seals of earlier rounds have said what they had to say."""
    query = "SELECT DISTINCT round FROM round_sightings WHERE round < ? AND data IS NOT NULL"
    for (round_,) in db.execute(query, (before,)).fetchall():
        db.execute("UPDATE round_sightings SET data = NULL WHERE round = ?", (round_,))
        _write_sums(db, round_)


def _sums(db: sqlite3.Connection, round_: int) -> dict[str, bytes]:
    """SHA-256 over what a round left behind, by its part; of no round, over what is kept per hotkey."""
    if round_ == NO_WINDOW:
        tables = {table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in _OF_HOTKEYS}
        return {f"round:{table}": _sum(repr(rows).encode()) for table, rows in tables.items()}
    row = db.execute("SELECT step, verdict, evidence FROM rounds WHERE round = ?", (round_,)).fetchone() or ("", None, None)
    adopted = db.execute("SELECT round, validator, verdict FROM round_adopted WHERE round = ?", (round_,)).fetchall()
    found = {"adopted": repr(adopted).encode()}
    for kind in SightOf:
        if kind is SightOf.SEAL or row[0] != RoundStage.SEALED.value:  # else its sight may still go on
            query = "SELECT * FROM round_sightings WHERE round = ? AND kind = ? ORDER BY hotkey"
            found[f"{kind.value} sightings"] = repr(db.execute(query, (round_, kind.value)).fetchall()).encode()
    found |= {name: bytes(data) for name, data in zip(("verdict", "evidence"), row[1:], strict=True) if data is not None}
    return {f"round:{name}": _sum(data) for name, data in found.items()}


def _write_sums(db: sqlite3.Connection, round_: Window) -> None:
    for place in (round_, NO_WINDOW):
        rows = [(place, part, sum_) for part, sum_ in _sums(db, place).items()]
        db.executemany("INSERT OR REPLACE INTO sums VALUES (?, ?, ?)", rows)


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
