"""A manifest before its large objects: readers go another way meanwhile, and a killed publisher pays what it owes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from grail_core.checkpoints.due import DueObjects, complete
from grail_core.checkpoints.fetch import materialise
from grail_core.checkpoints.publish import ANCHOR_EVERY, ReadyDelta, publish
from grail_core.errors import CheckpointError, MissingObjectError
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest
from grail_core.storage.filesystem import FilesystemStore
from tooling.testing.checkpoints import (
    MODEL_FILES,
    PARAMS,
    TRAINER,
    WeightsTrainer,
    bucket_of,
    first_window,
    holds_weights,
    parts_of,
    weights,
)

HEAD = ANCHOR_EVERY  # the first anchor after the network's first checkpoint


def trainer_in(root: Path) -> WeightsTrainer:
    return WeightsTrainer(FilesystemStore(root, "trainer"), root / "trainer-cache")


def fetch(root: Path, manifest: CheckpointManifest, cache: str) -> Path:
    return materialise(manifest, bucket_of(FilesystemStore(root, "trainer", read_only=True), root / cache))


def missing(root: Path, manifest: CheckpointManifest) -> set[str]:
    store = FilesystemStore(root, "trainer")
    return {ref.key for ref in manifest.objects().values() if store.head(ref.key) is None}


@pytest.fixture(scope="module")
def owing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain up to an anchor of which the manifest alone is there."""
    root = tmp_path_factory.mktemp("owing")
    for number in range(HEAD):
        trainer_in(root).publish(number)
    replace(trainer_in(root), objects_after=True).publish(HEAD)
    return root


def copied(owing: Path, root: Path) -> tuple[Path, CheckpointManifest]:
    shutil.copytree(owing, root)
    return root, trainer_in(root).head()


def test_a_late_joiner_takes_the_anchor_before_until_the_new_ones_objects_are_up(owing: Path, tmp_path: Path) -> None:
    root, head = copied(owing, tmp_path / "bucket")
    large = {part.key for delta in head.deltas for part in delta.parts} | {shard.object.key for shard in head.shards}
    assert head.shards
    assert missing(root, head) == large
    with pytest.raises(MissingObjectError, match="an object that the manifest names is not in the store"):
        fetch(root, head, "too-early")
    due = DueObjects(bucket_of(trainer_in(root).store, root / "trainer-cache"))
    parent = next(delta for delta in head.deltas if delta.base_sequence == HEAD - 1)
    for part in parent.parts:
        data = due.part(part)
        assert data is not None
        trainer_in(root).store.put(part.key, data)
    assert holds_weights(fetch(root, head, "early"), HEAD)
    assert complete(bucket_of(trainer_in(root).store, root / "trainer-cache")) == len(large) - len(parent.parts)
    assert not missing(root, head)
    assert holds_weights(fetch(root, head, "later"), HEAD)
    assert complete(bucket_of(trainer_in(root).store, root / "trainer-cache")) == 0


def test_a_publisher_killed_while_it_pays_goes_on_where_it_was(owing: Path, tmp_path: Path) -> None:
    at = 1
    while True:
        root, head = copied(owing, tmp_path / str(at))
        pay = partial(complete, bucket_of(trainer_in(root).store, root / "trainer-cache"))
        child = os.fork()
        if child == 0:
            killed_at_object(pay, at)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert killed in (0, 137)
        assert bool(missing(root, head)) == bool(killed)
        complete(bucket_of(trainer_in(root).store, root / "trainer-cache"))
        assert not missing(root, head)
        trainer_in(root).publish(HEAD + 1)
        stored = {info.key for info in trainer_in(root).store.list("grail/objects/")}
        assert stored == {ref.key for item in trainer_in(root).view().stored for ref in item.manifest.objects().values()}
        if not killed:
            break
        at += 1
    assert at > 2
    assert not DueObjects(bucket_of(trainer_in(root).store, root / "trainer-cache")).owed()


def killed_at_object(pay: partial[int], at: int) -> None:
    """In a child: end, without any clean-up, just before the `at`-th object is uploaded."""
    count, put = 0, FilesystemStore.put

    def counted(*arguments: object, **named: object) -> object:
        nonlocal count
        count += 1
        if count == at:
            os._exit(137)
        return put(*arguments, **named)  # type: ignore[arg-type]

    FilesystemStore.put = counted  # type: ignore[method-assign,assignment]
    code = 1
    try:
        pay()
        code = 0
    finally:
        os._exit(code)


def test_what_was_put_aside_for_a_manifest_that_never_came_goes(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    first = trainer.publish(0)
    bucket = bucket_of(trainer.store, trainer.cache)
    due = DueObjects(bucket)
    part = due.keep(b"of a publisher that died before its manifest")
    due.owe(first)
    due.owe(replace(first, body=b"never put"))
    due.sweep([first])
    assert due.owed() == [first.digest]
    assert due.part(part) is None


def test_a_ready_delta_is_offered_and_readers_who_do_not_know_it_go_on(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    first = trainer.publish(0)
    bucket = bucket_of(trainer.store, trainer.cache)
    parts = replace(parts_of(bucket.network_id, 30, first_window(1)))
    ready = ReadyDelta(first, "unheard", (b"one", b"two"))
    manifest = publish(bucket, parts, weights(1), MODEL_FILES, TRAINER, PARAMS, ready=[ready])
    assert [(d.profile, d.size) for d in manifest.deltas[:1]] == [("unheard", 6)]
    assert [d.profile for d in manifest.deltas[1:]] == ["small"]
    assert trainer.store.get(manifest.deltas[0].parts[1].key, max_bytes=9) == b"two"
    assert holds_weights(fetch(tmp_path, manifest, "reader"), 1)
    stranger = replace(first, network_id=Digest(bytes(32)))
    with pytest.raises(CheckpointError, match="which is not in this bucket"):
        publish(
            bucket,
            replace(parts, window=first_window(1), valid_from=first_window(2)),
            weights(2),
            MODEL_FILES,
            TRAINER,
            PARAMS,
            ready=[ReadyDelta(stranger, "unheard", (b"x",))],
        )
