"""A validator that is killed while it judges measures at most one file again, and ends where an undisturbed one ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from grail_core import database
from grail_core.errors import DamagedStateError
from grail_core.files.evidence import write_evidence
from grail_core.protocol import MinerStatus
from grail_core.protocol.context import challenge_seed
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.challenged import held_against_float32
from grail_validator.cases import Case, Measured, Memory, Sighting, WindowResult, WindowStage
from grail_validator.judging import basis_of, judge_window
from grail_validator.ledger import Ledger, PublishedFiles
from tooling.testing import plain_window as plain
from tooling.testing.killing import killed_at
from tooling.testing.plain_case import CONTEXT, NEURONS, STANDING, case, honest, stored

WINDOW = plain.WINDOW
HOTKEYS = [neuron.hotkey for neuron in NEURONS]


@pytest.fixture(scope="module")
def window() -> Case:
    """Three drawn miners: two honest, one whose sketches are another model's."""
    three = case(stored(0, honest(0)), stored(1, honest(1)), stored(2, honest(2)))
    assert [one.coin.selected for one in three.docket.sealed] == [True] * 3
    return three


def open_ledger(path: Path) -> Ledger:
    return Ledger(path, network_id=CONTEXT.network_id, hotkey=Hotkey(b"\xaa" * 32))


def with_truth(case: Case, *, asked: Callable[[Digest], None] = lambda seed: None, **means: Any) -> Case:
    """`asked` is told of each measurement, by the file's challenge seed."""

    def sampling(seed: Digest, probability: Fraction) -> plain.TruthfulSampling:
        asked(seed)
        return plain.TruthfulSampling(seed)

    return replace(case, means=replace(case.means, sampling=sampling, **means))


def kept_of(case: Case) -> tuple[WindowResult, list[Measured]]:
    kept: list[Measured] = []
    return judge_window(with_truth(case, keep=kept.append)), kept


def outcome(result: WindowResult) -> tuple[object, ...]:
    """All that a window leaves behind, the evidence as it is published."""
    return result.body.canonical(), write_evidence(result.evidence), result.counted, result.classes


def test_what_was_measured_is_not_measured_again_and_the_result_is_the_same(window: Case) -> None:
    whole, kept = kept_of(window)
    assert len(kept) == 3
    for done in range(4):
        asked: list[Digest] = []
        before = {one.verdict.hotkey: one for one in kept[:done]}
        again = judge_window(with_truth(replace(window, measured=before), asked=asked.append))
        assert outcome(again) == outcome(whole)
        assert len(asked) == 3 - done


def test_what_followed_from_something_else_is_measured_again(window: Case) -> None:
    _, kept = kept_of(window)
    before = {one.verdict.hotkey: one for one in kept}
    identity = kept[0].identities[0]
    standing = replace(STANDING, memory=Memory({}, {HOTKEYS[0]: frozenset({identity})}, {}))
    asked: list[Digest] = []
    again = judge_window(with_truth(replace(window, standing=standing, measured=before), asked=asked.append))
    assert len(asked) == 1  # the one whose rollout counted before, and none of the others
    found = again.body.miner(HOTKEYS[0])
    assert found is not None
    assert found.unique_valid == kept[0].verdict.unique_valid - 1
    challenge = replace(window.challenge, block_hash=b"\x77" * 32)
    judge_window(with_truth(replace(window, challenge=challenge, measured=before), asked=asked.append))
    assert len(asked) == 4


def test_a_measurement_holds_for_another_chance_of_being_drawn_where_the_coin_for_float32_falls_alike(window: Case) -> None:
    params = replace(window.context.params, float32_permille=250)
    fell = []
    for block in range(64):  # files are signed with randomness: no coin is known beforehand, 192 fall alike in no run
        challenge = replace(window.challenge, block_hash=bytes([block]) * 32)
        asked = replace(window, context=replace(window.context, params=params), challenge=challenge)
        for one in window.docket.sealed:
            assert one.coin.probability == 1
            seldom = replace(one, coin=replace(one.coin, probability=Fraction(1, 4)))  # held against float32 whenever drawn
            seed = challenge_seed(asked.context, challenge, one.seal.content_digest)
            fell.append(held_against_float32(seed, params, one.coin.probability))
            assert (basis_of(one, asked) == basis_of(seldom, asked)) is fell[-1]
    assert set(fell) == {False, True}


def test_a_fault_of_ours_is_not_kept_so_that_a_restart_may_do_better(window: Case) -> None:
    def broken(seed: Digest, probability: Fraction) -> plain.TruthfulSampling:
        raise ZeroDivisionError

    kept: list[Measured] = []
    result = judge_window(replace(window, means=replace(window.means, sampling=broken, keep=kept.append)))
    assert {miner.status for miner in result.body.miners} == {MinerStatus.INCONCLUSIVE}
    assert kept == []


