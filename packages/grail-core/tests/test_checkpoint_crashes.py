"""A publisher or a reader killed between any two operations on store or disk leaves the old checkpoint or the new one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.due import DueObjects, complete
from grail_core.checkpoints.fetch import materialise
from grail_core.errors import StorageError
from grail_core.storage.filesystem import FilesystemStore
from tooling.testing.checkpoints import WeightsTrainer, bucket_of, holds_weights, weights

CHANGING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.utime", "os.chmod"}
KILLED = 137
EVERY_OR_SOME = [pytest.param(1, marks=pytest.mark.heavy), 4]
"""Kill at every operation (minutes on a busy disk), or at every fourth."""


def trainer_in(root: Path) -> WeightsTrainer:
    return WeightsTrainer(FilesystemStore(root, "trainer"), root / "trainer-cache")


def fetch_newest(root: Path) -> Path:
    return materialise(
        trainer_in(root).head(), bucket_of(FilesystemStore(root, "trainer", read_only=True), root / "reader-cache")
    )


def run_and_die(action: Callable[[], Any], at: int) -> bool:
    """Run `action` in a fork that ends, without any clean-up, just before its `at`-th change of the disk. False if it ended."""
    child = os.fork()
    if child == 0:
        count = 0

        def step() -> None:
            nonlocal count
            count += 1
            if count == at:
                os._exit(KILLED)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGING or writes:
                step()

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                step()
                return function(*arguments)

            return call

        for name in ("write", "pwrite", "fsync", "ftruncate"):
            setattr(os, name, counted(getattr(os, name)))
        sys.addaudithook(hook)
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), f"the child failed at step {at}"
    return code == KILLED


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint published and fetched; the kernels are compiled on the way."""
    root = tmp_path_factory.mktemp("started")
    trainer_in(root).publish(0)
    trainer_in(root).publish(1)
    fetch_newest(root)
    return root


def leftovers(cache: Path) -> list[str]:
    return [p.name for p in (cache / "checkpoints").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("stride", EVERY_OR_SOME)
def test_a_publisher_killed_anywhere_leaves_the_old_chain_or_the_new_one(started: Path, tmp_path: Path, stride: int) -> None:
    at, kills = 1 - stride, 0
    while True:
        at += stride
        root = tmp_path / str(at)
        shutil.copytree(started, root)
        if not run_and_die(partial(trainer_in(root).publish, 2), at):
            break
        kills += 1
        head = trainer_in(root).head()
        assert head.sequence in (1, 2)
        assert holds_weights(fetch_newest(root), head.sequence)
        manifest = trainer_in(root).publish(2)
        assert manifest.sequence == 2
        assert holds_weights(fetch_newest(root), 2)
        stored = {info.key for info in FilesystemStore(root, "trainer").list("grail/objects/")}
        assert stored == {ref.key for item in trainer_in(root).view().stored for ref in item.manifest.objects().values()}
        CheckpointCache(root / "trainer-cache").sweep()
        assert not leftovers(root / "trainer-cache")
        shutil.rmtree(root)
    assert kills > 40 // stride


def publish_late(root: Path) -> None:
    """Checkpoint 2 with its manifest first, then what it owes."""
    trainer = replace(trainer_in(root), objects_after=True)
    trainer.publish(2)
    complete(bucket_of(trainer.store, trainer.cache))


@pytest.mark.parametrize("stride", [EVERY_OR_SOME[0], 24])
def test_a_publisher_of_late_objects_killed_anywhere_pays_what_it_owes(started: Path, tmp_path: Path, stride: int) -> None:
    at, kills, owing = 1 - stride, 0, 0
    while True:
        at += stride
        root = tmp_path / str(at)
        shutil.copytree(started, root)
        if not run_and_die(partial(publish_late, root), at):
            break
        kills += 1
        owing += trainer_in(root).head().sequence == 2
        publish_late(root)
        assert holds_weights(fetch_newest(root), 2)
        stored = {info.key for info in FilesystemStore(root, "trainer").list("grail/objects/")}
        assert stored == {ref.key for item in trainer_in(root).view().stored for ref in item.manifest.objects().values()}
        assert not DueObjects(bucket_of(FilesystemStore(root, "trainer"), root / "trainer-cache")).owed()
        shutil.rmtree(root)
    assert kills > 40 // stride
    assert owing > 8 // stride


def test_a_publisher_that_comes_back_with_other_weights_leaves_no_orphans(started: Path, tmp_path: Path) -> None:
    at = 0
    while True:
        at += 5
        root = tmp_path / str(at)
        shutil.copytree(started, root)
        if not run_and_die(partial(trainer_in(root).publish, 2, weights(7)), at):
            break
        if trainer_in(root).head().sequence == 1:
            trainer_in(root).publish(2)
            stored = {info.key for info in FilesystemStore(root, "trainer").list("grail/objects/")}
            assert stored == {ref.key for item in trainer_in(root).view().stored for ref in item.manifest.objects().values()}
        shutil.rmtree(root)


@pytest.mark.parametrize("stride", EVERY_OR_SOME)
@pytest.mark.parametrize("held", [True, False], ids=["an ancestor is cached", "nothing is cached"])
def test_a_reader_killed_anywhere_has_a_whole_checkpoint_or_none(
    started: Path, tmp_path: Path, held: bool, stride: int
) -> None:
    origin = tmp_path / "origin"
    shutil.copytree(started, origin)
    trainer_in(origin).publish(2)
    if not held:
        shutil.rmtree(origin / "reader-cache")
    at, kills = 1 - stride, 0
    while True:
        at += stride
        root = tmp_path / str(at)
        shutil.copytree(origin, root)
        if not run_and_die(partial(fetch_newest, root), at):
            break
        kills += 1
        cache = CheckpointCache(root / "reader-cache")
        for digest in cache.entries():
            sequence = trainer_in(root).view().by_digest[digest].sequence
            assert holds_weights(cache.folder(digest), sequence)
        assert holds_weights(fetch_newest(root), 2)
        assert not leftovers(root / "reader-cache")
        assert not [p.name for p in cache.objects.iterdir() if p.suffix in (".part", ".ranges")]
        shutil.rmtree(root)
    assert kills > 20 // stride


def test_a_store_that_fails_at_any_request_loses_nothing(
    started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = {name: getattr(FilesystemStore, name) for name in ("put", "get", "head", "list")}
    for at in range(1, 200, 3):
        root = tmp_path / str(at)
        shutil.copytree(started, root)
        count = 0

        def failing(name: str, at: int = at) -> Callable[..., Any]:
            def call(self: FilesystemStore, *arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == at:
                    raise StorageError("the store does not answer", where=name)
                return origin[name](self, *arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in origin:
                patch.setattr(FilesystemStore, name, failing(name))
            try:
                trainer_in(root).publish(2)
                fetch_newest(root)
                return
            except StorageError:
                pass
        assert trainer_in(root).head().sequence in (1, 2)
        trainer_in(root).publish(2)
        assert holds_weights(fetch_newest(root), 2)
        shutil.rmtree(root)
    pytest.fail("publishing and fetching never got through")
