"""The next checkpoint is ready before it is needed, and nobody is worse off where it could not be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.checkpoints import ahead as module
from grail_core.checkpoints.ahead import CheckpointAhead
from grail_core.checkpoints.fetch import materialise
from grail_core.errors import CheckpointError, StorageError
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_core.storage.filesystem import FilesystemStore
from tooling.testing.checkpoints import WeightsTrainer, bucket_of, holds_weights


class Preparing:
    """A real fetch from a real bucket, which a test may hold up or break."""

    def __init__(self, root: Path) -> None:
        store = FilesystemStore(root, "bucket")
        self.trainer = WeightsTrainer(store, root / "trainer")
        self.bucket = bucket_of(store, root / "reader")
        self.begun = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.failures: list[Exception] = []
        self.made: list[tuple[int, str]] = []  # sequence, thread
        self.told: dict[int, CheckpointManifest] = {}
        self.asked = threading.Semaphore(0)

    def prepare(self, manifest: CheckpointManifest) -> Path:
        self.begun.release()
        self.may_go_on.wait()
        if self.failures:
            raise self.failures.pop(0)
        folder = materialise(manifest, self.bucket)
        self.made.append((manifest.sequence, threading.current_thread().name))
        return folder

    def valid_at(self, window: Window) -> CheckpointManifest:
        self.asked.release()
        if window not in self.told:
            raise CheckpointError("no checkpoint is valid there yet")
        return self.told[window]


@pytest.fixture
def preparing(tmp_path: Path) -> Preparing:
    return Preparing(tmp_path)


@pytest.fixture
def ahead(preparing: Preparing) -> Iterator[CheckpointAhead[Path]]:
    made: CheckpointAhead[Path] = CheckpointAhead(preparing.prepare, preparing.valid_at, poll_seconds=0.001)
    yield made
    preparing.may_go_on.set()
    made.close()


def test_what_was_asked_for_ahead_is_taken_without_work(preparing: Preparing, ahead: CheckpointAhead[Path]) -> None:
    preparing.may_go_on.clear()
    ahead.fetch(preparing.trainer.publish(0))
    preparing.begun.acquire()
    preparing.may_go_on.set()
    folder = ahead.take(preparing.trainer.head())  # waits for the one that has begun
    assert holds_weights(folder, 0)
    assert ahead.take(preparing.trainer.head()) == folder
    assert preparing.made == [(0, "checkpoint-ahead")]


def test_what_nobody_asked_for_ahead_is_made_where_it_is_needed(preparing: Preparing, ahead: CheckpointAhead[Path]) -> None:
    assert holds_weights(ahead.take(preparing.trainer.publish(0)), 0)
    assert preparing.made == [(0, threading.current_thread().name)]


def test_another_checkpoint_is_not_waited_for(preparing: Preparing, ahead: CheckpointAhead[Path]) -> None:
    first, second = preparing.trainer.publish(0), preparing.trainer.publish(1)
    preparing.may_go_on.clear()
    ahead.fetch(second)
    preparing.begun.acquire()
    taken: list[Path] = []
    taking = threading.Thread(target=lambda: taken.append(ahead.take(first)))
    taking.start()
    preparing.begun.acquire()  # both are at it
    preparing.may_go_on.set()
    taking.join()
    assert holds_weights(taken[0], 0)
    assert holds_weights(ahead.take(second), 1)


def test_a_failure_ahead_is_told_once_and_tried_again(
    preparing: Preparing, ahead: CheckpointAhead[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, Any]] = []
    monkeypatch.setattr(module.log, "event", lambda name, **fields: events.append((name, fields.get("reason"))))
    preparing.failures = [StorageError("503"), StorageError("503"), OSError("no such device")]
    ahead.fetch(preparing.trainer.publish(0))
    for _ in range(4):
        preparing.begun.acquire()
    assert holds_weights(ahead.take(preparing.trainer.head()), 0)
    assert [name for name, _ in events] == ["checkpoint_ahead_failed", "checkpoint_ahead_failed", "checkpoint_ahead"]
    assert events[0][1] == "503"
    assert events[1][1].startswith("OSError")


def test_who_needs_it_meets_the_error(preparing: Preparing, ahead: CheckpointAhead[Path]) -> None:
    preparing.failures = [CheckpointError("a tensor is wrong")]
    manifest = preparing.trainer.publish(0)
    with pytest.raises(CheckpointError, match="a tensor is wrong"):
        ahead.take(manifest)
    assert holds_weights(ahead.take(manifest), 0)


def test_a_checkpoint_is_made_ready_as_soon_as_it_is_known_for_a_window(
    preparing: Preparing, ahead: CheckpointAhead[Path]
) -> None:
    first, second = preparing.trainer.publish(0), preparing.trainer.publish(1)
    ahead.follow(Window(90))
    for _ in range(3):
        preparing.asked.acquire()  # nothing there yet; it keeps looking
    preparing.told[90] = first
    preparing.begun.acquire()
    preparing.told[90] = second  # the trainer was late, and in time all the same
    preparing.begun.acquire()
    assert holds_weights(ahead.take(second), 1)
    assert {thread for _, thread in preparing.made} == {"checkpoint-ahead"}


def test_two_are_kept_and_no_more(preparing: Preparing, ahead: CheckpointAhead[Path]) -> None:
    manifests = [preparing.trainer.publish(number) for number in range(3)]
    for manifest in manifests:
        ahead.take(manifest)
    assert list(ahead.ready()) == [manifest.digest for manifest in manifests[1:]]
    ahead.forget(manifests[2].digest)
    assert list(ahead.ready()) == [manifests[1].digest]
