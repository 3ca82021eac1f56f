"""A damaged file of the checkpoint cache is found before it is used, and fetched again; nobody's window is lost for it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.checkpoints import fetch
from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor
from grail_core.checkpoints.fetch import apply_to_model, materialise
from grail_core.errors import DiskFullError
from grail_core.protocol.types import Digest
from grail_core.storage.filesystem import FilesystemStore
from tooling.testing.checkpoints import WeightsTrainer, bucket_of, holds_weights, weights
from tooling.testing.faults import events


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints: an anchor and two deltas."""
    root = tmp_path_factory.mktemp("published")
    for number in range(3):
        trainer_in(root).publish(number)
    return root


def trainer_in(root: Path) -> WeightsTrainer:
    return WeightsTrainer(FilesystemStore(root, "trainer"), root / "trainer-cache")


def load(root: Path, cache: Path | CheckpointCache, number: int) -> Path:
    store = FilesystemStore(root, "trainer", read_only=True)
    manifest = trainer_in(root).view().stored[number].manifest
    return materialise(manifest, bucket_of(store, cache))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.unlink()
    match how:
        case "flipped":
            at = random.Random(path.name).randrange(max(1, len(data)))
            path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] if data else b"x")
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "emptied":
            path.write_bytes(b"")
        case "longer":
            path.write_bytes(data + b"\n")
        case "folder":
            path.mkdir()
            (path / "x").write_bytes(b"x")
        case "link":
            path.symlink_to(path)


HOW = ("removed", "flipped", "cut", "emptied", "longer", "folder", "link")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("number", [0, 2], ids=["the checkpoint", "an ancestor of it"])
def test_any_damaged_file_of_a_cached_checkpoint_is_mended(published: Path, tmp_path: Path, how: str, number: int) -> None:
    """`number` is loaded next; what is damaged is checkpoint 0, which it begins with or is."""
    names = [path.name for path in load(published, tmp_path / "first", 0).iterdir()]
    assert len(names) == 5
    for name in names:
        cache = tmp_path / f"{name}-cache"
        shutil.copytree(tmp_path / "first", cache)
        damage(load(published, cache, 0) / name, how)
        assert holds_weights(load(published, cache, number), number)
        assert holds_weights(load(published, cache, 0), 0)
        assert sorted(path.name for path in load(published, cache, 0).iterdir()) == sorted(names)


def test_a_file_more_in_a_cached_checkpoint_is_not_read_by_anybody(published: Path, tmp_path: Path) -> None:
    folder = load(published, tmp_path / "cache", 0)
    (folder / "generation_config.json").write_text("{}")
    assert not (load(published, tmp_path / "cache", 0) / "generation_config.json").exists()


