"""The float32 copy of a proof model, in which a sample of the engine's draws is judged as a validator judges it.

It is made when it is first asked for, one a device, and only where it takes no more than half of the memory that is free there:
the proofs themselves come first. Where there is none, draws are judged by what needs none (`pipeline.draw_check`).
"""

from __future__ import annotations

import threading
from typing import Final

import torch

from grail_core.child_process.memory import available_bytes
from grail_core.errors import MachineFaultError
from grail_core.model.memory import free_memory
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.reference import Reference

_SHARE: Final = 2
"""So many times the copy's bytes have to be free."""


class References:
    """Of the models of one prover. Entered from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[torch.device, PolicyModel | None] = {}

    def beside(self, model: PolicyModel) -> PolicyModel | None:
        """In float32, of the same weights; None where memory does not allow it, which stays so until the next weights."""
        with self._lock:
            if model.device not in self._of:
                self._of[model.device] = reference_where_it_fits(model)
            return self._of[model.device]

    def forget(self) -> None:
        """Before other weights are loaded."""
        with self._lock:
            self._of.clear()


def reference_where_it_fits(model: PolicyModel) -> PolicyModel | None:
    """A float32 copy of the model, None where the memory for it is not free."""
    if not reference_fits(model):
        return None
    try:
        return Reference(model).model()
    except MachineFaultError:
        free_memory()
        return None


def reference_fits(model: PolicyModel) -> bool:
    """Whether the memory for a float32 copy is free, and as much again."""
    needed = 4 * sum(parameter.numel() for parameter in model.module.parameters())
    free = free_bytes(model.device)
    return free is None or _SHARE * needed <= free


def free_bytes(device: torch.device) -> int | None:
    """None where nothing says it."""
    if device.type == "cuda":
        free_memory()
        return torch.cuda.mem_get_info(device)[0]
    return available_bytes()
