"""The validator's memory: one SQLite file (WAL) in which every window moves through its steps exactly once.

sighted → judged → published. A step and its results are one transaction, so a validator killed anywhere continues with the
step it was in and counts nothing twice; a window that was not judged is recorded with its reason, never skipped silently.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from grail_core.disk import storage_errors
from grail_core.errors import ConfigurationError
from grail_core.protocol import Adopted, MinerWindow, VerdictBody
from grail_core.protocol.constants import (
    NUMERICS_CLASS_WINDOWS,
    SCORE_MEMORY_WINDOWS,
    UNIQUE_HISTORY_WINDOWS,
    WINDOW_LENGTH,
)
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.telemetry import get_logger
from grail_core.verification.header import Classes
from grail_validator.cases import Measured, Memory, SentWeights, Sighting, WindowStage
from grail_validator.ledger_rounds import RoundLedger
from grail_validator.ledger_rows import measured_of, row_of, sum_of
from grail_validator.ledger_schema import (
    MIGRATIONS,
    SCHEMA_VERSION,
    copy_to,
    ledger_database,
    other_schema,
    owner_of,
    prepare,
    schema_of,
)
from grail_validator.ledger_sums import LAST_WINDOW, NO_WINDOW, sums, write_sums

log = get_logger(__name__)

_READABLE = {str(version) for version in (*MIGRATIONS, SCHEMA_VERSION)}
"""What is looked into and never changed need not be migrated: the tables that are read are in all of them."""

MAX_CRASHES_FORGIVEN = 1
"""Ends of a process while it judged a window, after which the file in hand is given up."""


@dataclass(frozen=True)
class PublishedFiles:
    """A window's result as it is published; the evidence leaves the ledger once the store has it."""

    verdict: bytes  # SignedVerdict, encoded
    evidence: bytes


@dataclass(frozen=True)
class WorkBegun:
    """What judging of a window begins with. `hopeless`: this process ended twice in it with no file in hand."""

    given_up: frozenset[Hotkey]
    hopeless: bool


def _insert_sightings(db: sqlite3.Connection, window: Window, sightings: Iterable[Sighting]) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO sightings VALUES (?, ?, ?, ?, ?)",
        [(window, s.hotkey, s.seal, s.stored_at_ms, s.reason) for s in sightings],
    )


def _forget_seals(db: sqlite3.Connection, before: Window) -> None:
    """The seals of earlier windows have said what they had to say."""
    rows = db.execute("SELECT DISTINCT window FROM sightings WHERE window < ? AND seal IS NOT NULL", (before,)).fetchall()
    for (window,) in rows:
        db.execute("UPDATE sightings SET seal = NULL WHERE window = ?", (window,))
        write_sums(db, window)


