"""Weights kept in bfloat16 whose small steps are not lost: AdamW computed in float32, its result rounded stochastically.

Nearest rounding throws away every step below half of a weight's last place, which at the learning rates of reinforcement
learning is almost every step. Rounded up with a probability equal to the part that would be cut off, a weight is in the mean
what float32 would have made of it (Gupta et al. 2015). Which way each weight goes is a hash of (seed, step, name, element), so
an update repeated anywhere, on any number of ranks, ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from grail_trainer.learning.counter_random import halves, key_of

CHUNK = 1 << 20
"""Elements whose float32 copies and random bits are held at one time."""

_LOW = 0xFFFF
_EXPONENT = 0x7F800000
_LARGEST = 0x7F7F0000  # of bfloat16's finite numbers, as float32


def round_stochastically(values: Tensor, bits: Tensor) -> Tensor:
    """bfloat16 [n] of float32 [n]: one of each value's two neighbours in bfloat16, at `bits` / 65,536 above the cut-off part.

    A value that bfloat16 holds stays what it is, ±0 and ±∞ included; NaN stays NaN. No finite value becomes infinite: beyond
    the largest number of bfloat16 it becomes that number.

    Args:
        bits: int32 [n], 0 … 65,535, even over that range.
    """
    raw = values.contiguous().view(torch.int32)
    # The magnitude is the low 31 bits, its cut-off part the low 16: what is added carries into the kept part with that chance.
    carried = (raw & 0x7FFFFFFF).add_(bits).bitwise_and_(~_LOW).clamp_(max=_LARGEST)
    rounded = (carried | (raw & ~0x7FFFFFFF)).view(torch.float32)
    special = (raw & _EXPONENT) == _EXPONENT
    return torch.where(special, values, rounded).to(torch.bfloat16)


class StochasticAdamW(torch.optim.Optimizer):
    """AdamW on bfloat16 parameters: moments float32, the step computed in float32 a piece at a time.

    The state of a parameter has the names that `torch.optim.AdamW` gives it.

    Args:
        groups: parameter groups, each with the `names` of its parameters.
        seed: of the rounding.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        seed: int,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                if parameter.grad is not None:
                    self._step(name, parameter, group)

    def _step(self, name: str, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
        state["step"] += 1
        step = int(state["step"])
        (beta1, beta2), eps, rate = group["betas"], group["eps"], group["lr"]
        size = rate / (1 - beta1**step)
        spread = (1 - beta2**step) ** 0.5
        key, first = key_of("grail-trainer/rounding", self._seed, step, name), first_element(parameter)
        weights, gradients, means, squares = (
            _local(tensor).view(-1) for tensor in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
        )
        for start in range(0, len(weights), CHUNK):
            part = slice(start, start + CHUNK)
            gradient, mean, square = gradients[part].float(), means[part], squares[part]
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            wide = weights[part].float().mul_(1 - rate * group["weight_decay"])
            wide.addcdiv_(mean, (square.sqrt() / spread).add_(eps), value=-size)
            weights[part] = round_stochastically(wide, halves(key, first + start, len(wide), device=wide.device))


def first_element(tensor: Any) -> int:
    """Where the elements that this process holds begin in the whole tensor, counted row after row.

    Raises:
        ValueError: they are not one stretch of it: it is divided by something else than its rows.
    """
    if not hasattr(tensor, "placements"):
        return 0
    from torch.distributed.tensor import Replicate, Shard

    divided = [(dim, placement) for dim, placement in enumerate(tensor.placements) if not isinstance(placement, Replicate)]
    if not divided:
        return 0
    (dim, placement), *more = divided
    if more or not isinstance(placement, Shard) or placement.dim != 0:
        raise ValueError(f"stochastic rounding knows tensors divided by rows, not {tensor.placements}")
    rows = tensor.shape[0]
    each = -(-rows // tensor.device_mesh.size(dim))  # as `torch.chunk` divides
    first_row: int = min(rows, each * tensor.device_mesh.get_local_rank(dim))
    return first_row * int(tensor.numel() // rows)


def _local(tensor: Any) -> Tensor:
    """What of a tensor this process holds."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local