@pytest.mark.parametrize("how", HOW)
def test_any_damaged_download_is_fetched_again(
    published: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process leaves them that is killed when all is downloaded and nothing built."""
    cache = tmp_path / "cache"

    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> Any:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(fetch, "_wrong_tensors", killed)
        with pytest.raises(KilledError):
            load(published, cache, 1)
    kept = [path for path in (cache / "objects").iterdir() if path.suffix == ""]
    assert len(kept) >= 4  # the anchor's weights, a delta, an index, the files
    for path in kept:
        damage(path, how)
    with events() as names:
        assert holds_weights(load(published, cache, 1), 1)
    assert how == "removed" or names.count("cached_object_dropped") >= 4


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_delta_does_not_reach_a_running_model(published: Path, tmp_path: Path, how: str) -> None:
    store = FilesystemStore(published, "trainer", read_only=True)
    one, two = (item.manifest for item in trainer_in(published).view().stored[1:3])
    state = {name: tensor.bits.copy() for name, tensor in weights(1).items()}
    bucket = bucket_of(store, tmp_path / "cache")
    materialise(two, bucket)
    raw = {name: RawTensor(Layout(DTYPES["BF16"], (64, 32)), bits) for name, bits in state.items()}
    apply_to_model(raw, one, two, bucket)
    for path in (tmp_path / "cache" / "objects").iterdir():
        if path.is_file():
            damage(path, how)
    again = {name: RawTensor(Layout(DTYPES["BF16"], (64, 32)), tensor.bits.copy()) for name, tensor in weights(1).items()}
    apply_to_model(again, one, two, bucket)
    assert all(np.array_equal(again[name].bits, tensor.bits) for name, tensor in weights(2).items())


@pytest.mark.parametrize("suffix", [".part", ".ranges", ".lock"])
def test_what_a_dead_download_left_is_no_obstacle(published: Path, tmp_path: Path, suffix: str) -> None:
    objects = tmp_path / "cache" / "objects"
    objects.mkdir(parents=True)
    manifest = trainer_in(published).view().stored[0].manifest
    for ref in manifest.objects().values():
        place = objects / f"{ref.sha256.hex()}{suffix}"
        if suffix == ".lock":
            place.mkdir()
            continue
        (objects / f"{ref.sha256.hex()}.part").write_bytes(bytes(ref.size))
        (objects / f"{ref.sha256.hex()}.ranges").write_bytes(b"0\n" + b"9" * 6000 + b"\n")
        place.unlink()
        place.mkdir()
    assert holds_weights(load(published, tmp_path / "cache", 0), 0)


def test_strange_names_in_the_cache_are_no_entries(published: Path, tmp_path: Path) -> None:
    for name in ("x" * 64, "AB" * 32, "short"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "grail-manifest.json").write_bytes(b"{}")
    (tmp_path / "lock").mkdir()
    assert holds_weights(load(published, tmp_path, 0), 0)


# --- budget -----------------------------------------------------------------------------------------------------------


def test_the_limit_holds_before_a_checkpoint_is_written(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = CheckpointCache(tmp_path, limit_bytes=20_000)
    load(published, cache, 0)
    seen: list[int] = []
    build: Callable[..., Any] = fetch._build

    def watching(*arguments: Any) -> Any:
        seen.append(len(cache.entries()))
        return build(*arguments)

    monkeypatch.setattr(fetch, "_build", watching)
    load(published, cache, 1)
    assert seen == [0]  # 8 KiB of weights, and twice as much while they are made
    assert [cache.folder(digest).is_dir() for digest in cache.entries()] == [True]


def test_a_clock_that_was_set_back_does_not_make_the_newest_the_oldest(tmp_path: Path) -> None:
    cache = CheckpointCache(tmp_path, limit_bytes=2500)
    digests = [Digest(bytes([n]) * 32) for n in range(3)]
    for digest in digests:
        with cache.building(digest, b"manifest") as folder:
            (folder / "model.safetensors").write_bytes(bytes(1000))
        os.utime(cache.folder(digests[0]), (4e9, 4e9))  # made in 2096, says its age
    cache.trim()
    assert cache.entries() == digests[1:]


def test_a_device_that_is_fuller_than_the_limit_costs_old_entries_and_then_says_so(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=5m none {tmp_path} && exec {sys.executable} {__file__} {tmp_path}"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(["unshare", "-Urm", "sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        pytest.skip("no user namespaces with mounts here, so no small device can be made")
    assert ran.stdout.split() == ["loaded", "evicted", "DiskFullError", "loaded"], ran.stderr


def fill(root: Path) -> None:
    for number in range(2):
        trainer_in(root).publish(number)
    cache = root / "cache"
    assert holds_weights(load(root, cache, 0), 0)
    print("loaded")
    (root / "ballast").write_bytes(bytes(_free(root) - (20 << 10)))
    old = CheckpointCache(cache).entries()
    assert holds_weights(load(root, cache, 1), 1)
    print("evicted" if not set(old) & set(CheckpointCache(cache).entries()) else "kept")
    shutil.rmtree(cache)
    with (root / "ballast").open("ab") as file:
        file.write(bytes(_free(root) - (8 << 10)))
    try:
        load(root, cache, 1)
    except DiskFullError as error:
        print(type(error).__name__)
    (root / "ballast").unlink()
    print("loaded" if holds_weights(load(root, cache, 1), 1) else "wrong")


def _free(root: Path) -> int:
    there = os.statvfs(root)
    return there.f_bavail * there.f_frsize


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
