"""Real processes share one chain file: nothing is lost, counted twice or half done, whoever is killed when.

The workers are this file run as a script; they answer with one line of JSON per step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from grail_core.chain.base import Metagraph
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.chain.development.state import ChainRules
from grail_core.errors import ChainError
from grail_core.keys import LocalSigner
from grail_core.protocol.types import Block

WRITERS, ROUNDS = 4, 25


def start(role: str, path: Path, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, role, str(path), str(number)], stdout=subprocess.PIPE, text=True)


def signer_of(number: int) -> LocalSigner:
    return LocalSigner.from_seed(bytes([number + 1]) * 32)


def summary(metagraph: Metagraph) -> list[list[object]]:
    return [[n.uid, n.hotkey.hex(), n.registered_at, n.commitment, n.commitment_block] for n in metagraph.neurons]


def test_processes_see_the_same_blocks_and_lose_no_extrinsic(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    LocalChain.create(path, seed=3, block_time_ms=20, clock=ClockMode.FAST, factor=2, rules=ChainRules(max_uids=8))
    workers = [start("watch", path, n) for n in range(WRITERS)]
    reports = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * WRITERS
    fresh = LocalChain.open(path)
    for line in "".join(reports).splitlines():
        head, seen = json.loads(line)
        assert summary(fresh.metagraph(head)) == seen
    end = Block(fresh.current_block() + 1)
    assert fresh.wait_for_block(end, stop=threading.Event())
    final = fresh.metagraph(end)
    assert sorted(n.uid for n in final.neurons) == list(range(WRITERS))
    assert {n.commitment for n in final.neurons} == {f"fs:{n}-{ROUNDS - 1}" for n in range(WRITERS)}
    assert [fresh.nonce(n.hotkey) for n in final.neurons] == [ROUNDS + 1] * WRITERS


def test_a_process_killed_at_any_moment_leaves_a_whole_chain(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    chain = LocalChain.create(path, seed=3, block_time_ms=5)
    signer = signer_of(0)
    chain.register(signer)
    for kills in range(3):
        worker = start("commit-for-ever", path, 0)
        assert worker.stdout is not None
        for _ in range(5 + kills):
            last = worker.stdout.readline()
        worker.kill()
        acknowledged = int((last + worker.communicate()[0]).split()[-1])
        # What was acknowledged is there; at most what was in flight besides is there too.
        assert acknowledged <= chain.nonce(signer.hotkey) <= acknowledged + 1
        chain.commit(signer, "fs:after")


def test_two_processes_of_one_hotkey_do_not_lose_each_others_extrinsics(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    chain = LocalChain.create(path, seed=3, clock=ClockMode.VIRTUAL)
    chain.register(signer_of(0))
    workers = [start("commit-ten", path, 0) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert chain.nonce(signer_of(0).hotkey) == 21


def test_of_those_who_create_a_chain_at_once_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    workers = [start("create", path, n) for n in range(3)]
    answers = [worker.communicate()[0].strip() for worker in workers]
    assert sorted(answers) == ["made", "refused", "refused"]
    assert LocalChain.open(path).parameters.seed == str(answers.index("made"))


def work(role: str, path: Path, number: int) -> None:
    if role == "create":
        try:
            LocalChain.create(path, seed=number)
            print("made")
        except ChainError:
            print("refused")
        return
    chain, signer = LocalChain.open(path), signer_of(number)
    if role == "watch":
        chain.register(signer)
        for turn in range(ROUNDS):
            chain.commit(signer, f"fs:{number}-{turn}")
            head = chain.current_block()
            print(json.dumps([head, summary(chain.metagraph(head))]))
    elif role == "commit-ten":
        for turn in range(10):
            chain.commit(signer, f"fs:{os.getpid()}-{turn}")
    else:
        while True:
            chain.commit(signer, "fs:again")
            print(chain.nonce(signer.hotkey), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
