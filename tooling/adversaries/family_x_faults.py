"""X10: what breaks on one's own machine: cache, state or ledger damaged, disk full, two processes of a key, memory used up.

A try does one thing to the files or the limits of a role's machine and looks at what comes of it. It is accepted where a fault
became somebody else's, or a record was lost, made up or doubled, or a person met a raw traceback or a wrong exit code. The
honest twin does the same work on a machine that nothing happens to.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.checkpoints.fetch import materialise
from grail_core.checkpoints.seen import SeenCheckpoints
from grail_core.errors import DiskFullError, GrailError, OutOfMemoryError, UnforeseenError
from grail_core.file_cache import FileCache
from grail_core.participant.state import AlreadyRunningError
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.state_file import read_state, write_state
from grail_core.storage.filesystem import FilesystemStore
from grail_validator.cases import Sighting
from grail_validator.ledger import Ledger, PublishedFiles
from tooling.adversaries.rows import Row, Try
from tooling.testing.bodies import accepted_body
from tooling.testing.checkpoints import TRAINER, WeightsTrainer, bucket_of, holds_weights

MINERS = [Hotkey(bytes([number]) * 32) for number in range(1, 5)]
WINDOWS = range(30, 240, 30)
FILE = bytes(range(256)) * 40
FILE_DIGEST = Digest(hashlib.sha256(FILE).digest())
STATE = {"decided": 300, "learned": 7, "names": ["a", "b"]}


def x10(seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """Every kind of damage to every kind of file, and the four faults of a process."""
    row = Row("X10", "fault")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.made(Path(folder))
        count = tries or (4 if quick else 25)
        for artefact in ARTEFACTS:
            row.honest_tries += 1
            row.honest_false_rejects += _outcome(bench, artefact, None, random.Random(seed)) is not None
            for number in range(count):
                for how in DAMAGE:
                    wrong = _outcome(bench, artefact, how, random.Random(f"{seed} {number} {artefact} {how}"))
                    row.tries.append(Try(f"{artefact}, {how}", wrong is not None, "healed or told", wrong or ""))
        for name, work, code in PROCESSES:
            wrong = _process(bench, work, code)
            row.tries.append(Try(name, wrong is not None, "exit code", wrong or ""))
        row.honest_tries += 1
        row.honest_false_rejects += _process(bench, "pass", 0) is not None
        for _ in range(1 if quick else 5):
            wrong = _killed(bench)
            row.tries.append(Try("a ledger's writer killed", wrong is not None, "ledger", wrong or ""))
    return row.to_json()


def _outcome(bench: Bench, artefact: str, how: str | None, chance: random.Random) -> str | None:
    """None: the machine gave what it gives undamaged, or one typed error of ours; else what it did instead."""
    place = Path(tempfile.mkdtemp(dir=bench.root))
    try:
        found = ARTEFACTS[artefact](bench, place, how, chance)
    except GrailError as error:
        told = bool(error.what and error.where and error.hint) and error.exit_code == 3
        return None if told and how is not None else f"{type(error).__name__} ({error.exit_code}): {error.what}"
    except Exception as error:  # noqa: BLE001 - a raw error is what is looked for
        return f"raw {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return None if found else "another answer than without the fault"


# --- what is damaged --------------------------------------------------------------------------------------------------


def _damage(path: Path, how: str | None, chance: random.Random) -> None:
    if how is None:
        return
    data = bytearray(path.read_bytes())
    if how == "bits turned":
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == "cut short":
        del data[chance.randrange(len(data)) :]
    elif how == "zeroes":
        start = chance.randrange(len(data))
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    path.unlink()
    if how == "a folder":
        path.mkdir()
    else:
        path.write_bytes(data)


DAMAGE = ("bits turned", "cut short", "zeroes", "a folder")


def _ledger(bench: Bench, place: Path, how: str | None, chance: random.Random) -> bool:
    path = Path(shutil.copy(bench.ledger, place / "ledger.sqlite"))
    _damage(path, how, chance)
    return _answers(open_ledger(path)) == bench.answers


def _checkpoint(bench: Bench, place: Path, how: str | None, chance: random.Random) -> bool:
    cache = place / "cache"
    shutil.copytree(bench.cache, cache)
    files = sorted(path for path in cache.rglob("*") if path.is_file() and path.stat().st_size)
    _damage(chance.choice(files), how, chance)
    return all(holds_weights(bench.load(cache, number), number) for number in (1, 0))


def _seen(bench: Bench, place: Path, how: str | None, chance: random.Random) -> bool:
    SeenCheckpoints(place / "seen.json").check(bench.trainer.view())
    _damage(place / "seen.json", how, chance)
    SeenCheckpoints(place / "seen.json").check(bench.trainer.view())
    return True


def _file(bench: Bench, place: Path, how: str | None, chance: random.Random) -> bool:
    cache = FileCache(place)
    cache.put("30/file", FILE, FILE_DIGEST)
    _damage(place / "files" / "30" / "file", how, chance)
    if cache.get("30/file", FILE_DIGEST) not in ((FILE,) if how is None else (FILE, None)):
        return False
    cache.put("30/file", FILE, FILE_DIGEST)
    return cache.get("30/file", FILE_DIGEST) == FILE


def _journal(bench: Bench, place: Path, how: str | None, chance: random.Random) -> bool:
    write_state(place / "journal.json", STATE)
    _damage(place / "journal.json", how, chance)
    try:
        found = read_state(place / "journal.json", what="the journal", recovery="move it away")
    except GrailError as error:
        if how == "a folder" and error.exit_code == 5:
            return True
        raise
    return {name: (found or {}).get(name) for name in STATE} == STATE


ARTEFACTS: dict[str, Callable[[Bench, Path, str | None, random.Random], bool]] = {
    "ledger": _ledger,
    "cached checkpoint": _checkpoint,
    "seen checkpoints": _seen,
    "cached file": _file,
    "journal": _journal,
}


# --- what happens to a process ----------------------------------------------------------------------------------------

_ROLE = """
import resource, sys
from pathlib import Path
import click
from grail_core.commands.options import run_cli
from grail_core.participant.state import StateFolder

