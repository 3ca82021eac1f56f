"""What may fail around a trainer, and what it costs: no window that was learned from, no process, and no readable log."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.checkpoints.publish import publish
from grail_core.errors import ChainError, DiskFullError, StorageError
from grail_core.participant import waiting
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_core.storage.layout import training_log_key
from grail_trainer.data import intake
from grail_trainer.learning import guarded
from grail_trainer.learning.update import update
from grail_trainer.publishing import background, publication
from grail_trainer.service import TrainerService
from tooling.testing.faults import Outcome, always, events, faulty, first
from tooling.testing.learning_network import LearningNetwork, learning_model, published_log, service
from tooling.testing.small_network import FIRST_WINDOW

SECOND_WINDOW = Window(FIRST_WINDOW + 30)
NO_ANSWER = ChainError("no connection")
REFUSED = StorageError("503")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)
    monkeypatch.setattr(background, "RETRY_SECONDS", 0)
    monkeypatch.setattr(intake, "MIN_PAUSE_SECONDS", 0)
    monkeypatch.setattr(intake, "seconds_of", lambda *_: 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


@pytest.fixture
def network(tmp_path: Path, model: Path) -> LearningNetwork:
    """Its first window is mined and judged."""
    root = tmp_path / "network"
    root.mkdir()
    network = LearningNetwork(root, model=model, miners=1)
    mine_and_judge(network, FIRST_WINDOW)
    return network


def mine_and_judge(network: LearningNetwork, window: Window) -> None:
    network.advance_to(window + 1)
    network.mine_and_upload("miner-0", window=window)
    network.judge(window)


def trainer_of(network: LearningNetwork, model: Path, **outcomes: Outcome) -> TrainerService:
    """`outcomes`: what the chain does not answer."""
    chain: Any = faulty(network.chain, **outcomes)
    return service(dataclasses.replace(network.participant("trainer"), chain=chain), model)


def valid_from(trainer: TrainerService) -> list[int]:
    return [item.manifest.valid_from for item in trainer.publisher.view().stored]


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_store_that_refuses_a_checkpoint_is_asked_again(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(network, model)
    store = trainer.participant.own_store
    monkeypatch.setattr(store, "put", faulty(store, put=first(3, REFUSED)).put)
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    assert names.count("publish_failed") == 3
    assert valid_from(trainer) == [FIRST_WINDOW, FIRST_WINDOW + 60]
    assert not trainer.state.pending


def test_a_chain_that_fails_while_a_place_is_looked_for_is_asked_again(network: LearningNetwork, model: Path) -> None:
    def while_publishing(_: int) -> BaseException | None:
        return NO_ANSWER if trainer.state.pending and failures and failures.pop() else None

    failures = [True, True]
    trainer = trainer_of(network, model, current_block=while_publishing)
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    assert names.count("publish_failed") == 2
    assert valid_from(trainer) == [FIRST_WINDOW, FIRST_WINDOW + 60]


def test_a_trainer_stopped_while_it_cannot_publish_publishes_at_its_next_start(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, stop = trainer_of(network, model), threading.Event()
    store, refused = trainer.participant.own_store, always(REFUSED)

    def refused_until_stopped(call: int) -> BaseException | None:
        if call == 3:
            stop.set()
        return refused(call)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", faulty(store, put=refused_until_stopped).put)
        with events() as names:
            trainer.run(stop)
    assert names.count("publish_failed") == 3
    assert trainer.state.pending
    assert valid_from(trainer) == [FIRST_WINDOW]
    again = trainer_of(network, model)
    assert again.run(threading.Event(), windows=1) == 1
    assert valid_from(again) == [FIRST_WINDOW, FIRST_WINDOW + 60]


def test_a_full_disk_ends_the_trainer_and_keeps_what_it_learned(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(network, model)
    store = trainer.participant.own_store
    monkeypatch.setattr(store, "put", faulty(store, put=always(DiskFullError("no space is left"))).put)
    with pytest.raises(DiskFullError):
        trainer.run(threading.Event(), windows=1)
    assert trainer.state.pending


def test_the_log_of_a_checkpoint_that_is_out_needs_no_chain(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how the weights that everybody has came to be; where they go is decided already."""
    down, silent = threading.Event(), always(NO_ANSWER)
    trainer = trainer_of(network, model, current_block=lambda call: silent(call) if down.is_set() else None)
    store = trainer.participant.own_store
    put = store.put

    def the_log_fails_once(key: str, data: bytes, **options: Any) -> Any:
        if key == training_log_key(FIRST_WINDOW) and not down.is_set():
            down.set()
            raise REFUSED
        return put(key, data, **options)

    monkeypatch.setattr(store, "put", the_log_fails_once)
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    assert names.count("publish_failed") == 1
    assert not trainer.state.pending
    assert published_log(trainer.participant)["checkpoint"]["valid_from"] == FIRST_WINDOW + 60


