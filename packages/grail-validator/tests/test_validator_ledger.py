"""The ledger moves a window through its steps once, whoever is killed when."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_core.protocol import MinerStatus, MinerVerdict, VerdictBody, Versions, WindowStatus
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_validator.cases import Sighting, WindowStage
from grail_validator.ledger import Ledger, PublishedFiles

NETWORK = bytes(32)
SELF = Hotkey(b"\xaa" * 32)
MINER = Hotkey(b"\xbb" * 32)
FILES = PublishedFiles(b"verdict", b"evidence", b"rollouts")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", network_id=NETWORK, hotkey=SELF)


def body(window: int, status: MinerStatus = MinerStatus.ACCEPTED, unique: int = 30) -> VerdictBody:
    miner = MinerVerdict(hotkey=MINER, uid=4, status=status, active=True, declared=32, checked=True, unique_valid=unique)
    return VerdictBody(
        network_id=Digest(NETWORK),
        window=Window(window),
        status=WindowStatus.SCORED,
        versions=Versions("a", "b", "c"),
        miners=(miner,),
    )


def record(
    ledger: Ledger, window: int, *, counted: list[bytes] | None = None, name: str = "bf16-sdpa-cpu-transformers"
) -> None:
    identities = [Digest(identity) for identity in counted or []]
    ledger.record_judged(Window(window), body(window), FILES, {MINER: identities}, {MINER: name})


def test_first_sight_is_recorded_once(ledger: Ledger) -> None:
    assert ledger.sightings(Window(30)) is None
    ledger.record_sightings(Window(30), [Sighting(MINER, "etag", 10, 1000)])
    ledger.record_sightings(Window(30), [Sighting(MINER, "another", 11, 2000)])
    assert ledger.sightings(Window(30)) == [Sighting(MINER, "etag", 10, 1000)]


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


def test_the_numerics_class_binds_for_36_windows(ledger: Ledger) -> None:
    record(ledger, 30, name="one")
    assert ledger.known_class(MINER, Window(60)) == "one"
    assert ledger.known_class(MINER, Window(30 + 36 * 30)) is None
    record(ledger, 30 + 36 * 30, name="two")
    assert ledger.known_class(MINER, Window(60 + 36 * 30)) == "two"


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


def test_an_earlier_ledger_that_cannot_be_read_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    former = tmp_path / "cache" / "ledger.sqlite"
    former.parent.mkdir()
    former.write_bytes(b"SQLite format 3\0, and then a disk that failed")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Ledger.adopt(former, tmp_path / "state" / "ledger.sqlite", network_id=NETWORK, hotkey=SELF)
    assert not (tmp_path / "state").exists()
