"""Real proof workers: the bytes that the miner's own process would prove, of exactly the weights in a manifest, and no key."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bittensor_core
import pytest

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.errors import CheckpointError
from grail_core.keys import LocalSigner, load_hotkey
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import measure_rollouts, prove_rollouts
from grail_miner.proving.errors import PoisonousGroupError
from grail_miner.proving.places import on_processors
from grail_miner.proving.processes import ProcessProver
from tooling.testing.faults import events
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.proving import Measuring, bytes_of, group, measured_bytes, prepared, signs

GROUPS = [group(seed, 257) for seed in range(4)]
SIGNS = signs(32)
WORD = "a-secret-of-the-environment"


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hotkey as `btcli` writes one, with its mnemonic."""
    folder = tmp_path_factory.mktemp("wallet")
    keypair = bittensor_core.Keypair.from_mnemonic(bittensor_core.Keypair.generate_mnemonic())
    (folder / "cold" / "hotkeys").mkdir(parents=True)
    (folder / "cold" / "hotkeys" / "hot").write_bytes(bittensor_core.serialized_keypair_to_keyfile_data(keypair))
    return folder


@pytest.fixture(scope="module")
def signer(wallet: Path) -> LocalSigner:
    return load_hotkey(wallet, "cold", "hot")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[PreparedCheckpoint]:
    return [prepared(save_byte_model(tmp_path_factory.mktemp("model"), seed=seed)) for seed in (3, 4)]


@pytest.fixture(scope="module")
def prover(wallet: Path, signer: LocalSigner, checkpoints: list[PreparedCheckpoint]) -> Iterator[ProcessProver]:
    """One worker, of a process that holds a key, has its file open for heirs, and secrets in its environment."""
    with pytest.MonkeyPatch.context() as patch, (wallet / "cold" / "hotkeys" / "hot").open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        for name in ("BT_WALLET_PATH", "BT_PW_HOT", "R2_WRITE_SECRET_ACCESS_KEY", "GRAIL_STATE_DIR", "HF_TOKEN", "PYTHONPATH"):
            patch.setenv(name, WORD)
        with ProcessProver(on_processors(1)) as prover:
            prover.load(checkpoints[0])
            yield prover


def expected(checkpoint: PreparedCheckpoint) -> list[list[tuple[bytes, bytes]]]:
    model = PolicyModel.load(checkpoint.folder)
    return [bytes_of(prove_rollouts(model, *one, SIGNS)) for one in GROUPS]


def proved(prover: ProcessProver) -> list[list[tuple[bytes, bytes]]]:
    with ThreadPoolExecutor(prover.slots) as pool:
        waiting = [pool.submit(prover.prove, *one, SIGNS) for one in GROUPS]
        return [bytes_of(one.result()) for one in waiting]


def test_workers_prove_the_bytes_that_one_process_proves_with_whichever_weights_are_loaded(
    prover: ProcessProver, checkpoints: list[PreparedCheckpoint]
) -> None:
    before = prover.pids
    for checkpoint in (checkpoints[1], checkpoints[0]):
        prover.load(checkpoint)
        assert proved(prover) == expected(checkpoint)
    assert prover.pids == before  # they load anew, and are not started anew


def test_workers_measure_the_bytes_that_one_process_measures_with_whichever_weights_are_loaded(
    prover: ProcessProver, checkpoints: list[PreparedCheckpoint]
) -> None:
    asked = vars(Measuring.of(1, 257, 32))
    found = []
    for checkpoint in (checkpoints[1], checkpoints[0]):
        prover.load(checkpoint)
        found.append(measured_bytes(prover.measure(**asked)))
        assert found[-1] == measured_bytes(measure_rollouts(PolicyModel.load(checkpoint.folder), **asked))
    assert found[0] != found[1]
    with pytest.raises(OutOfVocabularyError, match="token id 300 is outside the vocabulary of 257"):
        prover.measure(**{**asked, "rows": [[*row[:-1], 300] for row in asked["rows"]]})