def _insert_scores(db: sqlite3.Connection, body: VerdictBody) -> None:
    for miner in body.miners:
        e = miner.miner_window(body.window)
        probability = None if e.probability is None else str(e.probability)
        values = (e.declared, e.active, e.checked, e.unique_valid, e.failed, probability, e.inconclusive)
        db.execute("INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (body.window, miner.hotkey, *values))


class Ledger:
    """One per validator hotkey. Connections are opened per call: any thread may use it."""

    def __init__(self, path: Path, *, network_id: bytes, hotkey: Hotkey) -> None:
        """Open or create.

        Raises:
            ConfigurationError: the file belongs to another network, hotkey or version, or cannot be used.
            DamagedStateError, DiskFullError, StorageError: as every other call may, whenever it meets it.
        """
        self._database = ledger_database(path)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        expected = {"network": network_id.hex(), "hotkey": hotkey.hex()}
        try:
            prepare(self._database, expected)
            with closing(self._connect()) as db:
                found = dict(db.execute("SELECT name, value FROM meta"))
            self._database.check()
        except sqlite3.DatabaseError as error:
            raise self._database.damaged(str(error)) from error
        for name, value in expected.items():
            if found.get(name) != value:
                raise ConfigurationError(
                    f"this ledger is of another {name}",
                    where=str(path),
                    hint="each hotkey and network has its own folder in GRAIL_STATE_DIR; move this file away",
                )

    @classmethod
    def reading(cls, path: Path) -> Ledger:
        """A ledger to look into, whosever it is, beside the validator that writes it; nothing in it can be changed.

        Raises:
            ConfigurationError: the file is no ledger of this version.
        """
        if owner_of(path) is None:
            raise ConfigurationError(
                "this file is no ledger, or its first page is damaged",
                where=str(path),
                hint="name a validator's ledger.sqlite; if this is one, bring a copy back with its -wal file",
            )
        ledger = cls.__new__(cls)
        ledger._database = ledger_database(path, read_only=True)
        with closing(ledger._connect()) as db:
            schema = schema_of(db) or "none"
        if schema not in _READABLE:
            raise other_schema(path, schema)
        return ledger

    @classmethod
    def adopt(cls, former: Path, path: Path, *, network_id: bytes, hotkey: Hotkey) -> bool:
        """Bring the ledger from where an earlier version kept it, if it is this network's and hotkey's. Returns whether it did.

        The copy is made beside its place, flushed, and takes its name in one step; only then the old one gets another name. So
        a process killed anywhere begins again, or finds it done.

        Raises:
            ConfigurationError: there is one, and whose it is cannot be read.
        """
        if path.exists() or not former.is_file():
            return False
        owner = owner_of(former)
        if owner is None:
            raise ConfigurationError(
                "the ledger of an earlier version is here and cannot be read",
                where=str(former),
                hint="make it readable and its folder writable for this user, or move it away to begin with an empty one",
            )
        if owner != (network_id.hex(), hotkey.hex()):
            return False
        with closing(ledger_database(former).connect()) as db:
            copy_to(db, path)
        with storage_errors(path):
            for suffix in ("", "-wal", "-shm"):
                old = former.with_name(former.name + suffix)
                if old.exists():
                    os.replace(old, old.with_name(old.name + ".moved"))
        log.event("state_moved", former=str(former), path=str(path))
        return True

    @property
    def rounds(self) -> RoundLedger:
        """The rounds of gradient work in this ledger."""
        return RoundLedger(self._database)

    def _connect(self) -> sqlite3.Connection:
        return self._database.connect()

    def _require_sums(self, db: sqlite3.Connection, first: int, last: int) -> None:
        """SQLite finds a page that makes no sense, not a number in one that was turned into another: a flipped bit of a
        sighting or a class would become a miner's failure. What has left the ledger since, or is older than sums, has none."""
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sums'").fetchone() is None:
            return  # an earlier version's, which is only read
        stated: dict[int, dict[str, bytes]] = {}
        for window, part, sum_ in db.execute(
            "SELECT window, part, sha256 FROM sums WHERE window BETWEEN ? AND ?", (first, last)
        ):
            stated.setdefault(window, {})[part] = sum_
        for window, parts in stated.items():
            found = sums(db, window)
            for part in sorted(found.keys() & parts.keys()):
                if found[part] != parts[part]:
                    which = part if window == NO_WINDOW else f"{part} of window {window}"
                    raise self._database.damaged(f"{which}: not what was written")

    def require_whole(self) -> None:
        """Look at every page, and at every sum there is.

        Raises:
            DamagedStateError: something is not what was written.
        """
        self._database.check(seconds=math.inf)
        with closing(self._connect()) as db:
            self._require_sums(db, NO_WINDOW, LAST_WINDOW)
            windows = [window for (window,) in db.execute("SELECT window FROM windows WHERE step = 'sighted'")]
        for window in windows:
            self.measured(Window(window))
        self.rounds.require_whole()

    def record_sighting(self, window: Window, sighting: Sighting) -> None:
        """What one hotkey's store answered at first sight; the first answer stays."""
        with closing(self._connect()) as db, db:
            _insert_sightings(db, window, (sighting,))  # summed once first sight is over

    def record_sightings(self, window: Window, rest: Iterable[Sighting]) -> None:
        """First sight is over: `rest` are those who did not answer. A second call for the same window changes nothing."""
        with closing(self._connect()) as db, db:
            if db.execute("INSERT OR IGNORE INTO windows (window, step) VALUES (?, 'sighted')", (window,)).rowcount == 0:
                return
            _insert_sightings(db, window, rest)
            write_sums(db, window)

    def sightings(self, window: Window) -> list[Sighting] | None:
        """None if first sight of this window was missed."""
        return None if self.stage(window) is WindowStage.UNSEEN else self.sightings_so_far(window)

    def sightings_so_far(self, window: Window) -> list[Sighting]:
        """Whose store has answered, while first sight still goes on."""
        with closing(self._connect()) as db:
            self._require_sums(db, window, window)
            rows = db.execute(
                "SELECT hotkey, seal, stored_at_ms, reason FROM sightings WHERE window = ? ORDER BY hotkey", (window,)
            )
            return [Sighting(Hotkey(hotkey), seal, stored, reason) for hotkey, seal, stored, reason in rows]

    def begin_work(self, window: Window) -> WorkBegun:
        """Judging of a window begins, perhaps not for the first time: what the last process left in hand is known now.

        A process that ended while it judged may have been killed by its operator, so the first such end costs nobody
        anything. From the second on, the file that was in hand is given up; and where none was, the window.
        """
        with closing(self._connect()) as db, db:
            row = db.execute("SELECT crashes, running, hotkey FROM work WHERE window = ?", (window,)).fetchone()
            crashes, running, hotkey = row if row is not None else (0, 0, None)
            hopeless = False
            if running:
                crashes += 1
                if crashes > MAX_CRASHES_FORGIVEN and hotkey is not None:
                    db.execute("INSERT OR IGNORE INTO given_up VALUES (?, ?)", (window, hotkey))
                hopeless = crashes > MAX_CRASHES_FORGIVEN and hotkey is None
            db.execute("INSERT OR REPLACE INTO work VALUES (?, ?, 1, NULL)", (window, crashes))
            given_up = db.execute("SELECT hotkey FROM given_up WHERE window = ?", (window,)).fetchall()
        return WorkBegun(frozenset(Hotkey(hotkey) for (hotkey,) in given_up), hopeless)

    def note_work(self, window: Window, hotkey: Hotkey | None) -> None:
        """Whose file is in hand now."""
        with closing(self._connect()) as db, db:
            db.execute("UPDATE work SET hotkey = ? WHERE window = ?", (hotkey, window))

    def end_work(self, window: Window) -> None:
        """Judging ended in order, with or without a result."""
        with closing(self._connect()) as db, db:
            db.execute("UPDATE work SET running = 0, hotkey = NULL WHERE window = ?", (window,))

    def record_measured(self, window: Window, measured: Measured) -> None:
        """The checks of one drawn file came to an end: whatever ends this process now, they are not done again."""
        values = row_of(measured)
        with closing(self._connect()) as db, db:
            db.execute("INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?, ?, ?, ?)", (window, *values, sum_of(values)))

    def measured(self, window: Window) -> dict[Hotkey, Measured]:
        """What was measured of a window that is not judged yet."""
        with closing(self._connect()) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'measured'").fetchone() is None:
                return {}  # an earlier version's, which is only read
            rows = db.execute(
                "SELECT hotkey, basis, verdict, identities, evidence, sha256 FROM measured WHERE window = ?", (window,)
            ).fetchall()
        found = {}
        for *values, stated in rows:
            if sum_of(tuple(values)) != stated:
                raise self._database.damaged(f"what was measured in window {window}: not what was written")
            found[Hotkey(values[0])] = measured_of(tuple(values))
        return found

    def stage(self, window: Window) -> WindowStage:
        with closing(self._connect()) as db:
            row = db.execute("SELECT step FROM windows WHERE window = ?", (window,)).fetchone()
        return WindowStage.UNSEEN if row is None else WindowStage(row[0])

    def record_judged(
        self,
        window: Window,
        body: VerdictBody,
        files: PublishedFiles,
        counted: Mapping[Hotkey, Sequence[Digest]],
        classes: Mapping[Hotkey, Classes],
    ) -> None:
        """A judged window with everything later windows depend on, in one transaction.

        Raises:
            ValueError: the window was judged before.
        """
        with closing(self._connect()) as db, db:
            db.execute("INSERT OR IGNORE INTO windows (window, step) VALUES (?, 'sighted')", (window,))
            changed = db.execute(
                "UPDATE windows SET step = 'judged', verdict = ?, evidence = ? WHERE window = ? AND step = 'sighted'",
                (files.verdict, files.evidence, window),
            ).rowcount
            if changed != 1:
                raise ValueError(f"window {window} was judged before")
            _insert_scores(db, body)
            for hotkey, identities in counted.items():
                db.executemany(
                    "INSERT INTO counted VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET window = excluded.window",
                    [(hotkey, identity, window) for identity in identities],
                )
            for hotkey, (proof, generation) in classes.items():
                db.execute(
                    "INSERT INTO classes VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET proof = excluded.proof, "
                    "generation = excluded.generation, since = excluded.since "
                    "WHERE proof <> excluded.proof OR generation <> excluded.generation",
                    (hotkey, proof, generation, window),
                )
            db.execute("UPDATE adopted SET told = 1")
            db.execute("DELETE FROM work WHERE window <= ?", (window,))
            db.execute("DELETE FROM given_up WHERE window <= ?", (window,))
            db.execute("DELETE FROM measured WHERE window <= ?", (window,))
            _forget_seals(db, window)
            db.execute("DELETE FROM counted WHERE window <= ?", (window - UNIQUE_HISTORY_WINDOWS * WINDOW_LENGTH,))
            write_sums(db, window)

    def record_published(self, window: Window) -> None:
        """The bulk of a published window is in the store: it leaves the ledger, the verdict stays."""
        with closing(self._connect()) as db, db:
            db.execute("UPDATE windows SET step = 'published', evidence = NULL WHERE window = ?", (window,))

    def take_published(self, window: Window, verdict: bytes, body: VerdictBody) -> None:
        """Remember a judged window as this validator has published it, where this ledger is older than what it published and
        judged otherwise: scores to come are computed again from what is published."""
        with closing(self._connect()) as db, db:
            db.execute("UPDATE windows SET verdict = ? WHERE window = ?", (verdict, window))
            adopted = db.execute("SELECT 1 FROM adopted WHERE window = ?", (window,)).fetchone() is not None
            if body.miners or not adopted:
                db.execute("DELETE FROM scores WHERE window = ?", (window,))
                db.execute("DELETE FROM adopted WHERE window = ?", (window,))
                _insert_scores(db, body)
            write_sums(db, window)

    def files(self, window: Window) -> PublishedFiles | None:
        """None for a window that is not judged."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT verdict, evidence FROM windows WHERE window = ?", (window,)).fetchone()
            self._require_sums(db, window, window)
        return None if row is None or row[0] is None else PublishedFiles(row[0], row[1] or b"")

    def record_beginning(self, current: Window) -> Window:
        """The window that was running when a validator first started with this ledger, and from which on it has a result for
        every window. `current` is remembered as that the first time, or the first one that was sighted before it was kept."""
        with closing(self._connect()) as db, db:
            db.execute(
                "INSERT OR IGNORE INTO meta SELECT 'first_window', min(?, coalesce((SELECT min(window) FROM windows), ?))",
                (current, current),
            )
            return Window(int(db.execute("SELECT value FROM meta WHERE name = 'first_window'").fetchone()[0]))

    def judged(self) -> list[Window]:
        """Every window that has a verdict here, oldest first."""
        with closing(self._connect()) as db:
            return [Window(w) for (w,) in db.execute("SELECT window FROM windows WHERE verdict IS NOT NULL ORDER BY window")]

    def last_judged(self) -> Window | None:
        with closing(self._connect()) as db:
            row = db.execute("SELECT max(window) FROM windows WHERE step <> 'sighted'").fetchone()
        return None if row[0] is None else Window(row[0])

    def unfinished(self) -> list[Window]:
        """Windows that are judged but not published, oldest first."""
        with closing(self._connect()) as db:
            return [Window(w) for (w,) in db.execute("SELECT window FROM windows WHERE step = 'judged' ORDER BY window")]

    def history(self, before: Window) -> dict[Hotkey, list[MinerWindow]]:
        """What every hotkey did in the 72 windows before this one."""
        oldest = before - SCORE_MEMORY_WINDOWS * WINDOW_LENGTH
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT hotkey, window, declared, active, checked, unique_valid, failed, probability, inconclusive FROM scores "
                "WHERE window >= ? AND window < ? ORDER BY hotkey, window",
                (oldest, before),
            ).fetchall()
            self._require_sums(db, oldest, before - 1)
        result: dict[Hotkey, list[MinerWindow]] = {}
        for hotkey, window, declared, active, checked, unique_valid, failed, probability, inconclusive in rows:
            entry = MinerWindow(
                Window(window),
                declared,
                active=bool(active),
                checked=bool(checked),
                unique_valid=unique_valid,
                failed=bool(failed),
                probability=None if probability is None else Fraction(probability),
                inconclusive=bool(inconclusive),
            )
            result.setdefault(Hotkey(hotkey), []).append(entry)
        return result

    def unremembered(self, before: Window) -> list[Window]:
        """Windows of the score memory, oldest first, that this validator neither scored nor adopted from another."""
        oldest = before - SCORE_MEMORY_WINDOWS * WINDOW_LENGTH
        with closing(self._connect()) as db:
            scored = {w for (w,) in db.execute("SELECT DISTINCT window FROM scores WHERE window >= ?", (max(0, oldest),))}
            adopted = {w for (w,) in db.execute("SELECT window FROM adopted")}
        known = scored | adopted
        return [Window(w) for w in range(max(0, oldest), before, WINDOW_LENGTH) if w not in known]

    def adopt_scores(self, body: VerdictBody, validator: Hotkey, *, told: bool = False) -> bool:
        """Remember a window from a published verdict, if this ledger has no scores of it. Returns whether it did.

        A verdict tells of one validator whose memory it took over: of another's nothing is adopted before that is `told`.
        """
        with closing(self._connect()) as db, db:
            if db.execute("SELECT 1 FROM scores WHERE window = ?", (body.window,)).fetchone() is not None:
                return False
            waiting = "SELECT 1 FROM adopted WHERE told = 0 AND validator <> ?"
            if not told and db.execute(waiting, (validator,)).fetchone() is not None:
                return False
            values = (body.window, validator, told)
            if db.execute("INSERT OR IGNORE INTO adopted VALUES (?, ?, ?)", values).rowcount == 0:
                return False
            _insert_scores(db, body)
            write_sums(db, body.window)
        return True

    def untold(self) -> Adopted | None:
        """What was adopted and no verdict of ours has said yet."""
        with closing(self._connect()) as db:
            rows = db.execute("SELECT window, validator FROM adopted WHERE told = 0 ORDER BY window").fetchall()
        return Adopted(Hotkey(rows[-1][1]), Window(rows[0][0]), Window(rows[-1][0])) if rows else None

    def counted(self, hotkey: Hotkey, before: Window) -> Collection[Digest]:
        """Identities of rollouts this hotkey had counted in the last 12 windows."""
        oldest = before - UNIQUE_HISTORY_WINDOWS * WINDOW_LENGTH
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT identity FROM counted WHERE hotkey = ? AND window >= ? AND window < ?", (hotkey, oldest, before)
            )
            return frozenset(Digest(identity) for (identity,) in rows)

    def known_classes(self, hotkey: Hotkey, window: Window) -> Classes | None:
        """The numerics classes a hotkey is bound to in this window, None if it is free to choose."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT proof, generation, since FROM classes WHERE hotkey = ?", (hotkey,)).fetchone()
        if row is None or window - row[2] >= NUMERICS_CLASS_WINDOWS * WINDOW_LENGTH:
            return None
        return str(row[0]), str(row[1])

    def memory(self, window: Window, hotkeys: Iterable[Hotkey]) -> Memory:
        """What the windows before this one say of these hotkeys."""
        hotkeys = tuple(hotkeys)
        with closing(self._connect()) as db:
            self._require_sums(db, NO_WINDOW, NO_WINDOW)
        classes = {hotkey: self.known_classes(hotkey, window) for hotkey in hotkeys}
        return Memory(
            history=self.history(window),
            counted={hotkey: self.counted(hotkey, window) for hotkey in hotkeys},
            classes={hotkey: names for hotkey, names in classes.items() if names is not None},
        )

    def weights_block(self) -> Block | None:
        """The block before the last weights that the chain has shown."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'weights_block'").fetchone()
        return None if row is None else Block(int(row[0]))

    def record_weights(self, block: Block) -> None:
        """The chain shows the weights that were sent after this block: none wait for it any more."""
        with closing(self._connect()) as db, db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('weights_block', ?)", (str(block),))
            db.execute("DELETE FROM meta WHERE name = 'weights_sent'")

    def weights_sent(self) -> SentWeights | None:
        """What the chain is to show yet."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'weights_sent'").fetchone()
        block, window, attempt = (0, 0, 0) if row is None else map(int, row[0].split())
        return None if row is None else SentWeights(Block(block), Window(window), attempt)

    def record_weights_sent(self, sent: SentWeights) -> None:
        """Before they are: whatever ends this process then, the chain is asked about them."""
        with closing(self._connect()) as db, db:
            text = f"{sent.block} {sent.window} {sent.attempt}"
            db.execute("INSERT OR REPLACE INTO meta VALUES ('weights_sent', ?)", (text,))
