"""A ledger is copied while it is written, brought back in one step, and taken over from the version before."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.errors import ConfigurationError, DamagedStateError
from grail_core.keys import ss58
from grail_core.participant.state import network_state, only_process
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_validator import ledger_schema
from grail_validator.cases import Sighting, WindowStage
from grail_validator.cli import cli
from grail_validator.ledger import Ledger, PublishedFiles
from tooling.testing.bodies import accepted_body

NETWORK = bytes(range(32))
SELF = Hotkey(b"\xaa" * 32)
MINERS = [Hotkey(bytes([number]) * 32) for number in range(1, 5)]

WRITER = """
import sys
from pathlib import Path
from grail_core.protocol.types import Hotkey, Window
from grail_validator.cases import Sighting
from grail_validator.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), network_id=bytes(range(32)), hotkey=Hotkey(b"\\xaa" * 32))
window = 9000
while True:
    ledger.record_sightings(Window(window), [Sighting(Hotkey(bytes([n]) * 32), b"seal" * 100, 5) for n in range(1, 60)])
    print(window, flush=True)
    window += 30
"""


def open_ledger(path: Path) -> Ledger:
    return Ledger(path, network_id=NETWORK, hotkey=SELF)


def judge(ledger: Ledger, *windows: int) -> None:
    for window in windows:
        ledger.record_sightings(Window(window), [Sighting(miner, b"seal", 1000) for miner in MINERS])
        body = accepted_body(window, MINERS, NETWORK)
        ledger.record_judged(Window(window), body, PublishedFiles(b"verdict", b"blob of evidence"), {}, {MINERS[0]: ("a", "a")})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state" / f"net-{NETWORK.hex()[:16]}" / ss58(SELF) / "validator" / "ledger.sqlite"


def ran(tmp_path: Path, *arguments: str, **more: str) -> tuple[int, str]:
    done = CliRunner(env={"GRAIL_STATE_DIR": str(tmp_path / "state"), **more}).invoke(cli, arguments)
    told = done.exception if done.exception is not None and not isinstance(done.exception, SystemExit) else ""
    return done.exit_code, done.output + str(told)


def test_a_copy_that_is_brought_back_is_the_ledger_as_it_was(place: Path, tmp_path: Path) -> None:
    judge(open_ledger(place), 30, 60)
    copy = tmp_path / "copies" / "monday.sqlite"
    assert "no such folder" in ran(tmp_path, "backup", str(copy))[1]
    copy.parent.mkdir()
    assert ran(tmp_path, "backup", str(copy)) == (0, f"{copy}: windows judged up to 60\n")
    judge(open_ledger(place), 90)
    code, said = ran(tmp_path, "restore", str(copy))
    assert code == 1
    assert "windows judged up to 90; the copy: windows judged up to 60" in said
    assert open_ledger(place).last_judged() == 90
    code, said = ran(tmp_path, "restore", str(copy), "--replace")
    assert (code, f"the former one is {place}.replaced-1" in said) == (0, True)
    restored = open_ledger(place)
    assert restored.last_judged() == 60
    restored.require_whole()
    judge(restored, 90)
    former = Ledger.reading(place.with_name("ledger.sqlite.replaced-1"))
    assert former.last_judged() == 90
    former.require_whole()
    place.unlink()
    assert ran(tmp_path, "restore", str(copy))[0] == 0
    assert open_ledger(place).last_judged() == 60


def test_a_copy_made_while_the_validator_writes_is_whole(place: Path, tmp_path: Path) -> None:
    judge(open_ledger(place), 30)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(place)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            for number in range(3):
                written = int(writer.stdout.readline())
                assert ran(tmp_path, "backup", str(tmp_path / f"{number}.sqlite"))[0] == 0
                copy = Ledger.reading(tmp_path / f"{number}.sqlite")
                assert copy.sightings(Window(written)) is not None
        finally:
            writer.kill()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_no_copy_is_put_over_a_file_or_under_a_running_validator(place: Path, tmp_path: Path) -> None:
    judge(open_ledger(place), 30)
    copy = tmp_path / "copy.sqlite"
    copy.write_text("mine")
    code, said = ran(tmp_path, "backup", str(copy))
    assert (code, "there is a file of this name" in said, copy.read_text()) == (1, True, "mine")
    copy.unlink()
    assert ran(tmp_path, "backup", str(copy))[0] == 0
    with only_process(place.parents[1] / "lock", "it runs", hint="stop it"):
        code, said = ran(tmp_path, "restore", str(copy), "--replace")
    assert (code, "the validator of this ledger runs" in said) == (1, True)


def flip(path: Path, text: bytes) -> None:
    data = path.read_bytes()
    assert text in data
    path.write_bytes(data.replace(text, bytes([text[0] ^ 1]) + text[1:]))


def test_a_damaged_ledger_makes_no_copy_and_a_damaged_copy_is_not_brought_back(place: Path, tmp_path: Path) -> None:
    judge(open_ledger(place), 30)
    copy, whole = tmp_path / "copy.sqlite", tmp_path / "whole.sqlite"
    for path in (copy, whole):
        assert ran(tmp_path, "backup", str(path))[0] == 0
    flip(copy, b"blob of evidence")
    code, said = ran(tmp_path, "restore", str(copy), "--replace")
    assert (code, "evidence of window 30: not what was written" in said) == (1, True)
    assert open_ledger(place).last_judged() == 30
    with closing(sqlite3.connect(place)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    flip(place, b"blob of evidence")
    code, said = ran(tmp_path, "backup", str(tmp_path / "new.sqlite"))
    assert (code, str(place) in said, (tmp_path / "new.sqlite").exists()) == (1, True, False)
    place.write_bytes(place.read_bytes()[:100] + bytes(8000))
    code, said = ran(tmp_path, "restore", str(whole), "--replace")
    assert code == 0, said
    assert open_ledger(place).last_judged() == 30
    assert place.with_name("ledger.sqlite.replaced-1").read_bytes()[100:] == bytes(8000)


def test_a_machine_that_never_ran_the_validator_gets_its_ledger_where_it_will_look(place: Path, tmp_path: Path) -> None:
    judge(open_ledger(place), 30)
    copy = tmp_path / "copy.sqlite"
    assert ran(tmp_path, "backup", str(copy))[0] == 0
    shutil.rmtree(tmp_path / "state")
    params = replace(LOCALNET, trainer_hotkey=MINERS[0])
    (tmp_path / "network.json").write_text(json.dumps(params.to_json()))
    code, said = ran(tmp_path, "restore", str(copy), GRAIL_NETWORK=str(tmp_path / "network.json"))
    assert code == 0, said
    expected = network_state(tmp_path / "state", params, Digest(NETWORK)) / ss58(SELF) / "validator" / "ledger.sqlite"
    assert open_ledger(expected).last_judged() == 30


def test_what_is_no_ledger_and_a_machine_without_one_are_named(place: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    assert "is no ledger" in ran(tmp_path, "restore", str(tmp_path / "text"))[1]
    assert "0 validators' ledgers" in ran(tmp_path, "backup", str(tmp_path / "copy"))[1]


# --- an earlier version's ---------------------------------------------------------------------------------------------


def of_schema_3(path: Path, *, sums: bool = True) -> Path:
    judge(open_ledger(path), 30, 60)
    with closing(sqlite3.connect(path)) as db, db:
        for name in ("measured",) if sums else ("measured", "sums"):
            db.execute(f"DROP TABLE {name}")
        db.execute("UPDATE meta SET value = '3' WHERE name = 'schema'")
    return path


def everything(ledger: Ledger, windows: Sequence[int] = (30, 60, 90)) -> list[object]:
    return [
        [(ledger.stage(Window(window)), ledger.sightings(Window(window)), ledger.files(Window(window))) for window in windows],
        ledger.memory(Window(120), MINERS),
        ledger.last_judged(),
    ]


@pytest.mark.parametrize("sums", [True, False])
def test_a_ledger_of_the_version_before_goes_on_and_is_kept_as_it_was(tmp_path: Path, sums: bool) -> None:
    path, expected = of_schema_3(tmp_path / "ledger.sqlite", sums=sums), everything(open_ledger(_current(tmp_path)))
    assert everything(Ledger.reading(path)) == expected  # looking into it changes nothing
    ledger = open_ledger(path)
    assert everything(ledger) == expected
    judge(ledger, 90)
    ledger.require_whole()
    kept = path.with_name("ledger.sqlite.schema-3")
    assert everything(Ledger.reading(kept)) == expected
    with closing(sqlite3.connect(kept)) as db:
        assert ledger_schema.schema_of(db) == "3"


def _current(tmp_path: Path) -> Path:
    judge(open_ledger(tmp_path / "current.sqlite"), 30, 60)
    return tmp_path / "current.sqlite"


def test_a_ledger_of_the_version_before_is_copied_and_brought_back_within_a_window(place: Path, tmp_path: Path) -> None:
    of_schema_3(place)
    with closing(sqlite3.connect(place)) as db, db:
        db.execute("INSERT INTO windows (window, step) VALUES (90, 'sighted')")
    copy = tmp_path / "copy.sqlite"
    code, said = ran(tmp_path, "backup", str(copy))
    assert code == 0, said
    place.unlink()
    code, said = ran(tmp_path, "restore", str(copy))
    assert code == 0, said
    assert open_ledger(place).stage(Window(90)) is WindowStage.SIGHTED


def test_a_migration_that_ends_in_the_middle_was_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_schema_3(tmp_path / "ledger.sqlite")
    with monkeypatch.context() as broken:
        broken.setattr(ledger_schema, "MIGRATIONS", {3: (*ledger_schema.MIGRATIONS[3], "INSERT INTO nowhere VALUES (1)")})
        with pytest.raises(DamagedStateError):
            open_ledger(path)
    with closing(sqlite3.connect(path)) as db:
        assert ledger_schema.schema_of(db) == "3"
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'measured'").fetchone() == (0,)
    assert open_ledger(path).last_judged() == 60


@pytest.mark.parametrize("left", [b"", b"\0" * 4096])
def test_a_file_without_tables_is_damaged_and_never_begun_anew(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(left)
    with pytest.raises(ConfigurationError) as refused:
        open_ledger(path)
    assert "restore" in refused.value.hint
    assert path.read_bytes()[:4096] in (left, path.read_bytes()[:4096])
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.Error):
        db.execute("SELECT * FROM meta")


def test_a_ledger_that_was_killed_while_it_was_made_is_made(tmp_path: Path) -> None:
    (tmp_path / ".ledger.sqlite.making").write_bytes(b"half a page")
    judge(open_ledger(tmp_path / "ledger.sqlite"), 30)
    assert not (tmp_path / ".ledger.sqlite.making").exists()
