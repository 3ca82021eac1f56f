"""A training state as tensors by name: what it holds, whether it fits the masters that are to take it, and its file.

master.NAME    a trained parameter          float32, or bfloat16 where masters are kept so
moment1.NAME   AdamW's means                float32, absent before a parameter's first step
moment2.NAME   and squares                  float32
made.NAME      int64, its steps, where they are fewer than `steps`
steps          int64, optimiser steps made
scalar.NAME    float64
base           uint8 [32], SHA-256 of the frozen weights; where adapters are trained
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from grail_core.disk import write_atomically
from grail_core.errors import CheckpointError, is_out_of_memory

MASTER, MADE, SCALAR = "master.", "made.", "scalar."
MOMENTS = ("moment1.", "moment2.")
STEPS, BASE = "steps", "base"

_OTHER_KIND = (
    "start with the options that it was made with; or, to change them, move the folder of the training state away: the trainer "
    "then goes on from its last published checkpoint, with fresh moments"
)


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, shapes and bytes, in order of name; for the training log."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_fits(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, base: str | None) -> None:
    """Is this a state that masters of these parameters could have left? `base`: digest of what their adapters stand beside.

    Raises:
        CheckpointError: it is not; `what` and `hint` say why and what to do.
    """
    adapters = any(name.startswith(MASTER) and name.endswith((".lora_a", ".lora_b")) for name in tensors)
    if (BASE in tensors or adapters) != (base is not None):
        theirs, ours = ("the weights", "adapters") if base is not None else ("adapters", "the weights")
        raise CheckpointError(
            f"the training state is of {theirs}, and {ours} are to be trained", where="lora_rank", hint=_OTHER_KIND
        )
    if base is not None and (tensors[BASE].dtype != torch.uint8 or bytes(tensors[BASE].reshape(-1).tolist()).hex() != base):
        raise CheckpointError("the adapters stand beside other weights", where=BASE, hint=_OTHER_KIND)
    known = {STEPS, BASE}
    for name, parameter in parameters.items():
        known |= {f"{part}{name}" for part in (MASTER, MADE, *MOMENTS)}
        _require_parameter(tensors, name, parameter)
    for name, tensor in tensors.items():
        if name not in known and not name.startswith(SCALAR):
            raise CheckpointError("the training state is of another model", where=name, hint=_OTHER_KIND)
        if name.startswith(SCALAR) and (tensor.numel() != 1 or tensor.dtype != torch.float64):
            raise CheckpointError("a scalar of the training state is none", where=name)
    steps = tensors.get(STEPS)
    counts = [steps, *(tensor for name, tensor in tensors.items() if name.startswith(MADE))]
    if any(one is None or one.numel() != 1 or one.dtype != torch.int64 or not int(one) >= 0 for one in counts):
        raise CheckpointError("the training state does not say how many steps were made", where=STEPS)


def _require_parameter(tensors: Mapping[str, Tensor], name: str, parameter: Tensor) -> None:
    master = tensors.get(f"{MASTER}{name}")
    if master is None or master.shape != parameter.shape:
        raise CheckpointError("the training state is of another model", where=name, hint=_OTHER_KIND)
    if master.dtype != parameter.dtype:
        raise CheckpointError(
            f"the training state has masters in {master.dtype}, and {parameter.dtype} is asked for",
            where="master_dtype",
            hint=_OTHER_KIND,
        )
    moments = [tensors.get(f"{moment}{name}") for moment in MOMENTS]
    if all(moment is None for moment in moments):
        return
    for moment in moments:
        if moment is None or moment.shape != parameter.shape or moment.dtype != torch.float32:
            raise CheckpointError("the training state has moments of another model", where=name, hint=_OTHER_KIND)


def write_state_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Atomically and durably. Costs its size once more in memory.

    Raises:
        StorageError, DiskFullError: nothing was changed.
    """
    from safetensors.torch import save

    write_atomically(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def read_state_file(path: Path) -> dict[str, Tensor]:
    """What `write_state_file` wrote.

    Raises:
        CheckpointError: the file cannot be read.
    """
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(path.read_bytes())
    except Exception as error:  # safetensors raises its own kinds
        if is_out_of_memory(error):
            raise  # nothing is wrong with the file
        raise CheckpointError(f"the training state cannot be read: {error}", where=str(path)) from error
    return tensors