@click.command()
def role():
    state = StateFolder(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]))
    with state.held():
        {work}

role.params = [click.Argument(["place"], nargs=-1, expose_value=False)]
run_cli(role)
"""

PROCESSES = (
    ("no memory is left", "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(8 << 30)", OutOfMemoryError),
    ("the disk is full", "open('/dev/full', 'wb', buffering=0).write(b'x')", DiskFullError),
    (
        "the same key again",
        "StateFolder(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])).held().__enter__()",
        AlreadyRunningError,
    ),
    ("nobody foresaw it", "{}['missing']", UnforeseenError),
)


def _process(bench: Bench, work: str, ends: type[GrailError] | int) -> str | None:
    code = ends if isinstance(ends, int) else ends.exit_code
    ran = _run(bench, work)
    if ran.returncode != code:
        return f"exit code {ran.returncode} in place of {code}: {ran.stderr[-300:]}"
    if "Traceback" in ran.stderr or ran.stderr.count("error: ") != (code != 0):
        return f"not one clear message: {ran.stderr[-300:]}"
    return None


def _run(bench: Bench, work: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _ROLE.format(work=work), str(bench.root / "state"), TRAINER.hotkey.hex()]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "TMPDIR": str(bench.root)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _killed(bench: Bench) -> str | None:
    """A validator that does nothing but record, killed: what it acknowledged is there, and at most one window more."""
    path = bench.root / "killed" / "ledger.sqlite"
    ledger = open_ledger(path)
    window = (ledger.last_judged() or 0) + 30
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            record(ledger, window)
            os.write(writing, b"%d\n" % window)
            window += 30
    os.close(writing)
    with os.fdopen(reading) as said:
        lines = [said.readline() for _ in range(3)]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines += said.readlines()
    acknowledged = int(lines[-1])
    last = open_ledger(path).last_judged() or 0
    return None if acknowledged <= last <= acknowledged + 30 else f"window {acknowledged} was acknowledged, {last} is there"


# --- the machine that nothing happens to ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A ledger, a trainer's bucket and a reader's cache as they are while nothing is wrong."""

    root: Path
    ledger: Path
    answers: list[object]
    trainer: WeightsTrainer
    cache: Path

    @classmethod
    def made(cls, root: Path) -> Bench:
        trainer = WeightsTrainer(FilesystemStore(root, "trainer"), root / "trainer-cache")
        for number in range(2):
            trainer.publish(number)
        ledger = open_ledger(root / "ledger.sqlite")
        for window in WINDOWS:
            record(ledger, window)
        bench = cls(root, root / "ledger.sqlite", _answers(ledger), trainer, root / "reader-cache")
        for number in range(2):
            bench.load(bench.cache, number)
        return bench

    def load(self, cache: Path, number: int) -> Path:
        store = FilesystemStore(self.root, "trainer", read_only=True)
        return materialise(self.trainer.view().stored[number].manifest, bucket_of(store, cache))


def open_ledger(path: Path) -> Ledger:
    return Ledger(path, network_id=bytes(32), hotkey=Hotkey(b"\xaa" * 32))


def record(ledger: Ledger, window: int) -> None:
    """First sight and judgement of one window."""
    ledger.record_sightings(Window(window), [Sighting(miner, f"seal-{window}".encode(), 1000 + window) for miner in MINERS])
    files = PublishedFiles(b"verdict" * 40, b"evidence" * 40)
    classes = dict.fromkeys(MINERS, ("bf16-sdpa-cpu-transformers", "bf16-sdpa-cpu-transformers"))
    ledger.record_judged(Window(window), accepted_body(window, MINERS), files, {}, classes)


def _answers(ledger: Ledger) -> list[object]:
    windows = [Window(window) for window in WINDOWS]
    memory = ledger.memory(Window(WINDOWS.stop), MINERS)
    seen = [(ledger.stage(window), ledger.sightings(window), ledger.files(window)) for window in windows]
    return [seen, memory.history, memory.classes, ledger.last_judged(), ledger.unfinished()]


ATTACKS = {"X10": x10}