# --- where a checkpoint goes ------------------------------------------------------------------------------------------


def test_the_last_windows_weights_take_the_next_free_place(network: LearningNetwork, model: Path) -> None:
    """Nothing will carry them later. Both windows are learned from late: the first takes the place of the second."""
    mine_and_judge(network, SECOND_WINDOW)
    trainer = trainer_of(network, model)
    assert trainer.run(threading.Event(), windows=2) == 2
    assert valid_from(trainer) == [FIRST_WINDOW, SECOND_WINDOW + 60, SECOND_WINDOW + 90]
    head = trainer.publisher.view().head
    assert head is not None
    assert head.window == SECOND_WINDOW
    assert trainer.state.journal is not None
    kept = [path.name for path in trainer.state.folder.glob("state-*")]
    assert kept == [trainer.state.journal.state_file]  # that of the first window is of no use any more


def test_a_checkpoint_is_given_the_time_that_the_last_one_took(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chain time counts: publishing takes 30 s of it here, 20 blocks."""
    trainer = trainer_of(network, model)
    chain, passed_ms = trainer.participant.chain, [0]
    now_ms = chain.now_ms

    def slow(*arguments: Any) -> CheckpointManifest:
        manifest = publish(*arguments)
        passed_ms.append(30_000)
        return manifest

    monkeypatch.setattr(publication, "publish", slow)
    monkeypatch.setattr(chain, "now_ms", lambda: now_ms() + (passed_ms.pop() if len(passed_ms) > 1 else 0))
    assert trainer.run(threading.Event(), windows=1) == 1
    mine_and_judge(network, SECOND_WINDOW)
    assert trainer.run(threading.Event(), windows=2) == 2
    # At block 98 a checkpoint that is there at once is in time for the next window, and one that takes 20 blocks is not.
    assert valid_from(trainer) == [FIRST_WINDOW, FIRST_WINDOW + 60, SECOND_WINDOW + 90]


# --- learning ---------------------------------------------------------------------------------------------------------


def test_an_update_that_ends_in_no_number_is_taken_back(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(masters: Any, *arguments: Any, **options: Any) -> Any:
        statistics = update(masters, *arguments, **options)
        with torch.no_grad():
            next(masters.module.parameters()).view(-1)[0] = float("inf")
        return statistics

    monkeypatch.setattr(guarded, "update", diverging)
    trainer = trainer_of(network, model)
    before = trainer.masters.tensors()
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    assert "update_undone" in names
    assert "training_alarm" in names
    after = {name: tensor for name, tensor in trainer.masters.tensors().items() if not name.startswith("scalar.")}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    former, latest = (item.manifest for item in trainer.publisher.view().stored)
    assert latest.weights_root == former.weights_root


@pytest.mark.parametrize("call", [1, 2], ids=["before the verdicts", "before the window is opened"])
def test_a_chain_that_fails_once_while_a_window_is_collected_is_asked_again(
    network: LearningNetwork, model: Path, call: int
) -> None:
    trainer = trainer_of(network, model, wait_for_block=lambda number: NO_ANSWER if number == call else None)
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    assert names.count("window_input_late") == 1
