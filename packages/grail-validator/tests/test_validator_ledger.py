"""The ledger moves a window through its steps once, whoever is killed when."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_core.protocol import Adopted, MinerStatus, MinerVerdict, VerdictBody, Versions, WindowStatus, score_inputs
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_validator.cases import Sighting, WindowStage
from grail_validator.ledger import Ledger, PublishedFiles, WorkBegun

NETWORK = bytes(32)
SELF = Hotkey(b"\xaa" * 32)
MINER = Hotkey(b"\xbb" * 32)
FILES = PublishedFiles(b"verdict", b"evidence")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", network_id=NETWORK, hotkey=SELF)


def body(window: int, status: MinerStatus = MinerStatus.ACCEPTED, unique: int = 30) -> VerdictBody:
    miner = MinerVerdict(
        hotkey=MINER,
        uid=4,
        status=status,
        active=status is not MinerStatus.INCONCLUSIVE,
        declared=32,
        checked=status is not MinerStatus.INCONCLUSIVE,
        unique_valid=unique,
        check_probability=Fraction(1, 2),
        coin=0,
    )
    return VerdictBody(
        network_id=Digest(NETWORK),
        window=Window(window),
        status=WindowStatus.SCORED,
        versions=Versions("a", "b", "c"),
        miners=(miner,),
        hotkeys={4: MINER},
        score_inputs={4: score_inputs([miner.miner_window(Window(window))], Window(window))},
    )


def record(ledger: Ledger, window: int, *, counted: list[bytes] | None = None, name: tuple[str, str] = ("one", "one")) -> None:
    identities = [Digest(identity) for identity in counted or []]
    ledger.record_judged(Window(window), body(window), FILES, {MINER: identities}, {MINER: name})


def test_first_sight_is_recorded_once(ledger: Ledger) -> None:
    assert ledger.sightings(Window(30)) is None
    ledger.record_sightings(Window(30), [Sighting(MINER, b"seal", 1000)])
    ledger.record_sightings(Window(30), [Sighting(MINER, b"another", 2000)])
    assert ledger.sightings(Window(30)) == [Sighting(MINER, b"seal", 1000)]


def test_where_a_ledger_began_is_remembered_from_its_first_start_or_its_first_window(ledger: Ledger, tmp_path: Path) -> None:
    assert [ledger.record_beginning(Window(window)) for window in (90, 120)] == [90, 90]
    former = Ledger(tmp_path / "former.sqlite", network_id=NETWORK, hotkey=SELF)  # of a version that did not keep it
    former.record_sightings(Window(60), [Sighting(MINER, b"seal", 1000)])
    assert former.record_beginning(Window(90)) == 60


def test_what_a_store_answered_first_stays_and_the_rest_is_late(ledger: Ledger) -> None:
    ledger.record_sighting(Window(30), Sighting(MINER, b"seal", 1000))
    assert ledger.sightings(Window(30)) is None  # first sight still goes on
    assert ledger.sightings_so_far(Window(30)) == [Sighting(MINER, b"seal", 1000)]
    ledger.record_sightings(Window(30), [Sighting(MINER, reason="late"), Sighting(SELF, reason="late")])
    assert ledger.sightings(Window(30)) == [Sighting(SELF, reason="late"), Sighting(MINER, b"seal", 1000)]


def test_a_window_without_registered_miners_is_sighted_all_the_same(ledger: Ledger) -> None:
    ledger.record_sightings(Window(30), [])
    assert ledger.sightings(Window(30)) == []


def test_a_window_is_judged_once(ledger: Ledger) -> None:
    record(ledger, 30)
    with pytest.raises(ValueError, match="judged before"):
        record(ledger, 30)
    history = ledger.history(Window(60))
    assert [(entry.window, entry.declared, entry.unique_valid) for entry in history[MINER]] == [(30, 32, 30)]


def test_a_failed_transaction_leaves_nothing_behind(ledger: Ledger) -> None:
    ledger.record_sightings(Window(30), [Sighting(MINER)])
    with pytest.raises(sqlite3.IntegrityError):
        ledger.record_judged(Window(30), body(30), FILES, {MINER: [None]}, {})  # type: ignore[list-item]
    assert ledger.stage(Window(30)) is WindowStage.SIGHTED
    assert ledger.history(Window(60)) == {}


def test_what_is_judged_and_not_published_is_found_again(ledger: Ledger) -> None:
    record(ledger, 30)
    record(ledger, 60)
    ledger.record_published(Window(30))
    assert ledger.unfinished() == [60]
    assert ledger.last_judged() == 60
    published = ledger.files(Window(30))
    assert published is not None
    assert (published.verdict, published.evidence) == (b"verdict", b"")


def test_counted_rollouts_are_remembered_for_twelve_windows(ledger: Ledger) -> None:
    record(ledger, 30, counted=[b"\1" * 32])
    assert ledger.counted(MINER, Window(60)) == {b"\1" * 32}
    assert ledger.counted(MINER, Window(30 + 12 * 30)) == {b"\1" * 32}
    assert ledger.counted(MINER, Window(30 + 13 * 30)) == frozenset()


def test_the_numerics_classes_bind_for_36_windows(ledger: Ledger) -> None:
    record(ledger, 30, name=("one", "one"))
    record(ledger, 60, name=("one", "one"))
    assert ledger.known_classes(MINER, Window(90)) == ("one", "one")
    assert ledger.known_classes(MINER, Window(30 + 36 * 30)) is None
    record(ledger, 30 + 36 * 30, name=("one", "two"))
    assert ledger.known_classes(MINER, Window(60 + 36 * 30)) == ("one", "two")


def test_a_failure_and_an_inconclusive_window_are_remembered_as_what_they_were(ledger: Ledger) -> None:
    for window, status in ((30, MinerStatus.FAILED), (60, MinerStatus.INCONCLUSIVE)):
        ledger.record_judged(Window(window), body(window, status, 0), FILES, {}, {})
    failed, inconclusive = ledger.history(Window(90))[MINER]
    assert (failed.failed, failed.lookback, failed.inconclusive) == (True, 14, False)
    assert (inconclusive.failed, inconclusive.lookback, inconclusive.inconclusive) == (False, 0, True)


def test_seals_of_earlier_windows_leave_the_ledger(ledger: Ledger) -> None:
    ledger.record_sightings(Window(30), [Sighting(MINER, b"seal", 1000)])
    record(ledger, 30)
    assert ledger.sightings(Window(30)) == [Sighting(MINER, b"seal", 1000)]
    record(ledger, 60)
    assert ledger.sightings(Window(30)) == [Sighting(MINER, None, 1000)]


# --- work in hand -----------------------------------------------------------------------------------------------------


def crash(ledger: Ledger, hotkey: Hotkey | None) -> WorkBegun:
    """What the next process begins with, after one that ended with this file in hand."""
    ledger.note_work(Window(30), hotkey)
    return ledger.begin_work(Window(30))


def test_the_first_end_of_a_process_in_a_window_is_forgiven_and_the_second_gives_the_file_in_hand_up(ledger: Ledger) -> None:
    assert ledger.begin_work(Window(30)) == WorkBegun(frozenset(), False)
    assert crash(ledger, MINER) == WorkBegun(frozenset(), False)
    assert crash(ledger, MINER) == WorkBegun(frozenset({MINER}), False)
    assert crash(ledger, SELF) == WorkBegun(frozenset({MINER, SELF}), False)


def test_a_window_that_ends_a_process_twice_with_no_file_in_hand_is_hopeless(ledger: Ledger) -> None:
    ledger.begin_work(Window(30))
    assert not crash(ledger, None).hopeless
    assert crash(ledger, None).hopeless


def test_a_validator_that_stops_in_order_gives_nothing_up(ledger: Ledger) -> None:
    for _ in range(4):
        assert ledger.begin_work(Window(30)) == WorkBegun(frozenset(), False)
        ledger.note_work(Window(30), MINER)
        ledger.end_work(Window(30))


# --- adopted memory ---------------------------------------------------------------------------------------------------


def test_windows_that_were_not_scored_are_filled_from_another_verdict_and_told_once(ledger: Ledger) -> None:
    record(ledger, 60)
    assert ledger.unremembered(Window(120)) == [0, 30, 90]
    assert ledger.adopt_scores(body(30), SELF)
    assert not ledger.adopt_scores(body(30), SELF)
    assert not ledger.adopt_scores(body(60), SELF)  # one's own stays
    assert ledger.unremembered(Window(120)) == [0, 90]
    assert [entry.window for entry in ledger.history(Window(120))[MINER]] == [30, 60]
    assert ledger.untold() == Adopted(SELF, Window(30), Window(30))
    record(ledger, 120)
    assert ledger.untold() is None


def test_what_a_verdict_tells_of_is_one_validators_memory_whoever_leads_meanwhile(ledger: Ledger) -> None:
    """A process that ends after it has adopted, and a leader that changes before the next one judges."""
    assert ledger.adopt_scores(body(0), SELF)
    assert not ledger.adopt_scores(body(30), MINER)
    assert ledger.untold() == Adopted(SELF, Window(0), Window(0))
    record(ledger, 90)
    assert ledger.adopt_scores(body(30), MINER)
    assert ledger.untold() == Adopted(MINER, Window(30), Window(30))


def test_a_window_that_was_published_otherwise_is_remembered_as_it_was_published(ledger: Ledger) -> None:
    ledger.record_judged(Window(30), body(30, unique=3), FILES, {}, {})
    ledger.take_published(Window(30), b"published", body(30, unique=30))
    assert [entry.unique_valid for entry in ledger.history(Window(60))[MINER]] == [30]
    assert ledger.files(Window(30)) == PublishedFiles(b"published", b"evidence")
    ledger.require_whole()


def test_ones_own_published_memory_is_told_to_nobody(ledger: Ledger) -> None:
    assert ledger.adopt_scores(body(30), SELF, told=True)
    assert ledger.untold() is None
    assert ledger.unremembered(Window(60)) == [0]


def test_a_ledger_of_another_network_or_key_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    for network, hotkey in ((b"\1" * 32, SELF), (NETWORK, MINER)):
        with pytest.raises(ConfigurationError, match="another"):
            Ledger(tmp_path / "ledger.sqlite", network_id=network, hotkey=hotkey)


def test_the_block_of_the_last_weights_survives_a_restart(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record_weights(Block(77))
    assert Ledger(tmp_path / "ledger.sqlite", network_id=NETWORK, hotkey=SELF).weights_block() == 77


def test_a_ledger_that_an_earlier_version_kept_in_the_cache_is_brought_over_with_everything_in_it(tmp_path: Path) -> None:
    former, path = tmp_path / "cache" / "ledger.sqlite", tmp_path / "state" / "ledger.sqlite"
    old = Ledger(former, network_id=NETWORK, hotkey=SELF)
    record(old, 30)
    assert not Ledger.adopt(former, path, network_id=NETWORK, hotkey=MINER)  # somebody else's stays where it is
    assert Ledger.adopt(former, path, network_id=NETWORK, hotkey=SELF)
    assert not Ledger.adopt(former, path, network_id=NETWORK, hotkey=SELF)
    new = Ledger(path, network_id=NETWORK, hotkey=SELF)
    assert new.last_judged() == 30
    assert new.files(Window(30)) == FILES
    assert new.unfinished() == [30]
    assert not former.exists()


def test_a_ledger_is_read_beside_its_validator_and_nothing_in_it_can_be_changed(ledger: Ledger, tmp_path: Path) -> None:
    record(ledger, 30)
    reading = Ledger.reading(tmp_path / "ledger.sqlite")
    assert reading.files(Window(30)) == FILES
    with pytest.raises(sqlite3.OperationalError):
        reading.record_weights(Block(3))
    (tmp_path / "other").write_text("not a database")
    with pytest.raises(ConfigurationError, match="no ledger"):
        Ledger.reading(tmp_path / "other")


def test_a_ledger_of_another_schema_is_named_and_not_touched(ledger: Ledger, tmp_path: Path) -> None:
    record(ledger, 30)
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
    with pytest.raises(ConfigurationError, match="schema 2"):
        Ledger.reading(path)
    with pytest.raises(ConfigurationError, match="schema 2") as refused:
        Ledger(path, network_id=NETWORK, hotkey=SELF)
    assert "move it away" in refused.value.hint
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM windows").fetchone() == (1,)


def test_an_earlier_ledger_that_cannot_be_read_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    former = tmp_path / "cache" / "ledger.sqlite"
    former.parent.mkdir()
    former.write_bytes(b"SQLite format 3\0, and then a disk that failed")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Ledger.adopt(former, tmp_path / "state" / "ledger.sqlite", network_id=NETWORK, hotkey=SELF)
    assert not (tmp_path / "state").exists()
