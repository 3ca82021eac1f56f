"""A validator whose process is killed at a chosen kill point, and started again until its windows are done.

`MortalValidator` starts one process that makes a small network with two mined windows, and then forks a validator's process
as often as it is asked to: the shipped service over a copy of that network, from an empty ledger to the weights of its last
window. Everything that it could learn or write is real (chain file, buckets, tiny model, sandbox, confined children); only the
clock goes where it is waited for.

    windows[0]   two honest files; a third is sealed, and gone when it is drawn: failed
    windows[1]   an honest file; a larger one; the third hotkey has no seal: absent
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grail_core.chain.development.local import LocalChain
from grail_core.keys import LocalSigner, ss58
from grail_core.protocol import Adopted, SignedVerdict
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import verdict_key, window_key
from grail_core.verification.measure import ChallengedSample
from grail_validator.cases import WindowStage
from grail_validator.compared_models import ComparedModels
from grail_validator.sealed_files import TRIES_AT_BLOCKS
from tooling.testing.driven_chain import Driven
from tooling.testing.kill_points import KillPoints
from tooling.testing.mining import upload
from tooling.testing.mortal_process import MortalProcess, forking
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork

NAME = "validator-0"
WINDOWS = (FIRST_WINDOW, Window(FIRST_WINDOW + 30))
_MEASURED, _POINTS = "measured", "points.json"
_PR_SET_CHILD_SUBREAPER = 36

Advance = Callable[[Window, threading.Event], Any]


# --- the process that forks -------------------------------------------------------------------------------------------


def _network(root: Path) -> SmallNetwork:
    """Both windows are mined, and the chain stands where neither deadline has come."""
    network = SmallNetwork(root, miners=3, validators=1)
    network.advance_to(WINDOWS[0] + 1)
    before = root / "before.sqlite"
    with closing(sqlite3.connect(root / "chain.sqlite")) as now, closing(sqlite3.connect(before)) as then:
        now.backup(then)
    for window, sizes in zip(WINDOWS, ((1, 1, 1), (1, 2)), strict=True):
        network.advance_to(window + 1)
        for number, groups in enumerate(sizes):
            mining = network.mining(f"miner-{number}")
            data = network.mine(mining, window, range(groups))
            upload(network, mining, f"miner-{number}", data, window)
    gone = network.participant("miner-2")
    gone.own_store.delete(window_key(ss58(gone.signer.hotkey), WINDOWS[0]))
    for name in ("chain.sqlite", "chain.sqlite-wal", "chain.sqlite-shm"):
        (root / name).unlink(missing_ok=True)
    before.replace(root / "chain.sqlite")
    return network


def _in(network: SmallNetwork, root: Path) -> SmallNetwork:
    """The same network in a copy of its folder."""
    other = copy.copy(network)
    other.root, other.chain = root, LocalChain.open(root / "chain.sqlite")
    return other


def _live(network: SmallNetwork) -> None:
    """One life of the validator: from wherever a former one has left it to the weights of the last window."""
    for window in WINDOWS:
        limit = network.participant(NAME).times(window).challenge_block + TRIES_AT_BLOCKS[-1]
        service = network.validator(NAME, chain=Driven(network.chain, limit))
        service.compared = ComparedModels(earlier=0, rounded=False)  # half of a life's time, and no kill point
        if service.ledger.stage(window) is not WindowStage.PUBLISHED:
            stop = threading.Event()
            service.advance = partial(_until, window, stop, service.advance)  # type: ignore[method-assign]
            service.run(stop)
        stopped = threading.Event()
        stopped.set()
        network.validator(NAME, chain=Driven(network.chain, limit)).run(stopped)  # the weights of before a kill


def _until(last: Window, stop: threading.Event, advance: Advance, window: Window, stopped: threading.Event) -> Any:
    """A service ends by itself after so many scored windows; here it does after this one, whatever its verdict is."""
    status = advance(window, stopped)
    if window == last:
        stop.set()
    return status


def _fork(network: SmallNetwork, root: Path, kill_at: int | None) -> int:
    """A validator's process. Returns the status it ended with, once nothing that it started is left either."""
    child = os.fork()
    if child == 0:
        try:
            _count_measured(root / _MEASURED)
            points = KillPoints(kill_at)
            mine = _in(network, root)
            points.install()
            _live(mine)
            (root / _POINTS).write_text(json.dumps(points.names))
        except BaseException:  # noqa: BLE001 - whatever it is, this is the end of the child and it must be seen
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    while True:
        try:
            os.wait()  # what it had started is ours now
        except ChildProcessError:
            return status


