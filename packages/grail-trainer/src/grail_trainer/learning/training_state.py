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
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from grail_core.disk import write_atomically
from grail_core.errors import CheckpointError, is_out_of_memory

MASTER, MADE, SCALAR = "master.", "made.", "scalar."
MOMENTS = ("moment1.", "moment2.")
STEPS, BASE = "steps", "base"

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.uint8: "U8"}

_OTHER_KIND = (
    "start with the options that it was made with; or, to change them, move the folder of the training state away: the trainer "
    "then goes on from its last published checkpoint, with fresh moments"
)


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, shapes and bytes, in order of name; for the training log."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(_bytes_of(tensor))
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
    beside = tensors.get(BASE)
    if base is not None and (beside is None or beside.dtype != torch.uint8 or bytes(beside.reshape(-1).tolist()).hex() != base):
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
    """A safetensors file, written atomically and durably, tensor after tensor: no second copy of it is in memory.

    Raises:
        StorageError, DiskFullError: nothing was changed.
    """
    write_atomically(path, state_file_parts(tensors))


def state_file_parts(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """safetensors: the header's length (8 bytes, little-endian), the header (JSON), all tensors in the order of their places;
    wide types first, so that each lies where its type may."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, place = {}, 0
    for name in order:
        tensor = tensors[name]
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in order:
        yield _bytes_of(tensors[name])


def _bytes_of(tensor: Tensor) -> memoryview:
    """In memory already, unless it is on a device or not in one piece."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def read_state_file(path: Path) -> dict[str, Tensor]:
    """What `write_state_file` wrote; tensors that are read from the file as they are used, and must not be written into.

    Raises:
        CheckpointError: the file cannot be read.
    """
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:  # safetensors raises its own kinds
        if is_out_of_memory(error):
            raise  # nothing is wrong with the file
        raise CheckpointError(f"the training state cannot be read: {error}", where=str(path)) from error
    return tensors
