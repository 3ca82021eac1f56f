"""Other weights for a loaded model: exactly those of a fresh load, or the model as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grail_core.errors import StorageError
from grail_core.model.policy_model import PolicyModel
from grail_core.model.reload import reload_weights
from tooling.testing.models.tiny_qwen2 import BYTES, save_random_model

ROWS = [[1, 2, 3, 4, 5], [7, 8, 9]]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return save_random_model(tmp_path / "a", BYTES, seed=1), save_random_model(tmp_path / "b", BYTES, seed=2)


def outputs(model: PolicyModel) -> list[torch.Tensor]:
    return [model.logits(states) for states in model.hidden_states(ROWS)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_reloaded_model_computes_what_a_loaded_one_does_to_the_bit(folders: tuple[Path, Path]) -> None:
    model, (first, second) = PolicyModel.load(folders[0]), folders
    before = outputs(model)  # the head's float32 copy is made here
    assert reload_weights(model, second)
    assert same(outputs(model), outputs(PolicyModel.load(second)))
    assert not same(outputs(model), before)
    assert reload_weights(model, first)
    assert same(outputs(model), before)


def _another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))


def _renamed(folder: Path) -> None:
    _rewrite(folder, lambda tensors: {f"x.{name}": tensor for name, tensor in tensors.items()})


def _one_less(folder: Path) -> None:
    _rewrite(folder, lambda tensors: dict(list(tensors.items())[1:]))


def _wider_type(folder: Path) -> None:
    _rewrite(folder, lambda tensors: {name: tensor.float() for name, tensor in tensors.items()})


def _another_shape(folder: Path) -> None:
    _rewrite(folder, lambda tensors: {name: tensor.flatten() for name, tensor in tensors.items()})


def _twice(folder: Path) -> None:
    (folder / "model-2.safetensors").write_bytes((folder / "model.safetensors").read_bytes())


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = change({name: tensor.clone() for name, tensor in load_file(path).items()})
    path.unlink()
    save_file(tensors, path)


@pytest.mark.parametrize("change", [_another_width, _renamed, _one_less, _wider_type, _another_shape, _twice])
def test_a_folder_of_another_model_changes_nothing(folders: tuple[Path, Path], change: Callable[[Path], None]) -> None:
    model, second = PolicyModel.load(folders[0]), folders[1]
    before = outputs(model)
    change(second)
    assert not reload_weights(model, second)
    assert same(outputs(model), before)


def test_a_model_that_came_from_no_folder_is_not_reloaded(folders: tuple[Path, Path]) -> None:
    assert not reload_weights(PolicyModel(PolicyModel.load(folders[0]).module), folders[1])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_cannot_be_read_is_the_systems_fault(folders: tuple[Path, Path], name: str) -> None:
    model = PolicyModel.load(folders[0])
    (folders[1] / name).unlink()
    (folders[1] / name).mkdir()
    with pytest.raises(StorageError):
        reload_weights(model, folders[1])
