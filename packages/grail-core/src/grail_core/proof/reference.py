"""The float32 copy of a model: what a validator's own pass and a miner's claims are both held against.

The same weights in float32 leave the rounding of bf16 and the order of its sums out, so that what is left between two models is
their weights' alone. One copy serves for everything that is computed in float32: an alternative's weights take the place of the
model's own for a pass, and only the tensors that differ are exchanged. It takes twice the memory of a bf16 model.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from grail_core.model.memory import on_this_machine
from grail_core.model.policy_model import PolicyModel


class Reference:
    """A float32 copy of `current`, made at once. TF32 is off unless somebody switches it on; it would bring the rounding back.

    Raises:
        MachineFaultError: memory does not hold it.
    """

    def __init__(self, current: PolicyModel) -> None:
        self.current = current
        self._copy = _in_float32(current)
        self._version = current.weights_version
        self._foreign: frozenset[str] = frozenset()  # tensors that are an alternative's

    @property
    def lock(self) -> threading.RLock:
        """Held by whoever needs the same weights in it for longer than one call. Before the current model's, where both are."""
        return self._copy.lock

    def model(self) -> PolicyModel:
        """With the current model's weights, as they are now."""
        return self.under({})

    @torch.no_grad()
    def under(self, weights: Mapping[str, Tensor]) -> PolicyModel:
        """With these tensors in place of the current model's, by the names of `PolicyModel.state`; until the next call.

        Raises:
            ValueError: a name that the model has not.
        """
        with self._copy.lock, self.current.lock:
            mine, theirs = self._copy.state(), self.current.state()
            given = frozenset(weights)
            if unknown := sorted(given - mine.keys()):
                raise ValueError(f"weights of another model: {', '.join(unknown[:3])}")
            changed = given | (mine.keys() if self._version != self.current.weights_version else self._foreign)
            self._foreign = frozenset(mine)  # all of it, should copying break off
            for name in changed:
                mine[name].copy_(weights[name] if name in given else theirs[name])
            self._foreign, self._version = given, self.current.weights_version
            if changed:
                self._copy.weights_changed()
        return self._copy


@on_this_machine
@torch.no_grad()
def _in_float32(model: PolicyModel) -> PolicyModel:
    """As `module.float()` makes it of a copy; ties stay tied, and no second copy in the original's type is made on the way."""
    copied: dict[int, Tensor] = {}
    with model.lock:
        for parameter in model.module.parameters():
            copied[id(parameter)] = nn.Parameter(parameter.to(torch.float32, copy=True), requires_grad=False)
        for buffer in model.module.buffers():
            if buffer.is_floating_point():
                copied[id(buffer)] = buffer.to(torch.float32, copy=True)
        return PolicyModel(copy.deepcopy(model.module, copied))