def _count_measured(path: Path) -> None:
    """One line a file that the model measures, written before it does."""
    measure = ChallengedSample.measure
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    write = os.write

    def counted(self: ChallengedSample, submission: Any, context: Any) -> Any:
        write(descriptor, f"{context.window.window} {context.hotkey.hex()}\n".encode())
        return measure(self, submission, context)

    ChallengedSample.measure = counted  # type: ignore[method-assign]


def main() -> None:
    """Line by line: a folder with a copy of the network and where to kill; the answer is the status that the process had."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("this kernel gives no orphans to their grandparent")
    network = _network(Path(sys.argv[1]))
    first = Path(sys.argv[1]).with_name("first")
    shutil.copytree(sys.argv[1], first)
    _live(_in(network, first))  # what is made once in a process is made now
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(_fork(network, Path(asked["root"]), asked["kill_at"]), flush=True)


# --- who asks for it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """What a validator has left behind once its windows are done. Equal where nothing was lost, doubled or forgotten.

    Attributes:
        verdicts: per window the body's canonical bytes, the evidence's digest and what it adopted: all that is signed.
        objects: the rest of its bucket, byte for byte. weights: every `set_weights` on the chain: block and arguments.
        ledger: its rows, table by table, without signatures and what follows from them. files: all names on its disk.
    """

    verdicts: Mapping[Window, tuple[bytes, Digest | None, Adopted | None]]
    objects: Mapping[str, bytes]
    weights: list[tuple[int, str]]
    ledger: Mapping[str, list[tuple[object, ...]]]
    files: list[str]


class MortalValidator(MortalProcess):
    """Lives of a validator."""

    def live(self, root: Path, kill_at: int | None = None) -> bool:
        """One process; True if it was killed, False if it came to its end. What raises in it is an AssertionError."""
        return self._killed(root=str(root), kill_at=kill_at)

    @staticmethod
    def points(root: Path) -> list[str]:
        """The kill points that the last life in this folder went through."""
        names: list[str] = json.loads((root / _POINTS).read_text())
        return names

    @staticmethod
    def measured(root: Path) -> Counter[str]:
        """How often each file was measured, by all lives together."""
        return Counter((root / _MEASURED).read_text().splitlines())

    @staticmethod
    def left(root: Path) -> Left:
        return _left(root)


@contextmanager
def mortal_validator(root: Path) -> Iterator[MortalValidator]:
    with forking("tooling.testing.mortal_validator", root, MortalValidator) as handle:
        yield handle


def _left(root: Path) -> Left:
    signer = LocalSigner.from_seed(hashlib.sha256(NAME.encode()).digest())
    bucket, chain = root / "buckets" / f"bucket-{NAME}", root / "chain.sqlite"
    objects = {str(path.relative_to(bucket)): path.read_bytes() for path in sorted(bucket.rglob("*")) if path.is_file()}
    verdicts = {}
    for window in WINDOWS:
        signed = SignedVerdict.decode(objects.pop(verdict_key(window)))
        assert signed.verify(signed.body.network_id), f"the verdict of window {window} is not signed"
        verdicts[window] = (signed.body.canonical(), signed.evidence_digest, signed.adopted)
    (ledger,) = (root / "state" / NAME).rglob("ledger.sqlite")
    query = "SELECT block, arguments FROM extrinsics WHERE hotkey = ? AND call = 'set_weights' ORDER BY seq"
    with closing(sqlite3.connect(chain)) as db:
        weights = [(int(block), str(told)) for block, told in db.execute(query, (bytes(signer.hotkey),))]
    return Left(verdicts, objects, weights, _rows(ledger), _names(root))


def _rows(path: Path) -> Mapping[str, list[tuple[object, ...]]]:
    """All rows, in place of a signed verdict (whose signature is random) what it says."""
    with closing(sqlite3.connect(path)) as db:
        db.create_function("said", 1, lambda raw: None if raw is None else SignedVerdict.decode(raw).body.canonical())
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        queries = {name: f"SELECT * FROM {name}" for name in tables}
        queries["windows"] = "SELECT window, step, said(verdict), evidence FROM windows"
        queries["sums"] += " WHERE part <> 'verdict'"
        return {name: sorted(db.execute(query).fetchall(), key=repr) for name, query in queries.items()}


def _names(root: Path) -> list[str]:
    folders = (root / "state" / NAME, root / "cache" / NAME, root / "buckets" / f"bucket-{NAME}")
    return sorted(str(path.relative_to(root)) for folder in folders for path in folder.rglob("*"))


if __name__ == "__main__":
    main()
