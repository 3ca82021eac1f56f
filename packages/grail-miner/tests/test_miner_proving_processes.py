"""Proof workers as processes: whatever becomes of one, no group is lost but one that ends every worker it meets.

The workers here are real processes that speak the real frames; they have no model, so that they break where they are told to.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.checkpoints.pinned_table import shipped
from grail_core.errors import CheckpointError, MachineFaultError
from grail_core.model.described import ModelDescription
from grail_core.model.errors import OutOfVocabularyError
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.batch import RolloutProof
from grail_core.proof.errors import UnprovableError
from grail_core.protocol.types import Digest
from grail_miner.proving.errors import PoisonousGroupError
from grail_miner.proving.places import WorkerPlace, on_gpus, on_processors
from grail_miner.proving.processes import MAX_FAILED_STARTS, ProcessProver
from grail_miner.proving.worker import ProofWorker
from tooling.testing import plain_window as plain
from tooling.testing.faults import events
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.scripted_prover import COMMAND, LOG, Does

SIGNS = np.ones((4, 32), np.float32)
TWO = (WorkerPlace(), WorkerPlace())


def checkpoint(folder: Path) -> PreparedCheckpoint:
    """One of its own for each folder; these workers ask of it no more than that there is one."""
    manifest = plain.manifest(Digest(hashlib.sha256(bytes(folder)).digest()))
    return PreparedCheckpoint(manifest, folder, cast("PromptRenderer", None), ModelDescription(257, 1024, 2, 32), shipped())


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessProver]:
    with ProcessProver(TWO, command=COMMAND) as pool:
        yield pool


@pytest.fixture
def prover(pool: ProcessProver, tmp_path: Path) -> ProcessProver:
    pool.load(checkpoint(tmp_path))
    return pool


def prove(prover: ProcessProver, does: Does = Does.ANSWER, mark: int = 9) -> list[RolloutProof]:
    return prover.prove([[int(does), 1, 5, mark], [int(does), 1, 5]], [2, 2], SIGNS)


def answered(proofs: list[RolloutProof], mark: int = 9) -> bool:
    return [proof.sketches for proof in proofs] == [bytes([mark]) * 24, bytes([5]) * 16]


def written(folder: Path, what: str) -> list[int]:
    """The workers that did this, in order. Nothing is written before the first did something."""
    lines = (folder / LOG).read_text().splitlines() if (folder / LOG).exists() else []
    return [int(line.split()[0]) for line in lines if line.endswith(what)]


def wait_until_written(folder: Path, what: str, times: int = 1) -> list[int]:
    while len(found := written(folder, what)) < times:
        threading.Event().wait(0.005)
    return found


def test_as_many_groups_are_proved_at_the_same_time_as_there_are_workers(prover: ProcessProver, tmp_path: Path) -> None:
    assert prover.slots == 2
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(prove, prover, Does.WAIT, mark) for mark in (21, 22)]
        assert len(set(wait_until_written(tmp_path, "proving WAIT", 2))) == 2
        (tmp_path / "go").touch()
        assert [answered(one.result(), mark) for one, mark in zip(waiting, (21, 22), strict=True)] == [True, True]


BREAKING = (Does.ABORT, Does.SAY_LESS, Does.ANSWER_SOMETHING_ELSE, Does.LACK_MEMORY)
IN_OTHER_WAYS = (Does.EXIT, Does.SAY_NO_FRAME, Does.ANSWER_ANOTHER_JOB, Does.PROVE_WITH_OTHER_WEIGHTS, Does.RAISE)


@pytest.mark.parametrize("ways", [BREAKING, pytest.param(IN_OTHER_WAYS, marks=pytest.mark.heavy)], ids=["some", "others"])
def test_a_group_that_ends_whichever_worker_it_meets_is_dropped_after_two_and_the_next_is_proved(
    prover: ProcessProver, tmp_path: Path, ways: tuple[Does, ...]
) -> None:
    for does in ways:
        with events() as names, pytest.raises(PoisonousGroupError, match="2 proof workers ended over it"):
            prove(prover, does)
        assert len(written(tmp_path, f"proving {does.name}")) == 2
        assert names.count("proof_worker_replaced") == 2
        assert answered(prove(prover))
    assert prover.slots == 2


def test_a_group_whose_worker_ends_once_is_proved_by_another(prover: ProcessProver, tmp_path: Path) -> None:
    assert answered(prove(prover, Does.ABORT_ONCE))
    assert len(set(written(tmp_path, "proving ABORT_ONCE"))) == 2


def test_a_worker_that_is_killed_while_it_proves_loses_no_group(prover: ProcessProver, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(prove, prover, Does.WAIT, mark) for mark in (31, 32)]
        killed = wait_until_written(tmp_path, "proving WAIT", 2)
        os.kill(killed[0], signal.SIGKILL)
        wait_until_written(tmp_path, "proving WAIT", 3)
        (tmp_path / "go").touch()
        more = [pool.submit(prove, prover, Does.ANSWER, mark) for mark in (41, 42, 43)]
        assert all(answered(one.result(), mark) for one, mark in zip(waiting + more, (31, 32, 41, 42, 43), strict=True))
    assert killed[0] not in prover.pids


def test_a_worker_that_is_killed_while_it_has_nothing_to_do_is_replaced_before_it_is_needed(
    prover: ProcessProver, tmp_path: Path
) -> None:
    before = prover.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    after = wait_until_written(tmp_path, "loading", 4)[2:]
    assert not set(after) & set(before)
    assert answered(prove(prover))


def test_a_worker_that_is_killed_while_it_loads_is_replaced_and_the_load_ends(prover: ProcessProver, tmp_path: Path) -> None:
    folder = tmp_path / "next"
    folder.mkdir()
    (folder / "wait_while_loading").touch()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(prover.load, checkpoint(folder))
        killed = wait_until_written(folder, "loading", 2)
        os.kill(killed[0], signal.SIGKILL)
        wait_until_written(folder, "loading", 3)
        (folder / "go").touch()
        loading.result()
    assert answered(prove(prover))
    assert prover.slots == 2


def test_proofs_are_of_the_weights_that_were_loaded_last(prover: ProcessProver, tmp_path: Path) -> None:
    """A worker that was away while the others changed loads before it proves; one with other weights is taken no answer of."""
    folder = tmp_path / "next"
    folder.mkdir()
    os.kill(prover.pids[0], signal.SIGKILL)
    prover.load(checkpoint(folder))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(prove, prover, Does.WAIT) for _ in range(2)]
        provers = wait_until_written(folder, "proving WAIT", 2)
        (folder / "go").touch()
        assert all(answered(one.result()) for one in waiting)
    assert set(provers) <= set(written(folder, "loading"))
    with pytest.raises(PoisonousGroupError, match="computed with the weights of"):
        prove(prover, Does.PROVE_WITH_OTHER_WEIGHTS)


def test_a_group_without_a_proof_is_told_as_such_and_costs_no_worker(prover: ProcessProver) -> None:
    before = prover.pids
    with pytest.raises(UnprovableError) as raised:
        prove(prover, Does.HAVE_NO_PROOF)
    assert (type(raised.value), raised.value.where) == (UnprovableError, "row 3")
    with pytest.raises(OutOfVocabularyError):
        prover.prove([[1, 2**31]], [1], SIGNS)
    with pytest.raises(ValueError, match="hold no prompt or no completion"):
        prover.prove([[1, 2]], [2], SIGNS)
    assert prover.pids == before


def test_the_largest_group_fits(prover: ProcessProver) -> None:
    rows = [[0] * 12_287 + [index] for index in range(16)]
    proofs = prover.prove(rows, [1] * 16, np.ones((4, 8192), np.float32))
    assert [proof.sketches for proof in proofs] == [bytes([index]) * 8 * 12_288 for index in range(16)]
    assert all(proof.logprobs.shape == (12_287,) for proof in proofs)


def test_weights_that_are_not_the_manifests_are_refused_and_nothing_is_proved_with_them(
    prover: ProcessProver, tmp_path: Path
) -> None:
    folder = tmp_path / "next"
    folder.mkdir()
    (folder / "say_another_root").touch()
    with pytest.raises(CheckpointError, match="other weights than the manifest names"):
        prover.load(checkpoint(folder))
    with pytest.raises(MachineFaultError, match="no weights are loaded"):
        prove(prover)
    with pytest.raises(CheckpointError, match="folder cannot be read"):
        prover.load(checkpoint(tmp_path / "nowhere"))
    prover.load(checkpoint(tmp_path))
    assert answered(prove(prover))


def test_workers_that_cannot_be_started_are_said_loudly_and_one_model_in_this_process_proves(tmp_path: Path) -> None:
    folder = save_byte_model(tmp_path)
    with events() as names, ProcessProver(TWO, command=(COMMAND[0], "-c", "raise SystemExit(9)")) as prover:
        prover.load(checkpoint(folder))
        assert prover.slots == 1
        (proof,) = prover.prove([[1, 5, 6]], [2], SIGNS)
        assert len(proof.sketches) == 16
    assert names.count("proof_worker_not_started") == 2 * MAX_FAILED_STARTS
    assert names.count("proof_workers_unavailable") == 1


def test_workers_that_end_while_they_load_are_tried_again_with_the_next_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "exit_while_loading").touch()
    folder = save_byte_model(tmp_path)
    with ProcessProver(TWO, command=COMMAND) as prover:
        prover.load(checkpoint(folder))
        assert prover.slots == 1
        (tmp_path / "next").mkdir()
        prover.load(checkpoint(tmp_path / "next"))
        assert prover.slots == 2
        assert answered(prove(prover))


def test_workers_that_could_not_be_started_come_back_when_they_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint may be in use for long, and a device be lost for a minute of it."""
    monkeypatch.setattr("grail_miner.proving.processes.OUT_SECONDS", 0.0)
    (tmp_path / "exit_while_loading").touch()
    with ProcessProver(TWO, command=COMMAND) as prover:
        prover.load(checkpoint(save_byte_model(tmp_path)))
        assert prover.slots == 1
        (tmp_path / "exit_while_loading").unlink()
        while prover.slots < 2:
            threading.Event().wait(0.005)
        assert answered(prove(prover))