def test_a_folder_with_other_weights_than_its_manifest_names_is_not_proved_with(
    prover: ProcessProver, checkpoints: list[PreparedCheckpoint]
) -> None:
    with pytest.raises(CheckpointError, match="other weights than the manifest names"):
        prover.load(prepared(checkpoints[0].folder, weights_of=checkpoints[1].folder))
    prover.load(checkpoints[0])
    assert proved(prover) == expected(checkpoints[0])


def test_weights_that_are_written_to_while_they_are_in_use_are_loaded_anew_before_anything_is_proved(
    prover: ProcessProver, checkpoints: list[PreparedCheckpoint]
) -> None:
    """The worker has the file's own pages: without a look at the file it would prove with whatever is written there."""
    folder = checkpoints[1].folder
    prover.load(checkpoints[1])
    weights = folder / "model.safetensors"
    right, wrong = weights.read_bytes(), (checkpoints[0].folder / "model.safetensors").read_bytes()
    assert len(right) == len(wrong)
    with weights.open("r+b") as file:
        file.write(right)
    assert proved(prover) == expected(checkpoints[1])
    with weights.open("r+b") as file:
        file.write(wrong)
    with pytest.raises(PoisonousGroupError):
        prover.prove(*GROUPS[0], SIGNS)
    with weights.open("r+b") as file:
        file.write(right)
    prover.load(checkpoints[1])
    assert proved(prover) == expected(checkpoints[1])


def test_what_has_no_proof_is_told_in_the_words_of_the_one_that_computes(
    prover: ProcessProver, checkpoints: list[PreparedCheckpoint]
) -> None:
    prover.load(checkpoints[0])
    with pytest.raises(OutOfVocabularyError, match="token id 300 is outside the vocabulary of 257"):
        prover.prove([[1, 300]], [1], SIGNS)
    with pytest.raises(OverlongSequenceError, match="1025 tokens"):
        prover.prove([[1] * 1025], [1], SIGNS)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into another process")
def test_a_worker_holds_no_key_in_its_environment_its_open_files_or_its_memory(
    prover: ProcessProver, wallet: Path, signer: LocalSigner, checkpoints: list[PreparedCheckpoint]
) -> None:
    """The same look into a fork of this process, which is what a worker must not be, finds every one of them."""
    prover.load(checkpoints[0])
    assert proved(prover)  # it has done all that it ever does
    told = json.loads((wallet / "cold" / "hotkeys" / "hot").read_text())
    key, seed = (bytes.fromhex(told[name].removeprefix("0x")) for name in ("privateKey", "secretSeed"))
    secrets = {
        "mnemonic": told["secretPhrase"].encode(),
        "its last words": told["secretPhrase"].encode()[-40:],
        "seed": seed,
        "seed as text": seed.hex().encode(),
        "key": key[:32],
        "nonce": key[32:],
        "key as text": key.hex().encode(),
        "environment": WORD.encode(),
    }
    assert signer.sign(b"m")  # the key is in use here
    twin = os.fork()
    if twin == 0:
        signal.pause()
    try:
        assert sorted(found_in(twin, secrets)) == sorted(secrets)
    finally:
        os.kill(twin, signal.SIGKILL)
        os.waitpid(twin, 0)
    assert len(prover.pids) == 1
    for pid in prover.pids:
        assert found_in(pid, secrets) == []
        assert WORD.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        files = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [one for one in files if str(wallet) in one]
        kinds = {one.partition(":")[0] for one in files if not one.startswith(("/dev/null", "/tmp/", "/memfd:", "anon_inode:"))}
        assert kinds <= {"pipe", "socket"}  # its life line and its parent; a temporary file takes what it prints
        assert sum(one.startswith("socket:") for one in files) == 1


def found_in(pid: int, secrets: dict[str, bytes]) -> list[str]:
    """Which of these the memory of a process holds, in whatever it may write to."""
    found: set[str] = set()
    longest = max(map(len, secrets.values()))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_, last = line.split(maxsplit=5)
            if not rights.startswith("rw") or last.startswith("[v"):
                continue
            at, end = (int(text, 16) for text in span.split("-"))
            kept = b""
            while at < end:
                memory.seek(at)
                part = memory.read(min(16 << 20, end - at))
                if not part:
                    break
                held = kept + part
                found |= {name for name in secrets.keys() - found if secrets[name] in held}
                if len(found) == len(secrets):
                    return list(found)
                kept, at = part[-longest:], at + len(part)
    return list(found)


