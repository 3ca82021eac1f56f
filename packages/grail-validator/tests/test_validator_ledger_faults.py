"""What the disk below a ledger does wrong is said in one clear error, or heals; nothing acknowledged is lost or made up."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from grail_core.database import Database
from grail_core.errors import ConfigurationError, DamagedStateError, DiskFullError, GrailError, StorageError
from grail_core.protocol.constants import SCORE_MEMORY_WINDOWS
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_validator.cases import Sighting
from grail_validator.ledger import Ledger, PublishedFiles
from tooling.testing.bodies import accepted_body

HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # this file is a program too
NETWORK = bytes(32)
SELF = Hotkey(b"\xaa" * 32)
MINERS = [Hotkey(bytes([number]) * 32) for number in range(1, 9)]


def open_ledger(path: Path) -> Ledger:
    return Ledger(path, network_id=NETWORK, hotkey=SELF)


def judge(ledger: Ledger, window: int, blob: bytes = b"evidence" * 50) -> None:
    ledger.record_sightings(Window(window), [Sighting(miner, f"seal-{window}".encode(), 1000 + window) for miner in MINERS])
    body = accepted_body(window, MINERS, NETWORK)
    counted = {hotkey: [Digest(random.Random(f"{window}{uid}").randbytes(32))] for uid, hotkey in enumerate(MINERS)}
    classes = dict.fromkeys(MINERS, ("bf16-sdpa-cpu-transformers", "bf16-sdpa-cpu-transformers"))
    ledger.record_judged(Window(window), body, PublishedFiles(b"verdict" * 50, blob), counted, classes)


def everything(ledger: Ledger) -> list[object]:
    """All that a validator asks of its ledger."""
    windows = [Window(window) for window in range(30, 360, 30)]
    return [
        [(ledger.stage(window), ledger.sightings(window), ledger.files(window)) for window in windows],
        ledger.memory(Window(360), MINERS).history,
        ledger.memory(Window(360), MINERS).classes,
        ledger.unfinished(),
        ledger.last_judged(),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten judged windows, all in the file itself."""
    path = tmp_path_factory.mktemp("made") / "ledger.sqlite"
    ledger = open_ledger(path)
    for window in range(30, 330, 30):
        judge(ledger, window)
    return path


def copy(made: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(made, folder / "ledger.sqlite"))


def damaged(data: bytes, random_: random.Random, *, most: int) -> bytes:
    changed = bytearray(data)
    for _ in range(random_.randint(1, most)):
        at = random_.randrange(len(changed))
        changed[at] ^= 1 << random_.randrange(8)
    return bytes(changed)


def told_or_had(path: Path) -> GrailError | list[object]:
    try:
        return everything(open_ledger(path))
    except GrailError as error:
        return error


def test_a_page_with_flipped_bits_is_told_or_changes_no_answer(made: Path, tmp_path: Path) -> None:
    expected, told = everything(open_ledger(made)), 0
    for seed in range(60):
        path = copy(made, tmp_path / str(seed))
        path.write_bytes(damaged(made.read_bytes(), random.Random(seed), most=1 if seed % 2 else 40))
        answer = told_or_had(path)
        if isinstance(answer, GrailError):
            assert isinstance(answer, ConfigurationError)
            assert (answer.exit_code, answer.where) == (3, str(path))
            assert answer.hint
            told += 1
        else:
            assert answer == expected
    assert told > 20


