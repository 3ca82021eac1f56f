"""Weights of a folder into a model in use, whole or in part, and the digest of what is really there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from grail_core.errors import CheckpointError
from grail_core.model.policy_model import PolicyModel


def read_weights(folder: Path, model: PolicyModel) -> dict[str, torch.Tensor]:
    """Every tensor of the model, from the folder's safetensors files, in the model's dtype.

    Raises:
        CheckpointError: no such folder, a file that is damaged, or other names or shapes than the model's.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise CheckpointError(f"no safetensors file in {folder}", where=str(folder))
    found: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            found.update(load_file(file))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file.name} cannot be read: {error}", where=str(folder)) from error
    live = model.state()
    if missing := sorted(live.keys() - found.keys()):
        raise CheckpointError(f"no tensor {missing[0]}", where=str(folder))
    for name, tensor in live.items():
        if found[name].shape != tensor.shape:
            raise CheckpointError(f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}", where=str(folder))
    return {name: found[name].to(tensor.dtype) for name, tensor in live.items()}


@torch.no_grad()
def apply(model: PolicyModel, tensors: dict[str, torch.Tensor], share: float = 1.0) -> None:
    """Write the tensors into the model, by name; with a `share` below 1 only the first of them, as a torn update does."""
    live = model.state()
    names = sorted(live)
    with model.lock:
        for name in names[: max(1, round(share * len(names)))]:
            live[name].copy_(tensors[name])
        model.weights_changed()


def digest_of(model: PolicyModel) -> str:
    """SHA-256 over names and bytes of all tensors, 64 hex digits."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state().items()):
        state.update(name.encode() + b"\0")
        state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
