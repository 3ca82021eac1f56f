"""An engine reads the weights of the checkpoint and the end tokens of its manifest, whole, whatever the folder says."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from grail_core.errors import CheckpointError, ConfigurationError, StorageError
from grail_core.generation.base import ServedWeights
from grail_core.generation.engine_folder import CURRENT, EngineFolders
from grail_core.protocol.policy import GenerationPolicy


def checkpoint(folder: Path, number: int = 0) -> ServedWeights:
    """A folder with an opinion of its own of how completions end and are drawn."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes([number]) * 100)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"], "eos_token_id": 7}))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, 2, 3], "temperature": 0.01, "top_k": 1, "repetition_penalty": 3.0})
    )
    version = f"{number:02x}" * 32
    return ServedWeights(version, folder, GenerationPolicy(max_tokens=8), frozenset({258, 257}), 320, 512)


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {".lock"}


def test_a_hostile_folder_decides_neither_ends_nor_drawing(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "cached")
    staged = EngineFolders(tmp_path / "engine").stage(weights)
    assert json.loads((staged.folder / "generation_config.json").read_text()) == {"eos_token_id": [257, 258]}
    assert json.loads((staged.folder / "config.json").read_text()) == {
        "architectures": ["Qwen2ForCausalLM"],
        "eos_token_id": [257, 258],
    }
    assert json.loads((weights.folder / "config.json").read_text())["eos_token_id"] == 7  # the cache is nobody's to change
    assert staged == replace(weights, folder=staged.folder)


def test_weights_are_shared_and_outlive_the_cache(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "cached")
    staged = EngineFolders(tmp_path / "engine").stage(weights)
    assert (staged.folder / "model.safetensors").samefile(weights.folder / "model.safetensors")
    shutil.rmtree(weights.folder)  # evicted
    assert (staged.folder / "model.safetensors").read_bytes() == bytes(100)


def test_where_nothing_can_be_linked_the_weights_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    weights = checkpoint(tmp_path / "cached")
    staged = EngineFolders(tmp_path / "engine").stage(weights)
    assert (staged.folder / "model.safetensors").read_bytes() == bytes(100)
    assert not (staged.folder / "model.safetensors").samefile(weights.folder / "model.safetensors")


def test_the_same_weights_are_staged_once(tmp_path: Path) -> None:
    folders = EngineFolders(tmp_path / "engine")
    staged = folders.stage(checkpoint(tmp_path / "cached"))
    assert folders.stage(staged) == staged
    assert folders.stage(replace(staged, folder=tmp_path / "cached")) == staged
    assert names(folders.root) == {staged.folder.name}


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    folders = EngineFolders(tmp_path / "engine")
    broken = checkpoint(tmp_path / "cached")
    (broken.folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        folders.stage(broken)
    with pytest.raises(StorageError):
        folders.stage(replace(broken, version="ff" * 32, folder=tmp_path / "nowhere"))
    assert names(folders.root) == set()


def test_what_a_killed_process_left_is_removed_and_what_is_served_stays(tmp_path: Path) -> None:
    folders = EngineFolders(tmp_path / "engine")
    served = folders.stage(checkpoint(tmp_path / "a", 1))
    folders.point(served.folder)
    folders.stage(checkpoint(tmp_path / "b", 2))
    (folders.root / ".0303030303030303-half").mkdir()
    folders.close()  # as its death does
    again = EngineFolders(tmp_path / "engine")
    assert names(again.root) == {served.folder.name, CURRENT}
    fresh = again.stage(checkpoint(tmp_path / "c", 1))
    assert fresh.folder != served.folder  # what stood there before is believed by nobody


def test_current_always_leads_to_a_whole_folder_and_old_ones_go(tmp_path: Path) -> None:
    folders = EngineFolders(tmp_path / "engine")
    for number in range(3):
        staged = folders.stage(checkpoint(tmp_path / str(number), number))
        folders.point(staged.folder)
        folders.retain({staged.version})
        assert (folders.root / CURRENT / "model.safetensors").read_bytes() == bytes([number]) * 100
        assert names(folders.root) == {staged.folder.name, CURRENT}


def test_two_miners_do_not_share_a_folder(tmp_path: Path) -> None:
    first = EngineFolders(tmp_path / "engine")
    with pytest.raises(ConfigurationError, match="another process") as caught:
        EngineFolders(tmp_path / "engine")
    assert "GRAIL_PIPELINE_SYMLINK_DIR" in caught.value.hint
    first.close()
    EngineFolders(tmp_path / "engine").close()
