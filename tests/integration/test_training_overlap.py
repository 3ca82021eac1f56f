"""Learning goes on while a checkpoint is on its way, and nothing that one of the two works on is changed by the other."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.errors import CheckpointError, StorageError
from grail_core.participant import waiting
from grail_core.protocol.types import Window
from grail_core.storage.layout import MANIFEST_PREFIX, training_log_key
from grail_trainer import service as trainer_service
from grail_trainer.data import intake
from grail_trainer.hyper_parameters import IntakeSettings
from grail_trainer.publishing import background
from grail_trainer.service import TrainerService
from grail_trainer.steps import MAX_PENDING, TrainerStage, stage_of
from tooling.testing.faults import events
from tooling.testing.killing import killed_at
from tooling.testing.learning_network import SETTINGS, LearningNetwork, learning_model, published_log, service
from tooling.testing.small_network import FIRST_WINDOW

WINDOWS = [Window(FIRST_WINDOW + 30 * number) for number in range(3)]
REFUSED = StorageError("503")
LONG = 120.0
"""Seconds after which what never comes fails a test and does not hang it."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (waiting, background):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0)
    monkeypatch.setattr(intake, "MIN_PAUSE_SECONDS", 0)
    monkeypatch.setattr(intake, "seconds_of", lambda *_: 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, model: Path) -> LearningNetwork:
    """Three windows of one miner, mined by the first checkpoint and judged; nothing is learned yet."""
    network = LearningNetwork(tmp_path_factory.mktemp("network"), model=model, miners=1)
    for window in WINDOWS:
        network.advance_to(window + 1)
        network.mine_and_upload("miner-0", range(2), window)
        network.judge(window)
    return network


@pytest.fixture
def network(judged: LearningNetwork, tmp_path: Path) -> LearningNetwork:
    return copy_of(judged, tmp_path / "network")


def copy_of(network: LearningNetwork, root: Path) -> LearningNetwork:
    shutil.copytree(network.root, root)
    other = object.__new__(LearningNetwork)
    other.__dict__.update(network.__dict__)
    other.root, other.chain = root, LocalChain.open(root / "chain.sqlite")
    return other


def trainer_of(network: LearningNetwork, model: Path) -> TrainerService:
    return service(network.participant("trainer"), model)


def roots(trainer: TrainerService) -> dict[int, str]:
    """Of the weights that were published of each window."""
    return {item.manifest.window: item.manifest.weights_root.hex() for item in trainer.publisher.view().stored}


def before_each_put(trainer: TrainerService, monkeypatch: pytest.MonkeyPatch, look: Callable[[str], None]) -> None:
    store = trainer.participant.own_store
    put = store.put

    def looked_at(key: str, data: bytes, **options: Any) -> Any:
        look(key)
        return put(key, data, **options)

    monkeypatch.setattr(store, "put", looked_at)


def after_each_batch(monkeypatch: pytest.MonkeyPatch, act: Callable[[Window], None]) -> None:
    """`act` is called once a window's groups are verified, before anything is learned from them."""
    build = trainer_service.build_batch

    def built(files: Any, read: Any, context: Any, *arguments: Any, **options: Any) -> Any:
        batch = build(files, read, context, *arguments, **options)
        act(context.window)
        return batch

    monkeypatch.setattr(trainer_service, "build_batch", built)