@pytest.mark.heavy  # every worker that is replaced imports torch
@pytest.mark.skipif(sys.platform != "linux", reason="looks into another process")
def test_workers_that_are_killed_at_any_moment_lose_no_group(checkpoints: list[PreparedCheckpoint]) -> None:
    """While it has nothing to do, while it loads, while it computes, and while it is started."""
    with ProcessProver(on_processors(2)) as prover:
        kill_at_any_moment(prover, checkpoints)


def kill_at_any_moment(prover: ProcessProver, checkpoints: list[PreparedCheckpoint]) -> None:
    model = PolicyModel.load(checkpoints[0].folder)
    long_group = ([[1 + (7 * i + r) % 250 for i in range(1024)] for r in range(16)], [64] * 16)
    of_long = bytes_of(prove_rollouts(model, *long_group, SIGNS))
    prover.load(checkpoints[0])

    os.kill(prover.pids[0], signal.SIGKILL)
    assert proved(prover) == expected(checkpoints[0])

    with events() as names, ThreadPoolExecutor(3) as pool:
        while "proof_worker_replaced" not in names:  # else it had an answer before it was killed
            prover.load(checkpoints[0])
            victim = prover.pids[0]
            before = computed(victim)
            waiting = [pool.submit(prover.prove, *long_group, SIGNS) for _ in range(2)]
            while computed(victim) < before + 3 and not all(one.done() for one in waiting):
                threading.Event().wait(0.005)
            os.kill(victim, signal.SIGKILL)
            assert [bytes_of(one.result()) for one in waiting] == [of_long] * 2
            wait_for_two(prover)

    with ThreadPoolExecutor(1) as pool:
        for pid in prover.pids[:1]:
            loading = pool.submit(prover.load, checkpoints[1])
            os.kill(pid, signal.SIGKILL)
            loading.result()
    assert proved(prover) == expected(checkpoints[1])

    wait_for_two(prover)
    before_pids = prover.pids
    for _ in range(2):  # the second time one that was just started
        pids = prover.pids
        os.kill(pids[-1], signal.SIGKILL)
        while set(prover.pids) == set(pids) or len(prover.pids) < 2:
            threading.Event().wait(0.005)
    assert proved(prover) == expected(checkpoints[1])
    wait_for_two(prover)
    assert before_pids[0] in prover.pids
    assert proved(prover) == expected(checkpoints[1])


def computed(pid: int) -> int:
    """Ticks of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait_for_two(prover: ProcessProver) -> None:
    while prover.loaded < 2:
        threading.Event().wait(0.005)


_MINER = """
import sys, time
from grail_miner.proving.places import on_processors
from grail_miner.proving.processes import ProcessProver
prover = ProcessProver(on_processors(2))
while len(prover.pids) < 2 or prover.ready < int(sys.argv[1]):
    time.sleep(0.01)
print(*prover.pids, flush=True)
time.sleep(3600)
"""


@pytest.mark.heavy  # each imports torch
@pytest.mark.skipif(sys.platform != "linux", reason="only there the kernel ends a child that can do nothing for it")
@pytest.mark.parametrize(("ready", "last"), [(2, 9), (2, 15), (0, 9)])
def test_no_worker_outlives_its_miner_however_it_ends(ready: int, last: int) -> None:
    """Those that are ready are stopped before: they can do nothing for their own end."""
    miner = subprocess.Popen([sys.executable, "-c", _MINER, str(ready)], stdout=subprocess.PIPE, text=True)
    assert miner.stdout is not None
    workers = [int(pid) for pid in miner.stdout.readline().split()]
    watched = [os.pidfd_open(pid) for pid in workers]
    if ready:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
    miner.send_signal(last)
    miner.wait()
    for descriptor in watched:
        ended, _, _ = select.select([descriptor], [], [], 120)  # readable when it has ended
        os.close(descriptor)
        assert ended
