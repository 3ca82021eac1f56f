"""A role of gradient work whose process is killed at a chosen kill point, and started again until its round is over.

`mortal_gradient` starts one process that makes a network in which a round is played by two miners, and then forks a role's
process as often as it is asked to: the shipped service over a copy of that network, from the round's first block to its end.
Everything that it could learn or write is real; only the clock goes where it is waited for.

    miner        a third one, which nobody has seen yet: seal, update, opening, feedback
    aggregator   the trainer's: the next checkpoint with its objects
    validator    of a network in which that checkpoint is published: both sights, verdict
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from grail_core.gradient.update_file import read_front
from grail_core.keys import LocalSigner
from grail_core.participant.round_models import RoundModels
from grail_core.protocol.gradient.records import UpdateHeader
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.storage.layout import seal_key, update_key
from grail_trainer.gradient_presets import TINY
from tooling.testing.driven_chain import Driven
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_round import GradientRound
from tooling.testing.kill_points import KillPoints
from tooling.testing.mortal_process import MortalProcess, forking
from tooling.testing.network import FIRST_WINDOW

ROLES: Final = {"miner": "miner-2", "aggregator": "trainer", "validator": "validator-0"}
"""Whose process it is."""
_POINTS: Final = "points.json"
_CHAIN: Final = "chain.sqlite"


# --- the process that forks -------------------------------------------------------------------------------------------


def _networks(root: Path) -> GradientNetwork:
    """For each role the network of its first moment: files lie in buckets with their times, the chain stands before them."""
    network = GradientNetwork(root / "played", TINY, miners=3, validators=1)
    one = GradientRound.trained(network, FIRST_WINDOW, ("miner-0", "miner-1"))
    before = root / "before.sqlite"
    with closing(sqlite3.connect(network.root / _CHAIN)) as now, closing(sqlite3.connect(before)) as then:
        now.backup(then)
    one.seal()
    one.reveal()
    one.open()
    one.settle()
    for role in ROLES:
        if role == "validator":
            one.merge()
        shutil.copytree(network.root, root / role)
        for name in (_CHAIN, f"{_CHAIN}-wal", f"{_CHAIN}-shm"):
            (root / role / name).unlink(missing_ok=True)
        shutil.copy(before, root / role / _CHAIN)
        shutil.rmtree(root / role / "cache" / ROLES[role], ignore_errors=True)
    return network


def _live(network: GradientNetwork, role: str) -> None:
    """One life: from wherever a former one has left it to the end of the round."""
    name, stop = ROLES[role], threading.Event()
    chain = Driven(network.chain, FIRST_WINDOW + 60)
    network.models = RoundModels(network.participant(name).checkpoints)
    window = network.participant(name).open_window(FIRST_WINDOW)
    if role == "miner":
        network.miner(name, chain=chain).mine(window, stop)
    elif role == "aggregator":
        aggregator = network.aggregator(chain=chain)
        aggregator.complete()
        manifest = aggregator.round(window, stop)
        if manifest is None:
            raise AssertionError("nothing was merged")
        network.participant(name).checkpoints.materialise(manifest)  # as the next round does: where a kill cost the copy
    else:
        validator = network.validator(name, chain=chain)
        if not validator.sights.run(network.round(FIRST_WINDOW), stop):
            raise AssertionError("the sights were not run")
        validator.advance(window, stop)


def _fork(network: GradientNetwork, root: Path, role: str, kill_at: int | None) -> int:
    child = os.fork()
    if child == 0:
        try:
            # A fork breaks PyTorch's pool, which is made anew at its next use: two threads of a model that is being loaded
            # fall over each other there ("Invalid thread pool!"), so it is made before there are any.
            torch.set_num_threads(1)
            points = KillPoints(kill_at)
            mine = network.over(root)
            points.install()
            _live(mine, role)
            (root / _POINTS).write_text(json.dumps(points.names))
        except BaseException:  # noqa: BLE001 - whatever it is, this is the end of the child and it must be seen
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main() -> None:
    """Line by line: a folder with a copy of a network, whose life it is and where to kill; the answer is the status it had."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    network = _networks(Path(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(_fork(network, Path(asked["root"]), asked["role"], asked["kill_at"]), flush=True)


