"""Models that are nearly the right one: quantised, one step older, a layer short.

Each function returns a new `PolicyModel` and leaves the given one alone. Quantisation is round-to-nearest and symmetric, on
the linear layers of the blocks (embeddings and head stay, as in the common 8-bit and 4-bit formats).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import round_to_nearest


def quantised(model: PolicyModel, bits: int, group: int | None) -> PolicyModel:
    """Weights at `bits` bits. `group`: input columns that share a scale; None: one scale per output channel."""
    return _with_weights(model, lambda weight: round_to_nearest(weight, bits, group).to(weight.dtype))


def with_zero_point(model: PolicyModel, bits: int, group: int) -> PolicyModel:
    """Weights at `bits` bits between the least and the largest of every `group` input columns: a scheme nobody names."""
    return _with_weights(model, lambda weight: _between_extremes(weight.float(), bits, group).to(weight.dtype))


def in_eight_bit_floats(model: PolicyModel) -> PolicyModel:
    """Weights as float8 (e4m3), one scale per output channel."""

    def rounded(weight: Tensor) -> Tensor:
        scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / torch.finfo(torch.float8_e4m3fn).max
        values: Tensor = (weight.float() / scale).to(torch.float8_e4m3fn).float() * scale
        return values.to(weight.dtype)

    return _with_weights(model, rounded)


def with_low_rank(model: PolicyModel, rank: int, share: float, seed: int) -> PolicyModel:
    """A random change of so low a rank added to every matrix, its norm this share of the matrix's: an adapter's size."""
    draw = torch.Generator().manual_seed(seed)

    def changed(weight: Tensor) -> Tensor:
        step = torch.randn(weight.shape[0], rank, generator=draw) @ torch.randn(rank, weight.shape[1], generator=draw)
        moved: Tensor = weight.float() + step * (share * weight.float().norm() / step.norm())
        return moved.to(weight.dtype)

    return _with_weights(model, changed)


def in_float32(model: PolicyModel) -> PolicyModel:
    """The same weights, computed with in float32."""
    return PolicyModel(copy.deepcopy(model.module).float().requires_grad_(False))


def stepped_back(model: PolicyModel, master: Mapping[str, Tensor], update: Mapping[str, Tensor], rate: float) -> PolicyModel:
    """The checkpoint one optimiser step older: the float32 weights minus `rate` × `update`, rounded to the model's dtype.

    Args:
        master: float32 weights by name, which the model's are rounded from. update: the step's direction (1 = the rate).
    """
    older = _copy(model)
    state = older.state()
    with torch.no_grad():
        for name, value in state.items():
            value.copy_((master[name] - rate * update[name]).to(value.dtype))
    older.weights_changed()
    return older


def in_eager(model: PolicyModel) -> PolicyModel:
    """The same weights with eager attention: another honest numerics."""
    module = copy.deepcopy(model.module)
    module.set_attn_implementation("eager")
    return PolicyModel(module)


def changed_share(model: PolicyModel, other: PolicyModel) -> float:
    """Share of the weights that differ between two models of one shape."""
    ours, theirs = model.state(), other.state()
    different = sum(int((ours[name] != theirs[name]).sum()) for name in ours)
    return different / sum(value.numel() for value in ours.values())


def without_layer(model: PolicyModel, index: int) -> PolicyModel:
    """Block `index` does nothing."""
    return _with_layer(model, index, _Bypass(None))


@torch.no_grad()
def with_patched_layer(model: PolicyModel, index: int, rows: Sequence[Sequence[int]]) -> PolicyModel:
    """Block `index` replaced by the linear map that fits its outputs best (least squares over the positions of `rows`)."""
    seen: list[tuple[Tensor, Tensor]] = []
    layer = model.base.layers[index]
    hook = layer.register_forward_hook(
        lambda _module, args, kwargs, output: seen.append((args[0] if args else kwargs["hidden_states"], output)),
        with_kwargs=True,
    )
    try:
        for row in rows:
            model.hidden_states([row])
    finally:
        hook.remove()
    inputs = torch.cat([pair[0][0] for pair in seen]).double()
    changes = torch.cat([_first(pair[1])[0] for pair in seen]).double() - inputs
    ridge = 1e-4 * inputs.pow(2).mean() * torch.eye(inputs.shape[1], dtype=torch.float64) * len(inputs)
    fitted = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ changes)
    return _with_layer(model, index, _Bypass(fitted.T.float()))


@torch.no_grad()
def map_between(model: PolicyModel, other: PolicyModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """float64 [d + 1, d]: what best predicts (ridge regression over the positions of `rows`) how the other model's state of
    unit length differs from this one's, from this one's times √d and a constant."""
    mine, theirs = (torch.cat([model_of.hidden_states([row])[0] for row in rows]).double() for model_of in (model, other))
    inputs, targets = with_constant(mine), theirs / theirs.norm(dim=1, keepdim=True) - mine / mine.norm(dim=1, keepdim=True)
    ridge = 0.1 * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    fitted: Tensor = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
    return fitted


def with_constant(states: Tensor) -> Tensor:
    """States [n, d] as `map_between` takes them, [n, d + 1]."""
    scaled = states * (states.shape[1] ** 0.5 / states.norm(dim=1, keepdim=True))
    return torch.cat([scaled, torch.ones(len(states), 1, dtype=states.dtype)], dim=1)


class _Bypass(nn.Module):
    """Stands in a block's place: the hidden states as they are, plus a linear function of them."""

    attention_type = "full_attention"

    def __init__(self, matrix: Tensor | None) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        if self.matrix is None:
            return hidden_states
        return hidden_states + nn.functional.linear(hidden_states.float(), self.matrix).to(hidden_states.dtype)


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _between_extremes(weight: Tensor, bits: int, group: int) -> Tensor:
    width = weight.shape[1] if weight.shape[1] % group else group
    blocks = weight.reshape(-1, width)
    low, high = blocks.amin(dim=1, keepdim=True).clamp_max(0), blocks.amax(dim=1, keepdim=True).clamp_min(0)
    scale = (high - low).clamp_min(1e-12) / (2**bits - 1)
    zero = (-low / scale).round()
    rounded: Tensor = (((blocks / scale).round() + zero).clamp(0, 2**bits - 1) - zero) * scale
    return rounded.reshape(weight.shape)


def _copy(model: PolicyModel) -> PolicyModel:
    return PolicyModel(copy.deepcopy(model.module))


def _with_layer(model: PolicyModel, index: int, layer: nn.Module) -> PolicyModel:
    changed = _copy(model)
    changed.base.layers[index] = layer
    return changed


def _with_weights(model: PolicyModel, change: Callable[[Tensor], Tensor]) -> PolicyModel:
    changed = _copy(model)
    with torch.no_grad():
        for block in changed.base.layers:
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    part.weight.copy_(change(part.weight))
    return changed
