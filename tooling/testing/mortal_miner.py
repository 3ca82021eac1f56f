"""A miner whose process is killed in the middle of a step of its window, and started again.

    python -m tooling.testing.mortal_miner EMPTY_FOLDER

One process makes a small network, then forks a miner's process for each step and, after its death, another for its next life,
over a copy of that network. All that a miner could write is real; the clock goes where it is waited for. The last line of
standard output is JSON: for each step, the status of the first life, and of either life what lies in the bucket.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from grail_core.chain.development.local import LocalChain
from grail_core.keys import ss58
from grail_core.storage.layout import seal_key, window_key
from grail_core.storage.retention import Retention
from grail_miner.budget import TimeBudget
from grail_miner.mining import Mining
from grail_miner.service import MinerService
from tooling.testing.driven_chain import Driven
from tooling.testing.faults import faulty
from tooling.testing.mining import mining_of
from tooling.testing.network import FIRST_WINDOW, Network

GROUPS: Final = 4
STEPS: Final = ("select_model", "generate", "grade", "prove", "bind", "own_fault", "seal", "put 1", "put 2", "after")
"""Where the first life ends: at a step's second call, or its only one; `put 1` and `put 2`: before file and seal are stored."""


def main() -> None:
    root = Path(sys.argv[1])
    torch.set_num_threads(1)  # threads of torch would not survive a fork
    network = Network(root / "network", miners=1, validators=0)
    network.advance_to(FIRST_WINDOW + 1)
    told: dict[str, dict[str, Any]] = {}
    for step in ("", *STEPS):
        place = root / (step or "undisturbed")
        shutil.copytree(root / "network", place)
        there = copy.copy(network)
        there.root = place
        status = _forked(partial(_live, there, step))
        found = _bucket(there)
        again = _forked(partial(_live, there, ""))
        told[step] = {"status": status, "found": found, "again": again, "then": _bucket(there)}
    print(json.dumps(told))


def _forked(life: Callable[[], None]) -> int:
    """The exit status of a process that lives so; negative: the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 0
        try:
            life()
        except BaseException:  # noqa: BLE001 - nothing of this process goes on
            traceback.print_exc()
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _live(network: Network, step: str) -> None:
    network.chain = LocalChain.open(network.root / "chain.sqlite")
    participant = replace(network.participant("miner-0"), chain=Driven(network.chain, limit=FIRST_WINDOW + 30))
    if step.startswith("put"):
        number = int(step[-1])
        store = faulty(participant.directory.own(), put=lambda call: _killed() if call == number else None)
        participant = replace(participant, directory=faulty(participant.directory))
        participant.directory.own = lambda: store  # type: ignore[method-assign]
    mining = mining_of(network, "miner-0")
    mining.groups_per_batch = 2
    if step in STEPS[:7]:
        _kill_in(mining, step)
    service = MinerService(
        participant, mining, Retention(participant.own_store, []), GROUPS, 2, TimeBudget(0.0, 0.0, 0.0, 0.0, 0.0)
    )
    service._try_window(FIRST_WINDOW, threading.Event())
    if step == "after":
        _killed()


def _kill_in(mining: Mining, step: str) -> None:
    real, calls = getattr(mining, step), 0
    second = step in ("generate", "grade", "prove")

    def mortal(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1 + second:
            _killed()
        return real(*arguments)

    setattr(mining, step, mortal)


def _killed() -> BaseException | None:
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def _bucket(network: Network) -> dict[str, str]:
    """Digests of file and seal, where they lie there."""
    store, own = network.participant("miner-0").own_store, ss58(network.signers["miner-0"].hotkey)
    keys: Sequence[tuple[str, str]] = (("file", window_key(own, FIRST_WINDOW)), ("seal", seal_key(own, FIRST_WINDOW)))
    return {
        name: hashlib.sha256(store.get(key, max_bytes=10**7)).hexdigest() for name, key in keys if store.head(key) is not None
    }


if __name__ == "__main__":
    main()
