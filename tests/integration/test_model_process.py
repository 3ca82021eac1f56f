"""A validator whose models are in a child: the same verdicts to the byte, nobody's loss but the one whose work broke it."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.child_process import frames as transport
from grail_core.errors import MachineFaultError
from grail_core.proof.work import ProofRow
from grail_core.protocol import MinerStatus, MinerVerdict, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.types import Window
from grail_core.storage.layout import evidence_key, verdict_key
from grail_validator.compared_models import ComparedModels
from grail_validator.model_frames import Kind
from grail_validator.model_process import ModelProcess
from grail_validator.service import ValidatorService
from tooling.testing.mining import upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model

WINDOW = Window(FIRST_WINDOW + 30)
"""The first window with a checkpoint before its own."""
GROUPS = {"miner-0": range(5), "miner-1": range(2), "miner-2": range(1)}
"""Rollouts of the first are drawn one by one too."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> SmallNetwork:
    """A window with two checkpoints, whose challenge is out."""
    model = make_model(tmp_path_factory.mktemp("model"))
    network = SmallNetwork(tmp_path_factory.mktemp("network"), model=model, miners=3, validators=3)
    network.advance_to(FIRST_WINDOW + 1)
    _publish_another_checkpoint(network, model)
    network.advance_to(WINDOW + 1)
    for name, groups in GROUPS.items():
        upload(network, network.mining(name), name, network.mine(network.mining(name), WINDOW, groups), WINDOW)
    network.advance_to(WINDOW + 30)
    for number in range(3):
        network.validator(f"validator-{number}").first_sight.sight(WINDOW)
    network.advance_to(WINDOW + 38)
    return network


def _publish_another_checkpoint(network: SmallNetwork, model: Path) -> None:
    participant, former = network.participant("trainer"), network.manifest
    parts = CheckpointParts(
        network_id=participant.network_id,
        window=FIRST_WINDOW,
        valid_from=WINDOW,
        environment=former.environment,
        policy=former.policy,
        end_token_ids=former.end_token_ids,
        thinking_mode=former.thinking_mode,
    )
    state = Qwen2ForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    changed = {name: tensor * 1.25 for name, tensor in state.items()}
    publish(participant.own_checkpoints, parts, changed, read_model_files(model), participant.signer, participant.params)


@pytest.fixture(scope="module")
def models(network: SmallNetwork) -> Iterator[ModelProcess]:
    with ModelProcess(network.participant("validator-1").checkpoints) as models:
        yield models


def judged(validator: ValidatorService) -> tuple[VerdictBody, bytes]:
    assert validator.advance(WINDOW, threading.Event()) is WindowStatus.SCORED
    store = validator.participant.own_store
    verdict = SignedVerdict.decode(store.get(verdict_key(WINDOW), max_bytes=10**7))
    return verdict.body, store.get(evidence_key(WINDOW), max_bytes=10**7)


def of_miners(network: SmallNetwork, body: VerdictBody) -> list[MinerVerdict]:
    """In the order in which they are judged."""
    hotkeys = {network.signers[name].hotkey for name in GROUPS}
    return [miner for miner in body.miners if miner.hotkey in hotkeys]


def test_a_window_judged_through_a_child_gives_the_bytes_that_one_process_gives(
    network: SmallNetwork, models: ModelProcess
) -> None:
    here, there = network.validator("validator-0"), network.validator("validator-1")
    there.checkpoint = models
    body, evidence = judged(here)
    assert [miner.status for miner in of_miners(network, body)] == [MinerStatus.ACCEPTED] * 3
    assert max(len(miner.sampled) for miner in body.miners) == 2 * 16 + 3
    body_of_child, evidence_of_child = judged(there)
    assert body_of_child.canonical() == body.canonical()
    assert evidence_of_child == evidence