@pytest.fixture(scope="module")
def straight(judged: LearningNetwork, model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Roots of the weights after each window, learned from and published one after the other with nothing beside it."""
    trainer = trainer_of(copy_of(judged, tmp_path_factory.mktemp("straight") / "network"), model)
    for number in range(len(WINDOWS)):
        trainer.run(threading.Event(), windows=number + 1)
    return [roots(trainer)[window] for window in WINDOWS]


def test_the_next_window_is_verified_and_learned_from_while_a_checkpoint_is_on_its_way(
    network: LearningNetwork, model: Path, straight: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first upload ends only after the second window was learned from: its weights are those of the first all the same."""
    trainer, learned = trainer_of(network, model), threading.Event()
    uploads: list[bool] = []

    def held_up(key: str) -> None:
        if not uploads:
            uploads.append(learned.wait(LONG))

    before_each_put(trainer, monkeypatch, held_up)
    learn = trainer_service.learn_window

    def learning(*arguments: Any, **options: Any) -> Any:
        result = learn(*arguments, **options)
        if options["window"] == WINDOWS[1]:
            learned.set()
        return result

    monkeypatch.setattr(trainer_service, "learn_window", learning)
    # A checkpoint that follows at once joins the next; each is the last of its run here, so that all three are out.
    monkeypatch.setattr(background.BackgroundPublisher, "_is_last", lambda self, window: True)
    with events() as names:
        assert trainer.run(threading.Event(), windows=3) == 3
    assert uploads == [True]
    assert names.count("window_trained") == 3
    found = roots(trainer)
    assert [found[window] for window in WINDOWS] == straight
    assert len(set(straight)) == 3
    for window in WINDOWS:
        log = published_log(trainer.participant, window)
        assert log["checkpoint"]["weights_root"] == found[window]
        assert {member["group"] for member in log["groups"]} <= {0, 1}  # the same ids in every window, each its own groups
        assert log["window"] == window


def test_what_a_reader_loads_is_what_the_manifest_of_a_held_up_upload_says(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, learned = trainer_of(network, model), threading.Event()
    before_each_put(trainer, monkeypatch, lambda key: None if learned.wait(LONG) else pytest.fail("nothing was learned"))
    learn = trainer_service.learn_window

    def learning(*arguments: Any, **options: Any) -> Any:
        result = learn(*arguments, **options)
        if options["window"] == WINDOWS[1]:
            learned.set()
        return result

    monkeypatch.setattr(trainer_service, "learn_window", learning)
    assert trainer.run(threading.Event(), windows=2) == 2
    reader = LiveCheckpoint(network.participant("miner-0").checkpoints)
    head = trainer.publisher.view().head
    assert head is not None
    state = reader.at(head).model.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in trainer.masters.published().items())


def test_a_store_that_is_away_stops_the_learning_after_two_windows_and_loses_none(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, third = trainer_of(network, model), threading.Event()
    stages: set[TrainerStage] = set()
    after_each_batch(monkeypatch, lambda window: third.set() if window == WINDOWS[2] else None)

    def away(key: str) -> None:
        stages.add(stage_of(trainer.state.journal))
        if not third.is_set():
            raise REFUSED
        assert len(trainer.state.pending) <= MAX_PENDING

    before_each_put(trainer, monkeypatch, away)
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.01)
    with events() as names:
        assert trainer.run(threading.Event(), windows=3) == 3
    assert TrainerStage.FULL in stages
    trained = [index for index, name in enumerate(names) if name == "window_trained"]
    assert len(trained) == 3
    assert "publish_failed" in names[: trained[0]]
    assert {training_log_key(window) for window in WINDOWS} <= {
        key for window in WINDOWS for key in [training_log_key(window)] if trainer.participant.own_store.head(key)
    }
    assert not trainer.state.pending


def test_a_trainer_that_ends_with_two_windows_to_publish_publishes_both_at_its_next_start(
    network: LearningNetwork, model: Path, straight: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, stop = trainer_of(network, model), threading.Event()

    def away(key: str) -> None:
        raise REFUSED

    with monkeypatch.context() as patch:
        before_each_put(trainer, patch, away)
        patch.setattr(background, "RETRY_SECONDS", 0.01)
        after_each_batch(patch, lambda window: stop.set() if window == WINDOWS[2] else None)
        trainer.run(stop, windows=3)
    assert [one.window for one in trainer.state.pending] == WINDOWS[:2]
    monkeypatch.setattr(background.BackgroundPublisher, "_is_last", lambda self, window: True)
    again = trainer_of(network, model)
    assert again.run(threading.Event(), windows=3) == 3
    assert [roots(again)[window] for window in WINDOWS] == straight


@pytest.mark.parametrize("times", [1, 2])
def test_publishing_that_breaks_in_an_unforeseen_way_is_begun_again_and_told(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    trainer, left = trainer_of(network, model), [times]

    def breaking(key: str) -> None:
        if key.startswith(MANIFEST_PREFIX) and left[0]:
            left[0] -= 1
            raise ZeroDivisionError

    before_each_put(trainer, monkeypatch, breaking)
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 1
    assert names.count("publish_failed") == times
    assert not trainer.state.pending


def test_publishing_that_stays_broken_ends_the_role_with_its_own_error_and_a_restart_goes_on(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(network, model)

    def breaking(key: str) -> None:
        raise ZeroDivisionError("of nobody's foreseeing")

    with monkeypatch.context() as patch:
        before_each_put(trainer, patch, breaking)
        with pytest.raises(ZeroDivisionError, match="foreseeing"):
            trainer.run(threading.Event())
    assert [one.window for one in trainer.state.pending][:1] == WINDOWS[:1]
    again = trainer_of(network, model)
    assert again.run(threading.Event(), windows=1) >= 1
    assert WINDOWS[0] in roots(again)


def test_a_sequence_that_is_not_this_trainers_ends_the_role_at_once(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(network, model)

    def contradicts(*_: Any, **__: Any) -> Any:
        raise CheckpointError("another checkpoint stands here")

    monkeypatch.setattr(trainer.publisher, "publish_trained", contradicts)
    with events() as names, pytest.raises(CheckpointError, match="another checkpoint"):
        trainer.run(threading.Event(), windows=1)
    assert "publish_failed" not in names


def test_rollouts_that_grew_old_while_they_were_verified_are_not_learned_from(
    network: LearningNetwork, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Age counts when they would be used, not when the window was taken up."""
    trainer = trainer_of(network, model)
    before = trainer.masters.tensors()
    after_each_batch(monkeypatch, lambda window: network.advance_to(trainer.verdicts.too_late(window)))
    with events() as names:
        assert trainer.run(threading.Event(), windows=1) == 0
    assert names.count("window_not_trained") == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.masters.tensors().items())
    assert trainer.state.journal is not None
    assert trainer.state.journal.decided == WINDOWS[0]


@pytest.mark.parametrize(("most", "learned"), [(2, 0), (3, 1)])
def test_how_old_is_too_old_is_a_setting(network: LearningNetwork, model: Path, most: int, learned: int) -> None:
    """It is three windows and eight blocks after the first began."""
    settings = dataclasses.replace(SETTINGS, intake=IntakeSettings(max_windows_old=most))
    trainer = service(network.participant("trainer"), model, settings)
    assert network.chain.current_block() == FIRST_WINDOW + 98
    assert trainer.run(threading.Event(), windows=1) == learned


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_killed_anywhere_while_one_window_is_published_and_the_next_learned_from_both_end_with_the_same_bits(
    network: LearningNetwork, model: Path, straight: list[str], tmp_path: Path
) -> None:
    """At every rename of either thread, whichever comes first in that run."""
    calls = [(os, "replace"), (os, "rename"), (os, "link")]
    step, pending = 0, set[int]()
    while True:
        one = copy_of(network, tmp_path / f"kill-{step}")
        killed = killed_at(step, calls, lambda one=one: trainer_of(one, model).run(threading.Event(), windows=2))
        again = trainer_of(one, model)
        pending.add(len(again.state.pending))
        assert again.run(threading.Event(), windows=2) == 2, step
        assert [roots(again)[window] for window in WINDOWS[:2]] == straight[:2], step
        assert again.state.journal is not None
        assert (again.state.journal.learned, again.state.journal.pending) == (2, ()), step
        logs = [published_log(again.participant, window) for window in WINDOWS[:2]]
        assert logs[0]["state_after"] == logs[1]["state_before"], step
        if not killed:
            break
        step += 1
    assert step > 10
    assert pending >= {0, 1}