def test_a_group_that_ended_a_worker_is_not_tried_in_the_miners_own_process(
    prover: ProcessProver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_byte_model(tmp_path)
    (tmp_path / "exit_while_loading").touch()  # nothing that is started from here on comes to work
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(prove, prover, Does.WAIT) for _ in range(2)]
        for pid in wait_until_written(tmp_path, "proving WAIT", 2):
            os.kill(pid, signal.SIGKILL)
        for one in waiting:
            with pytest.raises(PoisonousGroupError, match="not tried in this process"):
                one.result()
    assert len(prover.prove([[1, 5, 6]], [2], SIGNS)) == 1  # another group is


def test_closing_leaves_no_process_and_nobody_waiting(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    prover = ProcessProver(TWO, command=COMMAND)
    prover.load(checkpoint(tmp_path))
    pids = prover.pids
    with ThreadPoolExecutor(3) as pool:
        waiting: list[Future[list[RolloutProof]]] = [pool.submit(prove, prover, Does.WAIT) for _ in range(3)]
        wait_until_written(tmp_path, "proving WAIT", 2)
        prover.close()
        for one in waiting:
            with pytest.raises(MachineFaultError, match="closed"):
                one.result()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not [one for one in set(threading.enumerate()) - threads if one.name.startswith("proof-worker-")]


def test_a_worker_that_gives_no_answer_in_time_is_ended(
    prover: ProcessProver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grail_miner.proving.worker.GROUP_SECONDS", 0.05)
    with pytest.raises(PoisonousGroupError, match="gave no answer in time"):
        prove(prover, Does.WAIT)


def test_each_worker_has_its_own_processors_and_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4, 10)), raising=False)
    assert [(place.cpus, place.threads) for place in on_processors(4)] == [((4,), 1), ((5, 6), 2), ((7,), 1), ((8, 9), 2)]
    assert [place.cpus for place in on_processors(7)] == [(4,), (4,), (5,), (6,), (7,), (8,), (9,)]
    assert [place.gpu for place in on_gpus([0, 2], "4,GPU-5f, 6")] == ["4", "6"]
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in on_gpus([1, 3], None)] == ["1", "3"]
    assert on_processors(1)[0].environment["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert {place.threads for place in on_processors(2)} == {1}
    assert WorkerPlace.of_text(on_processors(2)[1].to_text()) == on_processors(2)[1]


def test_a_worker_runs_where_its_place_says() -> None:
    worker = ProofWorker(0, WorkerPlace("3", (0,), 1), attention="sdpa", command=COMMAND)
    try:
        worker.require_ready()
        environ = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=3" in environ
        assert b"OMP_NUM_THREADS=1" in environ
    finally:
        worker.end()
