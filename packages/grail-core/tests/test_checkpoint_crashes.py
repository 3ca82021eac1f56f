"""A publisher or a reader killed between any two operations on store or disk leaves the old checkpoint or the new one."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor
from grail_core.checkpoints.fetch import materialise
from grail_core.checkpoints.manifests import ChainView, list_manifests
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.environment import EnvironmentSpec
from grail_core.errors import StorageError
from grail_core.keys import LocalSigner
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest, Window
from grail_core.storage.filesystem import FilesystemStore

NETWORK_ID = Digest(b"\x09" * 32)
TRAINER = LocalSigner.from_seed(b"\x05" * 32)
PARAMS = replace(LOCALNET, trainer_hotkey=TRAINER.hotkey)
FILES = {"config.json": json.dumps({"architectures": ["Qwen2ForCausalLM"]}).encode(), "tokenizer.json": b"{}"}
CHANGING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.utime", "os.chmod"}
KILLED = 137
EVERY_OR_SOME = [pytest.param(1, marks=pytest.mark.heavy), 4]
"""Kill at every operation (minutes on a busy disk), or at every fourth."""


def weights(seed: int) -> dict[str, RawTensor]:
    """Two bf16 tensors; consecutive seeds differ in a few weights."""
    bits = np.random.default_rng(0).integers(0, 2**16, 4096).astype(np.uint16)
    for number in range(1, seed + 1):
        where = np.random.default_rng(number).random(4096) < 0.02
        bits = bits ^ where.astype(np.uint16)
    layout = Layout(DTYPES["BF16"], (64, 32))
    return {"a": RawTensor(layout, bits[:2048].copy()), "b": RawTensor(layout, bits[2048:].copy())}


def publish_number(root: Path, number: int, seed: int | None = None) -> CheckpointManifest:
    parts = CheckpointParts(
        network_id=NETWORK_ID,
        window=Window(30 * number),
        valid_from=Window(30 * (number + 1)),
        environment=EnvironmentSpec("sat", 1),
        policy=GenerationPolicy(max_tokens=8),
        end_token_ids=(0,),
        thinking_mode="native",
    )
    store = FilesystemStore(root, "trainer")
    state = weights(number if seed is None else seed)
    return publish(store, parts, state, FILES, TRAINER, PARAMS, root / "trainer-cache")


def fetch_newest(root: Path) -> Path:
    store = FilesystemStore(root, "trainer", read_only=True)
    head = view(root).head
    assert head is not None
    return materialise(head, root / "reader-cache", store)


def view(root: Path) -> ChainView:
    store = FilesystemStore(root, "trainer", read_only=True)
    return list_manifests(store, trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)


def same(folder: Path, seed: int) -> bool:
    found, expected = map_weights(folder), weights(seed)
    return found.keys() == expected.keys() and all((found[n].bits == expected[n].bits).all() for n in expected)


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
    publish_number(root, 0)
    publish_number(root, 1)
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
        if not run_and_die(lambda root=root: publish_number(root, 2), at):  # type: ignore[misc]
            break
        kills += 1
        head = view(root).head
        assert head is not None
        assert head.sequence in (1, 2)
        assert same(fetch_newest(root), head.sequence)
        manifest = publish_number(root, 2)
        assert manifest.sequence == 2
        assert same(fetch_newest(root), 2)
        stored = {info.key for info in FilesystemStore(root, "trainer").list("grail/objects/")}
        assert stored == {ref.key for item in view(root).stored for ref in item.manifest.objects().values()}
        CheckpointCache(root / "trainer-cache").sweep()
        assert not leftovers(root / "trainer-cache")
        shutil.rmtree(root)
    assert kills > 40 // stride


def test_a_publisher_that_comes_back_with_other_weights_leaves_no_orphans(started: Path, tmp_path: Path) -> None:
    at = 0
    while True:
        at += 5
        root = tmp_path / str(at)
        shutil.copytree(started, root)
        if not run_and_die(lambda root=root: publish_number(root, 2, seed=7), at):  # type: ignore[misc]
            break
        if view(root).head.sequence == 1:  # type: ignore[union-attr]
            publish_number(root, 2)
            stored = {info.key for info in FilesystemStore(root, "trainer").list("grail/objects/")}
            assert stored == {ref.key for item in view(root).stored for ref in item.manifest.objects().values()}
        shutil.rmtree(root)


@pytest.mark.parametrize("stride", EVERY_OR_SOME)
@pytest.mark.parametrize("held", [True, False], ids=["an ancestor is cached", "nothing is cached"])
def test_a_reader_killed_anywhere_has_a_whole_checkpoint_or_none(
    started: Path, tmp_path: Path, held: bool, stride: int
) -> None:
    origin = tmp_path / "origin"
    shutil.copytree(started, origin)
    publish_number(origin, 2)
    if not held:
        shutil.rmtree(origin / "reader-cache")
    at, kills = 1 - stride, 0
    while True:
        at += stride
        root = tmp_path / str(at)
        shutil.copytree(origin, root)
        if not run_and_die(lambda root=root: fetch_newest(root), at):  # type: ignore[misc]
            break
        kills += 1
        cache = CheckpointCache(root / "reader-cache")
        for digest in cache.entries():
            sequence = view(root).by_digest[digest].sequence
            assert same(cache.folder(digest), sequence)
        assert same(fetch_newest(root), 2)
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
                publish_number(root, 2)
                fetch_newest(root)
                return
            except StorageError:
                pass
        assert view(root).head.sequence in (1, 2)  # type: ignore[union-attr]
        publish_number(root, 2)
        assert same(fetch_newest(root), 2)
        shutil.rmtree(root)
    pytest.fail("publishing and fetching never got through")