def test_a_measurement_in_the_ledger_is_the_one_that_was_made_until_the_window_is_judged(window: Case, tmp_path: Path) -> None:
    result, kept = kept_of(window)
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    for one in (*kept, *kept):  # twice is once
        ledger.record_measured(WINDOW, one)
    found = open_ledger(tmp_path / "ledger.sqlite").measured(WINDOW)
    assert [replace(found[one.verdict.hotkey], evidence=None) for one in kept] == [replace(one, evidence=None) for one in kept]
    for one in kept:
        evidence = found[one.verdict.hotkey].evidence
        assert one.evidence is not None
        assert evidence is not None
        assert write_evidence([evidence]) == write_evidence([one.evidence])
    files = PublishedFiles(b"verdict", b"evidence")
    ledger.record_judged(WINDOW, result.body, files, result.counted, result.classes)
    assert ledger.measured(WINDOW) == {}


@pytest.mark.parametrize("column", ["basis", "verdict", "identities", "evidence"])
def test_a_flipped_bit_of_a_measurement_is_told(window: Case, tmp_path: Path, column: str) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = open_ledger(path)
    ledger.record_sightings(WINDOW, [])
    ledger.record_measured(WINDOW, kept_of(window)[1][0])
    with closing(sqlite3.connect(path)) as db, db:
        (value,) = db.execute(f"SELECT {column} FROM measured").fetchone()
        db.execute(f"UPDATE measured SET {column} = ?", (bytes([value[0] ^ 1]) + value[1:],))
    for look in (lambda: ledger.measured(WINDOW), ledger.require_whole):
        with pytest.raises(DamagedStateError, match="not what was written"):
            look()


# --- killed after every statement -------------------------------------------------------------------------------------


def go_through(window: Case, path: Path, measured: Path) -> None:
    """One window from first sight to publication, from wherever a process before has left it."""
    ledger = open_ledger(path)
    if ledger.stage(WINDOW) is WindowStage.UNSEEN:
        for one in window.docket.sealed[:2]:
            ledger.record_sighting(WINDOW, one.entry.sighting)
        ledger.record_sightings(WINDOW, [one.entry.sighting for one in window.docket.sealed])
    if ledger.stage(WINDOW) is WindowStage.SIGHTED:
        begun = ledger.begin_work(WINDOW)
        assert not begun.hopeless
        assert not begun.given_up
        judging = with_truth(
            replace(window, given_up=begun.given_up, measured=ledger.measured(WINDOW)),
            asked=lambda seed: append(measured, seed),
            working=lambda hotkey: ledger.note_work(WINDOW, hotkey),
            keep=lambda one: ledger.record_measured(WINDOW, one),
        )
        result = judge_window(judging)
        ledger.end_work(WINDOW)
        files = PublishedFiles(result.body.canonical(), write_evidence(result.evidence))
        ledger.record_judged(WINDOW, result.body, files, result.counted, result.classes)
    if ledger.stage(WINDOW) is WindowStage.JUDGED:
        ledger.record_published(WINDOW)


def append(path: Path, seed: Digest) -> None:
    with path.open("ab") as file:
        file.write(seed)


def state_of(path: Path) -> Mapping[str, object]:
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {name: sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in tables}


STATEMENTS = [(database._Cursor, "execute"), (database._Cursor, "executemany"), (database._Connection, "__exit__")]


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.heavy)])
def test_killed_before_any_statement_a_window_ends_as_if_nothing_had_happened(
    window: Case, tmp_path: Path, stride: int
) -> None:
    go_through(window, tmp_path / "whole.sqlite", tmp_path / "whole")
    expected = state_of(tmp_path / "whole.sqlite")
    assert expected["windows"]
    assert not expected["measured"]
    kills, seen = 0, set()
    while True:
        path, measured = tmp_path / f"{kills}.sqlite", tmp_path / f"{kills}.measured"
        killed = killed_at(kills, STATEMENTS, partial(go_through, window, path, measured))
        if path.exists():
            seen.add(open_ledger(path).stage(WINDOW))
        go_through(window, path, measured)
        assert state_of(path) == expected
        assert 3 * 32 <= measured.stat().st_size <= 4 * 32
        if not killed:
            break
        kills += stride
    assert kills > 60
    assert seen == set(WindowStage)


def test_sightings_are_those_of_the_first_look(window: Case, tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    ledger.record_sighting(WINDOW, window.docket.sealed[0].entry.sighting)
    ledger.record_sightings(WINDOW, [Sighting(HOTKEYS[0], b"other", 9)])
    assert ledger.sightings(WINDOW) == [window.docket.sealed[0].entry.sighting]
