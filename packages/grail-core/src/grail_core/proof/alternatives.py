"""Section 6: models that a miner may have run instead, as a validator has them.

An alternative that is other weights for the same architecture (an earlier checkpoint, a rounded copy) is told by the tensors
in which it differs. Rounded copies are made of a checkpoint once, matrix by matrix when they are first needed, and kept as the
integers and scales that they are while a budget lasts; what is beyond it is rounded anew for every pass. What the passes give
is `compared`'s, what is decided from it `alternative_test`'s and `token_test`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.reference import Reference
from grail_core.proof.work import YARDSTICKS

GROUP: Final = 32
"""Columns to a scale in the formats that do not scale whole channels."""

ROUNDED: Final[Mapping[str, tuple[int, int | None]]] = {
    "int8": (8, None),
    "int8-groups": (8, GROUP),
    "int4-groups": (4, GROUP),
}
"""Rounded copies by name: bits, and input columns to a scale (None: one scale per output channel)."""

COPIES_BYTES: Final = 1 << 30
"""Memory for rounded copies, all together: what the three of a model of 0.35 billion parameters in its blocks take."""

Weights = Callable[[], Mapping[str, Tensor]]
"""Gives the tensors in which an alternative differs, or all, by the names of `PolicyModel.state` and in any floating dtype."""


class Alternatives:
    """What a validator compares miners with, and the one float32 copy of the model that takes their weights in turn.

    Args:
        current: the window's model. others: weights by name; a name says what a finding will say ("previous-1", "int8").
        reference: of the same model, made before; None: it is made now.

    Raises:
        ValueError: an alternative has the name of a yardstick, or the reference is of another model.
        MachineFaultError: memory does not hold the copy.
    """

    def __init__(self, current: PolicyModel, others: Mapping[str, Weights], reference: Reference | None = None) -> None:
        if reference is not None and reference.current is not current:
            raise ValueError("a reference of another model")
        if taken := YARDSTICKS.intersection(others):
            raise ValueError(f"an alternative named {min(taken)}, as the model's own weights are")
        self.weights: Mapping[str, Weights] = dict(others)
        self.reference = Reference(current) if reference is None else reference


def rounded_copies(model: PolicyModel, *, most_bytes: int = COPIES_BYTES) -> dict[str, Weights]:
    """The model's weights as 8-bit and 4-bit engines have them, by name (`ROUNDED`).

    Args:
        most_bytes: of memory for what is kept of them from one pass to the next, on the model's device.
    """
    budget = _Budget(most_bytes)
    copies = {name: RoundedCopy(model, bits, group, budget.take) for name, (bits, group) in ROUNDED.items()}
    return {name: partial(_same, one) for name, one in copies.items()}


def _same(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return weights


@dataclass
class _Budget:
    left: int

    def take(self, wanted: int) -> bool:
        if wanted > self.left:
            return False
        self.left -= wanted
        return True


class RoundedCopy(Mapping[str, Tensor]):
    """A model's matrices of the blocks, rounded; embeddings and head stay, as in the common 8-bit and 4-bit formats.

    Args:
        keep: whether so many bytes more may be kept.
    """

    def __init__(
        self, model: PolicyModel, bits: int, group: int | None, keep: Callable[[int], bool] = lambda wanted: False
    ) -> None:
        self._model, self._bits, self._group, self._keep = model, bits, group, keep
        self._kept: dict[str, Rounded] = {}
        self._version = model.weights_version
        self._names = tuple(name for name, value in model.state().items() if value.dim() > 1 and ".layers." in name)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        if self._version != self._model.weights_version:
            raise ValueError("a rounded copy of weights that have changed since")
        rounded = self._kept.get(name)
        if rounded is None:
            rounded = Rounded.of(self._model.state()[name], self._bits, self._group)
            if self._keep(rounded.nbytes):
                self._kept[name] = rounded
        return rounded.values()

    def __contains__(self, name: object) -> bool:
        return name in self._names  # without rounding it for the answer

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Rounded:
    """A matrix as symmetric integers with absolute-maximum scales. A width that is no multiple of the group has one scale per
    output channel."""

    integers: Tensor  # int8 [blocks, width]
    scales: Tensor  # float32 [blocks, 1]
    shape: torch.Size

    @classmethod
    def of(cls, weight: Tensor, bits: int, group: int | None) -> Rounded:
        top = 2 ** (bits - 1) - 1
        width = weight.shape[-1] if group is None or weight.shape[-1] % group else group
        blocks = weight.float().reshape(-1, width)
        scales = blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / top
        return cls((blocks / scales).round_().clamp_(-top, top).to(torch.int8), scales, weight.shape)

    @property
    def nbytes(self) -> int:
        return self.integers.nbytes + self.scales.nbytes

    def values(self) -> Tensor:
        """float32, of the matrix's shape."""
        return (self.integers * self.scales).reshape(self.shape)


def round_to_nearest(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Weights [..., in] → the float32 values that `Rounded` stands for."""
    return Rounded.of(weight, bits, group).values()
