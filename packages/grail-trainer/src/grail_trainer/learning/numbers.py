"""Exponentials that stay finite, and sums over the tokens of each row."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Nats up to which e^x of two policies' difference is computed: float32 overflows at 88, and one such token would make a whole
step infinite (or 0 · ∞ where its advantage is 0). Beyond it the tangent goes on: finite, and its slope points the right way."""


def bounded_exp(x: Tensor) -> Tensor:
    """e^x up to MAX_LOG_RATIO, beyond it its tangent there: value and gradient are exact below, finite and rising above.

    0 for −∞; what is no number, or +∞, stays so: a policy that gives such numbers is not to be stepped with.
    """
    beyond = torch.where(x > MAX_LOG_RATIO, x - MAX_LOG_RATIO, 0.0)
    return torch.exp(x.clamp(max=MAX_LOG_RATIO)) * (1 + beyond)


def row_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """The sum over its row, at each token: [sum of lengths], differentiable."""
    row = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths)
    sums = torch.zeros(len(lengths), dtype=values.dtype, device=values.device).index_add(0, row, values)
    return sums[row]


def row_means(values: Tensor, lengths: Tensor) -> Tensor:
    """The mean over its row, at each token: [sum of lengths], differentiable."""
    return row_sums(values, lengths) / torch.repeat_interleave(lengths, lengths)
