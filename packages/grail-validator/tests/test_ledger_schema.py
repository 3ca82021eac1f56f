"""Rounds of gradient work in the ledger: a step once, whoever is killed when; ledgers of the version before lose nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_validator.cases import Sighting, WindowStage
from grail_validator.ledger import Ledger, WorkBegun
from grail_validator.ledger_rounds import ROUND_TABLES, RoundLedger
from grail_validator.ledger_schema import SCHEMA_VERSION
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

NETWORK = bytes(32)
SELF, MINER, OTHER = (Hotkey(bytes([value]) * 32) for value in (0xAA, 0xBB, 0xCC))
ROUND = Window(30)
SEAL = ObjectSighting(MINER, 1000, 300, Digest(b"\1" * 32), b"seal")
UPDATE = ObjectSighting(MINER, 2000, 8000)
FILES = RoundFiles(b'{"round":30}', b"evidence")
MEMORY = RoundMemory({MINER: b'{"mu":25}'}, {MINER: Digest(b"\2" * 32)}, {OTHER: "replay"})


def opened(path: Path) -> Ledger:
    return Ledger(path, network_id=NETWORK, hotkey=SELF)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return opened(tmp_path / "ledger.sqlite")


@pytest.fixture
def rounds(ledger: Ledger) -> RoundLedger:
    return ledger.rounds


def sight(rounds: RoundLedger, round_: Window = ROUND) -> None:
    rounds.record_sighting(round_, SightOf.SEAL, SEAL)
    rounds.record_sealed(round_, [ObjectSighting(OTHER, reason="late")])
    rounds.record_sighting(round_, SightOf.UPDATE, UPDATE)
    rounds.record_revealed(round_, {SightOf.UPDATE: [ObjectSighting(OTHER)], SightOf.OPENING: [ObjectSighting(MINER, 2100, 9)]})


def test_what_a_store_answered_first_stays_and_each_sight_is_over_once(rounds: RoundLedger) -> None:
    assert rounds.stage(ROUND) is RoundStage.UNSEEN
    assert not rounds.record_revealed(ROUND, {})  # first sight of seals was missed
    rounds.record_sighting(ROUND, SightOf.SEAL, SEAL)
    rounds.record_sighting(ROUND, SightOf.SEAL, ObjectSighting(MINER, 1500, 1, None, b"another"))
    assert rounds.sightings(ROUND, SightOf.SEAL) == [SEAL]
    assert rounds.stage(ROUND) is RoundStage.UNSEEN  # it still goes on
    assert rounds.record_sealed(ROUND, [ObjectSighting(OTHER, reason="late"), ObjectSighting(MINER, reason="late")])
    assert not rounds.record_sealed(ROUND, [ObjectSighting(SELF)])
    assert rounds.sightings(ROUND, SightOf.SEAL) == [SEAL, ObjectSighting(OTHER, reason="late")]
    rounds.record_sighting(ROUND, SightOf.UPDATE, UPDATE)
    assert rounds.record_revealed(ROUND, {SightOf.UPDATE: [ObjectSighting(OTHER)], SightOf.OPENING: []})
    assert not rounds.record_revealed(ROUND, {SightOf.UPDATE: [ObjectSighting(SELF)]})
    assert rounds.sightings(ROUND, SightOf.UPDATE) == [UPDATE, ObjectSighting(OTHER)]
    assert rounds.stage(ROUND) is RoundStage.REVEALED


def test_a_round_is_judged_once_and_leaves_what_later_rounds_need(ledger: Ledger, rounds: RoundLedger) -> None:
    sight(rounds)
    measured = RoundMeasured(Digest(b"\3" * 32), b"{}", b"floats")
    rounds.record_measured(ROUND, MINER, measured)
    assert rounds.measured(ROUND) == {MINER: measured}
    rounds.record_judged(ROUND, FILES, MEMORY)
    with pytest.raises(ValueError, match="judged before"):
        rounds.record_judged(ROUND, FILES, RoundMemory())
    assert rounds.measured(ROUND) == {}
    assert (rounds.unfinished(), rounds.last_judged(), rounds.files(ROUND)) == ([ROUND], ROUND, FILES)
    rounds.record_published(ROUND)
    assert (rounds.unfinished(), rounds.files(ROUND)) == ([], RoundFiles(FILES.verdict, b""))
    sight(rounds, Window(60))
    rounds.record_judged(Window(60), RoundFiles(b"second", b""), RoundMemory({OTHER: b"{}"}, {}, {MINER: "chunks"}))
    rounds.record_judged(Window(90), RoundFiles(b"third", b""), RoundMemory())  # whose sights were missed
    assert rounds.ratings() == {MINER: b'{"mu":25}', OTHER: b"{}"}
    assert rounds.feedback() == {MINER: KnownFeedback(ROUND, Digest(b"\2" * 32))}
    assert rounds.failures(ROUND) == {MINER: [Failure(Window(60), "chunks")], OTHER: [Failure(ROUND, "replay")]}
    assert rounds.failures(Window(60)) == {MINER: [Failure(Window(60), "chunks")]}
    assert rounds.bodies(Window(90), 36) == [(ROUND, FILES.verdict), (Window(60), b"second")]
    assert rounds.bodies(Window(120), 2) == [(Window(60), b"second"), (Window(90), b"third")]
    assert rounds.sighted_since(Window(0), Window(120)) == [ROUND, Window(60)]
    assert rounds.sightings(ROUND, SightOf.SEAL)[0].data is None  # earlier seals leave the ledger, what they were does not
    assert rounds.sightings(ROUND, SightOf.SEAL)[0].digest == SEAL.digest
    ledger.require_whole()


def test_a_failed_transaction_leaves_nothing_behind(rounds: RoundLedger) -> None:
    sight(rounds)
    with pytest.raises(sqlite3.IntegrityError):
        rounds.record_judged(ROUND, FILES, RoundMemory({MINER: b"{}"}, {}, {OTHER: None}))  # type: ignore[dict-item]
    assert rounds.stage(ROUND) is RoundStage.REVEALED
    assert rounds.ratings() == {}


def test_ends_of_a_process_in_a_round_are_counted_as_in_a_window(ledger: Ledger) -> None:
    ledger.begin_work(ROUND)
    ledger.note_work(ROUND, MINER)
    assert ledger.begin_work(ROUND) == WorkBegun(frozenset(), hopeless=False)
    ledger.note_work(ROUND, MINER)
    assert ledger.begin_work(ROUND).given_up == {MINER}
    ledger.rounds.record_judged(ROUND, FILES, MEMORY)
    assert ledger.begin_work(ROUND) == WorkBegun(frozenset(), hopeless=False)


def test_a_validator_without_history_begins_with_anothers_body_once_and_says_so(rounds: RoundLedger) -> None:
    assert rounds.adopt(ROUND, OTHER, b"lead body", MEMORY)
    assert not rounds.adopt(Window(60), SELF, b"another", RoundMemory({MINER: b"other"}))
    assert rounds.untold() == (ROUND, OTHER)
    assert rounds.bodies(Window(60), 36) == [(ROUND, b"lead body")]
    assert rounds.ratings() == MEMORY.ratings
    rounds.record_judged(Window(60), FILES, RoundMemory())
    assert rounds.untold() is None
    assert not rounds.adopt(Window(90), OTHER, b"late", MEMORY)
    rounds.require_whole()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ratings SET body = X'00'",
        "UPDATE round_failures SET failed = 'chunks'",
        "UPDATE round_sightings SET stored_at_ms = 1 WHERE kind = 'update'",
        "UPDATE rounds SET verdict = X'00'",
    ],
)
def test_a_value_turned_into_another_is_found(rounds: RoundLedger, tmp_path: Path, change: str) -> None:
    sight(rounds)
    rounds.record_judged(ROUND, FILES, MEMORY)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
        db.execute(change)
    with pytest.raises(DamagedStateError, match="not what was written"):
        opened(tmp_path / "ledger.sqlite").require_whole()


def test_a_ledger_of_the_version_before_opens_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    opened(path).record_sightings(Window(30), [Sighting(MINER, b"seal", 1000)])
    with closing(sqlite3.connect(path)) as db, db:
        for statement in ROUND_TABLES:
            db.execute(f"DROP TABLE {statement.split('EXISTS ')[1].split()[0]}")
        db.execute("UPDATE meta SET value = '4' WHERE name = 'schema'")
    Ledger.reading(path).require_whole()  # looking into it changes nothing
    ledger = opened(path)
    assert ledger.sightings(Window(30)) == [Sighting(MINER, b"seal", 1000)]
    assert ledger.rounds.stage(Window(30)) is RoundStage.UNSEEN
    sight(ledger.rounds, Window(60))
    assert opened(path).rounds.stage(Window(60)) is RoundStage.REVEALED
    assert Ledger.reading(path.with_name("ledger.sqlite.schema-4")).stage(Window(30)) is WindowStage.SIGHTED


def test_a_later_schema_is_refused_with_what_to_do_and_not_touched(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    later = SCHEMA_VERSION + 1
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(later),))
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=f"schema {later}, of a later version") as refused:
        opened(path)
    assert f"ledger.sqlite.schema-{SCHEMA_VERSION}" in refused.value.hint
    with pytest.raises(ConfigurationError, match="of a later version"):
        Ledger.reading(path)
    assert path.read_bytes() == before