@pytest.mark.parametrize("how", ["empty pages", "cut short", "another file", "half a header"])
def test_a_file_that_is_no_whole_ledger_says_how_to_go_on(made: Path, tmp_path: Path, how: str) -> None:
    path, data = copy(made, tmp_path), made.read_bytes()
    wrong = {
        "empty pages": data[:4096] + bytes(len(data) - 4096),
        "cut short": data[: len(data) // 2],
        "another file": b"PAR1" + bytes(9000),
        "half a header": data[:50],
    }
    path.write_bytes(wrong[how])
    with pytest.raises(DamagedStateError) as caught:
        everything(open_ledger(path))
    assert caught.value.where == str(path)
    assert "move" in caught.value.hint


def test_damage_met_in_the_middle_of_a_run_is_the_same_error(made: Path, tmp_path: Path) -> None:
    path = copy(made, tmp_path)
    ledger = open_ledger(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(DamagedStateError, match="the ledger is damaged"):
        everything(ledger)


def test_a_text_that_is_no_text_any_more_is_damage(made: Path, tmp_path: Path) -> None:
    path = copy(made, tmp_path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE sightings SET reason = CAST(x'ff' AS TEXT) WHERE window = 30")
        db.execute("DELETE FROM sums")
    with pytest.raises(DamagedStateError, match="UTF-8"):
        open_ledger(path).sightings(Window(30))


def test_a_log_with_flipped_bits_gives_a_prefix_of_what_was_written(tmp_path: Path) -> None:
    """SQLite sums every frame: what comes after a damaged one is not there, what comes before is."""
    origin = tmp_path / "origin" / "ledger.sqlite"
    ledger = open_ledger(origin)
    with closing(sqlite3.connect(origin)) as held:
        held.execute("SELECT 1 FROM meta").fetchall()  # while one reads, the log is not put into the file
        for window in range(30, 330, 30):
            judge(ledger, window)
        data, log = origin.read_bytes(), origin.with_name("ledger.sqlite-wal").read_bytes()
    assert len(log) > 50_000
    for seed in range(12):
        path = tmp_path / str(seed) / "ledger.sqlite"
        path.parent.mkdir()
        path.write_bytes(data)
        path.with_name("ledger.sqlite-wal").write_bytes(damaged(log, random.Random(seed), most=1))
        again = open_ledger(path)
        last = again.last_judged() or Window(0)
        assert [window for window in range(30, 330, 30) if again.files(Window(window))] == list(range(30, last + 1, 30))
        judge(again, last + 30)


@pytest.mark.parametrize("kills", [1, pytest.param(40, marks=pytest.mark.heavy)])
def test_killed_while_it_writes_a_ledger_holds_what_it_acknowledged(tmp_path: Path, kills: int) -> None:
    path, acknowledged = tmp_path / "ledger.sqlite", 0
    for kill in range(kills):
        writer = subprocess.Popen([sys.executable, __file__, "write", str(path)], stdout=subprocess.PIPE, text=True, env=HERE)
        assert writer.stdout is not None
        for _ in range(2 + kill % 3):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].splitlines()
        acknowledged = int(rest[-1]) if rest and rest[-1] else acknowledged
        ledger = open_ledger(path)
        last = ledger.last_judged()
        assert last is not None
        assert acknowledged <= last <= acknowledged + 30  # the one in the air may be there, whole
        history = ledger.history(Window(last + 30))
        assert [entry.window for entry in history[MINERS[0]]] == list(range(30, last + 1, 30))[-SCORE_MEMORY_WINDOWS:]


def test_a_really_full_device_is_named_and_the_ledger_goes_on_when_there_is_space(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=600k none {tmp_path} && exec {sys.executable} {__file__} fill {tmp_path}"
    ran = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False, env=HERE)
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        pytest.skip("no user namespaces with mounts here, so no small device can be made")
    assert ran.stdout.splitlines()[-1] == "DiskFullError 10 whole again", ran.stderr


def test_a_folder_that_may_not_be_written_in_and_a_ledger_kept_locked_are_named(made: Path, tmp_path: Path) -> None:
    database = Database(copy(made, tmp_path), "the ledger", "move it away")

    def met(statement: Callable[[sqlite3.Connection], object]) -> GrailError | None:
        with closing(sqlite3.connect(f"{database.path.as_uri()}?mode=ro", uri=True, timeout=0)) as db:
            try:
                statement(db)
            except sqlite3.Error as error:
                return database.error(error)
        return None

    read_only = met(lambda db: db.execute("INSERT INTO meta VALUES ('a', 'b')"))
    assert type(read_only) is ConfigurationError
    assert read_only.hint
    with closing(sqlite3.connect(database.path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode=EXCLUSIVE")
        holder.execute("PRAGMA journal_mode=DELETE")
        holder.execute("BEGIN EXCLUSIVE")
        locked = met(lambda db: db.execute("SELECT * FROM meta").fetchall())
    assert type(locked) is StorageError
    assert "locked" in locked.what
    with closing(sqlite3.connect(database.path)) as db, pytest.raises(sqlite3.OperationalError) as caught:
        db.execute("SELECT nothing FORM meta")
    assert database.error(caught.value) is None  # our own mistake stays one


def test_an_earlier_version_s_ledger_has_no_sums_and_is_read(made: Path, tmp_path: Path) -> None:
    path, expected = copy(made, tmp_path), everything(open_ledger(made))
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE sums")
    assert everything(Ledger.reading(path)) == expected
    assert everything(open_ledger(path)) == expected


def test_a_folder_in_the_ledger_s_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(ConfigurationError) as caught:
        open_ledger(tmp_path / "ledger.sqlite")
    assert caught.value.where == str(tmp_path / "ledger.sqlite")


def write(path: Path) -> None:
    ledger = open_ledger(path)
    window = (ledger.last_judged() or 0) + 30
    while True:
        judge(ledger, window)
        print(window, flush=True)
        window += 30


def fill(folder: Path) -> None:
    ledger, window, error = open_ledger(folder / "ledger.sqlite"), 30, None
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(64 << 10))
    while error is None:
        try:
            judge(ledger, window, random.Random(window).randbytes(20_000))
            window += 30
        except DiskFullError as full:
            error = full
    ballast.unlink()
    again = open_ledger(folder / "ledger.sqlite")
    assert again.last_judged() == window - 30
    judge(again, window, b"small")
    print(type(error).__name__, error.exit_code, "whole again")


if __name__ == "__main__":
    {"write": write, "fill": fill}[sys.argv[1]](Path(sys.argv[2]))