@pytest.mark.heavy  # a second child imports torch
def test_a_child_that_is_killed_makes_one_miner_inconclusive_and_the_others_are_judged_as_ever(
    network: SmallNetwork, models: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = transport.send
    killed: list[int] = []

    def killing(connection: socket.socket, kind: Kind, *rest: Any) -> None:
        if kind is Kind.MEASURE and not killed and models.pid is not None:
            killed.append(models.pid)
            os.kill(models.pid, signal.SIGKILL)
        send(connection, kind, *rest)

    monkeypatch.setattr(transport, "send", killing)
    validator = network.validator("validator-2")
    validator.checkpoint = models
    body, _ = judged(validator)
    first, *others = sorted(of_miners(network, body), key=lambda miner: miner.status is MinerStatus.ACCEPTED)
    assert first.status is MinerStatus.INCONCLUSIVE  # whose file came first
    assert "the model process ended by signal 9" in first.reason
    assert [miner.status for miner in others] == [MinerStatus.ACCEPTED] * 2
    assert models.pid not in (None, *killed)


_VALIDATOR = """
import sys, time
from grail_validator.model_frames import Kind
from grail_validator.model_process import ModelProcess
models = ModelProcess(None)
models.start()
if sys.argv[1] == "ready":
    models.require_ready()
print(models.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.heavy  # each imports torch
@pytest.mark.parametrize(("state", "last"), [("ready", 9), ("ready", 15), ("importing", 9)])
def test_no_child_outlives_its_validator_however_it_ends(state: str, last: int) -> None:
    """The one that is ready is stopped before: it can do nothing for its own end, as one in a kernel cannot that never ends."""
    validator = subprocess.Popen([sys.executable, "-c", _VALIDATOR, state], stdout=subprocess.PIPE, text=True)
    assert validator.stdout is not None
    child = int(validator.stdout.readline())
    watched = os.pidfd_open(child)
    if state == "ready":
        os.kill(child, signal.SIGSTOP)
    validator.send_signal(last)
    validator.wait()
    ended, _, _ = select.select([watched], [], [], 120)  # readable when it has ended
    os.close(watched)
    assert ended


def test_who_asks_every_process_to_stop_lets_the_validator_end_the_step_it_is_in(
    network: SmallNetwork, models: ModelProcess
) -> None:
    work = models.model(network.manifest, {}, ComparedModels(earlier=0)).work()
    pid = models.pid
    assert pid is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    signs = torch.ones((4, work.facts.hidden_size)).numpy()
    (measured,) = work.measure([ProofRow([1, 2, 3], 1, (0, 1), 1)], signs, network.manifest.policy).rollouts
    assert measured.finite
    assert models.pid == pid


def test_a_row_that_no_checked_file_has_is_an_error_and_no_measurement(network: SmallNetwork, models: ModelProcess) -> None:
    manifest = network.manifest
    models.at(manifest)
    work = models.model(manifest, {}, ComparedModels(earlier=0)).work()
    signs = torch.ones((4, work.facts.hidden_size)).numpy()
    with pytest.raises(MachineFaultError, match="outside the vocabulary"):
        work.measure([ProofRow([1, 10**6], 1, (0,), 1)], signs, manifest.policy)


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's memory")
def test_a_child_whose_memory_really_runs_out_measures_in_parts_or_is_this_machines_fault(
    network: SmallNetwork, models: ModelProcess
) -> None:
    """The kernel gives less and less, and the libraries say it in their words; which of the two it is depends on them."""
    work = models.model(network.manifest, {}, ComparedModels(earlier=0)).work()
    signs = torch.ones((4, work.facts.hidden_size)).numpy()
    length = work.facts.context_length
    batch = [ProofRow([1 + (i + r) % 200 for i in range(length)], 64, tuple(range(32)), r) for r in range(16)]
    whole = work.measure(batch, signs, network.manifest.policy)
    pid = models.pid
    assert pid is not None
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    ran_out = False
    for spare in (64, 12, 8, 6, 4, 3, 2):
        resource.prlimit(pid, resource.RLIMIT_DATA, (used + (spare << 20), resource.RLIM_INFINITY))
        try:
            found = work.measure(batch, signs, network.manifest.policy)
        except MachineFaultError as error:
            assert "ran out of memory" in error.what  # noqa: PT017 - a measurement is as good
            ran_out = True
            break
        assert all(np.abs(a.z - b.z).max() < 0.05 for a, b in zip(found.rollouts, whole.rollouts, strict=True))
        ran_out = ran_out or found.parts is not None
    models.close()  # the next test's child has all the memory there is
    assert ran_out