# --- who asks for it --------------------------------------------------------------------------------------------------


class MortalGradient(MortalProcess):
    """Lives of the roles."""

    def begin(self, role: str) -> Path:
        """A copy of the network in which this role has not lived."""
        self._copies += 1
        copied = self._root / f"copy-{self._copies}"
        shutil.copytree(self._root / "network" / role, copied)
        return copied

    def live(self, root: Path, role: str, kill_at: int | None = None) -> bool:
        """One process; True if it was killed, False if it came to its end. What raises in it is an AssertionError."""
        return self._killed(root=str(root), role=role, kill_at=kill_at)

    @staticmethod
    def points(root: Path) -> list[str]:
        """The kill points that the last life in this folder went through."""
        names: list[str] = json.loads((root / _POINTS).read_text())
        return names

    @staticmethod
    def sealed(root: Path) -> bytes | None:
        """The seal that the miner has stored."""
        path = root / "buckets" / f"bucket-{ROLES['miner']}" / seal_key(_address("miner"), FIRST_WINDOW)
        return path.read_bytes() if path.is_file() else None

    @staticmethod
    def left(root: Path, role: str) -> Mapping[str, object]:
        """What it has left behind once the round is over, without signatures, which are random, and what follows from them."""
        bucket = root / "buckets" / f"bucket-{ROLES[role]}"
        objects = {str(path.relative_to(bucket)): path.read_bytes() for path in bucket.rglob("*") if path.is_file()}
        if role == "miner":
            return _of_miner(root, objects)
        ledger = {} if role == "aggregator" else {"ledger": _rows(root)}
        return {"objects": {name: _unsigned(raw) for name, raw in objects.items()}, "files": _files(root, role), **ledger}


def _of_miner(root: Path, objects: dict[str, bytes]) -> Mapping[str, object]:
    """A file that was signed again is another file with another challenge: what it says is the same, and it fits its seal."""
    own = _address("miner")
    update, seal = objects[update_key(own, FIRST_WINDOW)], GradientSeal.decode(objects[seal_key(own, FIRST_WINDOW)])
    if hashlib.sha256(update).digest() != seal.content_digest:
        raise AssertionError("another file was revealed than the one that was sealed")
    (journal,) = (root / "state" / ROLES["miner"]).rglob("gradient/journal.json")
    state = {path.name: path.read_bytes() for path in journal.parent.iterdir()}
    return {"header": UpdateHeader.from_canonical(read_front(update)[0]), "names": sorted(objects), "state": state}


def _rows(root: Path) -> Mapping[str, list[tuple[object, ...]]]:
    (path,) = (root / "state" / ROLES["validator"]).rglob("ledger.sqlite")
    with closing(sqlite3.connect(path)) as db:
        db.create_function("said", 1, lambda raw: None if raw is None else SignedGradientVerdict.decode(raw).body.canonical())
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        queries = {name: f"SELECT * FROM {name}" for name in tables}
        queries["rounds"] = "SELECT round, step, said(verdict), evidence FROM rounds"
        queries["sums"] += " WHERE part <> 'round:verdict'"
        return {name: sorted(db.execute(query).fetchall(), key=repr) for name, query in queries.items()}


def _files(root: Path, role: str) -> list[str]:
    """Without what the cache is in the middle of writing, which it removes by itself."""
    folders = (root / "state" / ROLES[role], root / "cache" / ROLES[role])
    names = sorted(str(path.relative_to(root)) for folder in folders for path in folder.rglob("*"))
    return [name for name in names if "/checkpoints/." not in name]


def _unsigned(raw: bytes) -> object:
    try:
        value: Any = json.loads(raw)
    except ValueError:
        return raw
    return {name: said for name, said in value.items() if name != "signature"} if isinstance(value, dict) else raw


def _address(role: str) -> str:
    return LocalSigner.from_seed(hashlib.sha256(ROLES[role].encode()).digest()).ss58


@contextmanager
def mortal_gradient(root: Path) -> Iterator[MortalGradient]:
    with forking("tooling.testing.mortal_gradient", root, MortalGradient) as handle:
        yield handle


if __name__ == "__main__":
    main()
