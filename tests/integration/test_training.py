"""Promises of the trainer as a participant, with real files, keys, chain, beacon, stores and models.

What it learns from, what it refuses, and that SIGKILL anywhere neither loses a window nor learns from one twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.errors import ConfigurationError
from grail_core.participant.participant import Participant
from grail_core.protocol.types import Window
from grail_core.storage.filesystem import FilesystemDirectory
from grail_core.storage.layout import file_key
from grail_envs.sat import SatEnvironment
from grail_trainer.hyper_parameters import IntakeSettings, OptimiserSettings
from grail_trainer.learning.optimiser import Masters
from grail_trainer.start import publish_folder
from tooling.adversaries.tampering import map_rollouts, zero_sketches
from tooling.testing.killing import killed_at
from tooling.testing.learning_network import (
    ENVIRONMENT,
    GROUPS,
    SETTINGS,
    LearningNetwork,
    learning_model,
    published_log,
    service,
)
from tooling.testing.small_network import FIRST_WINDOW


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


@pytest.fixture
def network(tmp_path: Path, model: Path) -> LearningNetwork:
    root = tmp_path / "network"
    root.mkdir()
    network = LearningNetwork(root, environment=ENVIRONMENT, model=model)
    network.advance_to(FIRST_WINDOW + 1)
    return network


def test_a_window_becomes_a_checkpoint_and_a_signed_log(network: LearningNetwork, model: Path) -> None:
    digests = {name: hashlib.sha256(network.mine_and_upload(name)).hexdigest() for name in ("miner-0", "miner-1")}
    network.judge()
    trainer = service(network.participant("trainer"), model)
    before = trainer.masters.published()
    assert trainer.run(threading.Event(), windows=1) == 1
    first, second = (item.manifest for item in trainer.publisher.view().stored)
    assert (second.sequence, second.window, second.valid_from) == (1, FIRST_WINDOW, FIRST_WINDOW + 60)
    assert second.weights_root != first.weights_root
    assert second.training["groups"] == len(published_log(trainer.participant)["groups"]) > 0
    log = published_log(trainer.participant)
    assert {member["content_digest"] for member in log["groups"]} <= set(digests.values())
    assert log["checkpoint"]["digest"] == second.digest.hex()
    loaded = LiveCheckpoint(network.participant("miner-0").checkpoints).at(second)
    for name, tensor in trainer.masters.published().items():
        assert torch.equal(loaded.model.state()[name], tensor)
    assert any(not torch.equal(before[name], tensor) for name, tensor in trainer.masters.published().items())


def test_learning_rate_zero_publishes_the_same_weights(network: LearningNetwork, model: Path) -> None:
    network.mine_and_upload("miner-0")
    network.judge()
    trainer = service(
        network.participant("trainer"), model, dataclasses.replace(SETTINGS, optimiser=OptimiserSettings(learning_rate=0.0))
    )
    trainer.run(threading.Event(), windows=1)
    first, second = (item.manifest for item in trainer.publisher.view().stored)
    assert second.weights_root == first.weights_root
    assert second.training["changed_share"] == "0.000000"


def test_a_file_replaced_after_the_verdict_is_not_trained_on(network: LearningNetwork, model: Path) -> None:
    data = network.mine_and_upload("miner-0")
    network.judge()
    network.mine_and_upload("miner-0", groups=range(1))  # the miner's bucket holds another file now
    trainer = service(network.participant("trainer"), model)
    trainer.run(threading.Event(), windows=1)
    learned = {member["content_digest"] for member in published_log(trainer.participant)["groups"]}
    assert learned == {hashlib.sha256(data).hexdigest()}


def test_bytes_that_are_not_those_of_the_verdict_are_taken_from_another_validator(
    network: LearningNetwork, model: Path
) -> None:
    digest = hashlib.sha256(network.mine_and_upload("miner-0")).digest()
    network.judge()
    network.participant("validator-0").own_store.put(file_key(digest), b"something else")
    trainer = service(network.participant("trainer"), model)
    assert trainer.run(threading.Event(), windows=1) == 1


def test_a_group_that_validators_accepted_falsely_is_dropped_with_its_findings(network: LearningNetwork, model: Path) -> None:
    mining = network.mining("miner-0")
    context = network.participant("miner-0").open_window(FIRST_WINDOW)
    loaded = mining.select_model(context)
    groups = mining.produce_groups(context, loaded, GROUPS)
    groups[1:2] = map_rollouts(zero_sketches)(groups[1:2])
    data = mining.pack(context, loaded, groups)
    for name in ("validator-0", "validator-1"):
        network.claim(name, {"miner-0": data})
    trainer = service(network.participant("trainer"), model)
    trainer.run(threading.Event(), windows=1)
    log = published_log(trainer.participant)
    assert 1 not in [member["group"] for member in log["groups"]]
    dropped = [entry for entry in log["dropped"] if entry["group"] == 1]
    assert {finding["check"] for finding in dropped[0]["findings"] if finding["outcome"] == "reject"} == {"proof"}


def test_a_window_without_accepted_files_is_passed_over_and_the_next_is_not_waited_for(
    network: LearningNetwork, model: Path
) -> None:
    network.judge()
    trainer = service(network.participant("trainer"), model)
    assert trainer.run(threading.Event(), windows=1) == 0
    assert trainer.state.journal is not None
    assert trainer.state.journal.decided == FIRST_WINDOW
    assert len(trainer.publisher.view().stored) == 1


def test_rollouts_that_are_too_old_are_not_learned_from(network: LearningNetwork, model: Path) -> None:
    network.mine_and_upload("miner-0")
    network.judge()
    network.advance_to(FIRST_WINDOW + (IntakeSettings().max_windows_old + 1) * 30)
    trainer = service(network.participant("trainer"), model)
    assert trainer.run(threading.Event(), windows=1) == 0


def test_stopping_while_waiting_decides_nothing(network: LearningNetwork, model: Path) -> None:
    trainer = service(network.participant("trainer"), model)
    stop = threading.Event()
    stop.set()
    trainer.run(stop, windows=1)
    assert trainer.state.journal is not None
    assert trainer.state.journal.decided == FIRST_WINDOW - 30


def test_weights_published_by_hand_are_what_the_trainer_goes_on_from(
    network: LearningNetwork, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "other")
    other = Masters.load(model, OptimiserSettings(learning_rate=0.0))
    with torch.no_grad():
        for parameter in other.module.parameters():
            parameter.mul_(1.5)
    other.module.to(torch.bfloat16).save_pretrained(tmp_path / "other")
    participant = network.participant("trainer")
    service(participant, model)
    manifest = publish_folder(participant, tmp_path / "other", ENVIRONMENT)
    assert (manifest.sequence, manifest.valid_from) == (1, FIRST_WINDOW + 30)
    resumed = service(participant, model)
    assert all(torch.equal(t, other.module.state_dict()[name]) for name, t in resumed.masters.published().items())
    with pytest.raises(ConfigurationError, match="environment"):
        publish_folder(participant, tmp_path / "other", SatEnvironment())


def _copy(network: LearningNetwork, root: Path) -> Participant:
    """The trainer of a copy of the network, as a new process would open it."""
    shutil.copytree(network.root, root)
    chain = LocalChain.open(root / "chain.sqlite")
    return Participant(
        params=network.params,
        chain=chain,
        directory=FilesystemDirectory(root / "buckets", "bucket-trainer", clock=chain.now_ms),
        beacon=network.beacon,
        signer=network.signers["trainer"],
        cache_dir=root / "cache" / "trainer",
        state_dir=root / "state" / "trainer",
    )


RENAMES = [(os, "replace"), (os, "rename"), (os, "link")]


def _run_one_window(participant: Participant, model: Path) -> None:
    service(participant, model).run(threading.Event(), windows=1)


def test_killed_anywhere_it_learns_from_the_window_once_and_ends_with_the_same_bits(
    network: LearningNetwork, model: Path, tmp_path: Path
) -> None:
    network.mine_and_upload("miner-0")
    network.judge()
    straight = service(_copy(network, tmp_path / "straight"), model)
    straight.run(threading.Event(), windows=1)
    expected = straight.publisher.view().stored[-1].manifest
    steps = 0
    while True:
        participant = _copy(network, tmp_path / f"kill-{steps}")
        killed = killed_at(steps, RENAMES, partial(_run_one_window, participant, model))
        again = service(participant, model)
        assert again.run(threading.Event(), windows=1) == 1, steps
        manifests = [item.manifest for item in again.publisher.view().stored]
        assert [manifest.window for manifest in manifests] == [0, FIRST_WINDOW], steps
        assert manifests[-1].digest == expected.digest, steps
        assert published_log(participant) == published_log(straight.participant), steps
        assert again.state.journal is not None
        assert (again.state.journal.learned, again.state.journal.pending) == (1, ())
        if not killed:
            break
        steps += 1
    assert steps > 5


def test_a_cache_deleted_between_two_windows_changes_no_verdict_checkpoint_or_weight(
    network: LearningNetwork, model: Path, tmp_path: Path
) -> None:
    """Two windows, with every cache of every role deleted in between and without; state alone is what counts."""
    shutil.copytree(network.root, tmp_path / "kept")
    outcomes = []
    for root, delete in ((network.root, True), (tmp_path / "kept", False)):
        network.root = root
        network.chain = LocalChain.open(root / "chain.sqlite")
        outcomes.append(_two_windows(network, model, delete_caches=delete))
    assert outcomes[0] == outcomes[1]


def _two_windows(network: LearningNetwork, model: Path, *, delete_caches: bool) -> list[object]:
    """What became of two windows: verdicts and weights, and the weights' roots of every checkpoint."""
    seen: list[object] = []
    for number in range(2):
        window = Window(FIRST_WINDOW + 30 * number)
        network.advance_to(window + 1)
        network.mine_and_upload("miner-0", window=window)
        for body in network.judge(window):
            seen += [(miner.status, miner.unique_valid, miner.declared) for miner in body.miners]
            seen.append(dict(body.weights))
        trainer = service(network.participant("trainer"), model)
        trainer.run(threading.Event(), windows=number + 1)
        seen += [item.manifest.weights_root.hex() for item in trainer.publisher.view().stored]
        if delete_caches:
            shutil.rmtree(network.root / "cache")
    return seen
