"""Two of one hotkey on two disks: the second ends with the key and the time; nothing of one's own is taken for another's."""

from __future__ import annotations

import dataclasses
import re
import shutil
import threading
from pathlib import Path

import pytest

from grail_core.participant import waiting
from grail_core.participant.another import WrittenByAnotherError
from grail_core.participant.participant import Participant
from grail_core.protocol.types import Window
from grail_core.storage.layout import manifest_key, verdict_key
from grail_trainer.data import intake
from grail_trainer.publishing import background
from grail_trainer.service import TrainerService
from grail_trainer.state import LostStateError
from tooling.testing.faults import events
from tooling.testing.learning_network import ENVIRONMENT, SETTINGS, LearningNetwork, learning_model, service
from tooling.testing.small_network import FIRST_WINDOW

SECOND_WINDOW = Window(FIRST_WINDOW + 30)
PLACE = Window(FIRST_WINDOW + 60)  # where the first window's checkpoint comes into force
A_TIME = re.compile(r"stored at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)
    monkeypatch.setattr(background, "RETRY_SECONDS", 0)
    monkeypatch.setattr(intake, "MIN_PAUSE_SECONDS", 0)
    monkeypatch.setattr(intake, "seconds_of", lambda *_: 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A network's folder in which the first window is mined and judged."""
    root = tmp_path_factory.mktemp("judged")
    mine_and_judge(LearningNetwork(root, model=model, miners=1), FIRST_WINDOW)
    return root


@pytest.fixture
def network(judged: Path, tmp_path: Path) -> LearningNetwork:
    shutil.copytree(judged, tmp_path / "network")
    return LearningNetwork.reopened(tmp_path / "network", miners=1, environment=ENVIRONMENT)


def mine_and_judge(network: LearningNetwork, window: Window) -> None:
    network.advance_to(window + 1)
    network.mine_and_upload("miner-0", window=window)
    network.judge(window)


def on_disk(network: LearningNetwork, disk: str) -> Participant:
    """The trainer, with its state on another disk than others of this hotkey."""
    state, cache = network.root / disk, network.root / f"cache-{disk}"
    return dataclasses.replace(network.participant("trainer"), state_dir=state, cache_dir=cache)


def places(trainer: TrainerService) -> list[int]:
    return [item.manifest.valid_from for item in trainer.publisher.participant.own_checkpoints.refresh().stored]


OTHERWISE = dataclasses.replace(SETTINGS, optimiser=dataclasses.replace(SETTINGS.optimiser, learning_rate=1e-5))


def test_the_second_of_two_trainers_ends_with_the_key_and_the_time(network: LearningNetwork, model: Path) -> None:
    first, second = service(on_disk(network, "one"), model), service(on_disk(network, "two"), model, OTHERWISE)
    assert first.run(threading.Event(), windows=1) == 1
    with pytest.raises(WrittenByAnotherError) as caught:
        second.run(threading.Event(), windows=1)
    assert caught.value.exit_code == 18
    assert caught.value.where == manifest_key(PLACE)
    assert A_TIME.search(caught.value.what)
    assert places(first) == [FIRST_WINDOW, PLACE], "nobody signed two manifests of one number"
    assert second.state.pending, "what it learned stays in its journal"


def test_a_state_older_than_the_bucket_is_asked_about_and_left_with_a_word(network: LearningNetwork, model: Path) -> None:
    assert service(on_disk(network, "one"), model).run(threading.Event(), windows=1) == 1
    shutil.copytree(network.root / "one", network.root / "two")
    mine_and_judge(network, SECOND_WINDOW)
    assert service(on_disk(network, "two"), model).run(threading.Event(), windows=2) == 2
    with pytest.raises(LostStateError) as caught:
        service(on_disk(network, "one"), model)
    assert caught.value.exit_code == 3
    assert "older than what the bucket has" in caught.value.what
    assert manifest_key(Window(PLACE + 30)) in caught.value.what
    assert A_TIME.search(caught.value.what)
    assert "--without-state" in caught.value.hint
    other = dataclasses.replace(SETTINGS, optimiser=dataclasses.replace(SETTINGS.optimiser, master_dtype="bfloat16-stochastic"))
    assert other.optimiser != SETTINGS.optimiser
    with events() as names:
        resumed = service(on_disk(network, "one"), model, other, without_state=True)
    assert names.count("training_state_lost") == 1
    assert resumed.state.journal is not None
    assert (resumed.state.journal.decided, resumed.state.journal.state_file) == (SECOND_WINDOW, None)


def test_a_manifest_whose_put_was_answered_by_nobody_is_its_own_and_not_anothers(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the put and the journal: it is known by its window and its weights."""
    from grail_core.storage.base import NoAnswerError
    from grail_core.storage.filesystem import FilesystemStore

    trainer, put, lost = service(on_disk(network, "one"), model), FilesystemStore.put, list[str]()

    def unanswered(store: FilesystemStore, key: str, *rest: object, **named: object) -> object:
        info = put(store, key, *rest, **named)  # type: ignore[arg-type]
        if key == manifest_key(PLACE) and not lost:
            lost.append(key)
            raise NoAnswerError("the answer was lost", where=key)
        return info

    monkeypatch.setattr(FilesystemStore, "put", unanswered)
    assert trainer.run(threading.Event(), windows=1) == 1
    assert lost
    assert places(trainer) == [FIRST_WINDOW, PLACE]


def test_a_place_that_is_taken_by_something_else_costs_a_window_and_not_the_trainer(
    network: LearningNetwork, model: Path
) -> None:
    trainer = service(on_disk(network, "one"), model)
    trainer.participant.own_store.put(manifest_key(PLACE), b"this is no manifest")
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    assert names.count("place_taken") == 1
    assert places(trainer) == [FIRST_WINDOW, PLACE + 30]


def test_a_lost_training_state_is_asked_about_and_a_forgotten_one_is_not(network: LearningNetwork, model: Path) -> None:
    participant = on_disk(network, "one")
    trainer = service(participant, model)
    assert trainer.run(threading.Event(), windows=1) == 1
    folder = trainer.state.folder
    trainer.state.forget()
    assert service(participant, model).state.journal is not None
    shutil.rmtree(folder)
    with pytest.raises(LostStateError) as caught:
        service(participant, model)
    assert caught.value.exit_code == 3
    assert "--without-state" in caught.value.hint
    assert not (folder / "journal.json").exists(), "a question changes nothing"
    assert service(participant, model, without_state=True).state.journal is not None


def test_the_second_of_two_validators_ends_with_the_key_and_the_time(network: LearningNetwork) -> None:
    network.advance_to(SECOND_WINDOW + 1)
    second = network.validator("validator-0", state_dir=network.root / "elsewhere")
    assert second._started_ms == network.chain.now_ms()
    mine_and_judge(network, SECOND_WINDOW)  # by this hotkey's other validator, among others
    with pytest.raises(WrittenByAnotherError) as caught:
        second.advance(SECOND_WINDOW, threading.Event())
    assert caught.value.where == verdict_key(SECOND_WINDOW)
    assert A_TIME.search(caught.value.what)
    later = network.validator("validator-0", state_dir=network.root / "elsewhere")
    later.publish_the_rest(threading.Event())  # a start after it finds the verdict there, and keeps to it
    assert later.ledger.unfinished() == []
