"""A policy's weights laid over ranks: FSDP2 over its layers, and tensor parallelism where its architecture has a plan.

Weights become DTensors of which each rank holds a shard, and names stay. A layer's weights are gathered around its pass, those
of embedding, last norm and head around the policy's: the head is read inside `Policy.forward` alone. Gradients are summed over
the rows of the mesh, since losses are normalised over the whole optimiser step. Embedding and head are whole in every row:
tensor parallelism splits attention and feed-forward, as Transformers' plan for the architecture says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from grail_core.errors import ConfigurationError
from grail_trainer.learning.ranks import DATA, TENSOR, Ranks

_HEADS = 2  # of [batch, positions, heads, width]: a norm over each head's width sees some of the heads on each rank


def shard(policy: nn.Module, ranks: Ranks) -> None:
    """Lay the weights over the ranks, in place; every rank has the first one's values afterwards. Nothing for one process.

    A frozen policy's products are not split: a reference is bfloat16, and sums of parts, each rounded to it, are other numbers.

    Args:
        policy: `Policy` around a Transformers model; the other ranks' may hold anything in tensors of the same shapes.

    Raises:
        ConfigurationError: the model cannot be split over `ranks.tensor` ranks.
    """
    if ranks.mesh is None:
        return
    module: Any = policy.module
    whole = {name: parameter.detach() for name, parameter in policy.named_parameters() if ranks.first}
    held = [*policy.named_parameters(), *policy.named_buffers()]
    frozen = not any(parameter.requires_grad for parameter in policy.parameters())
    ranks.require_same([frozen, *([name, list(one.shape), str(one.dtype)] for name, one in held)], "model")
    if ranks.tensor > 1 and not frozen:
        _split_products(module, ranks)
    mesh = ranks.everyone if frozen and ranks.everyone is not None else ranks.mesh[DATA]
    kinds = set(getattr(module, "_no_split_modules", None) or ())
    for part in [part for part in module.modules() if type(part).__name__ in kinds]:
        fully_shard(part, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    for part in policy.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # a factor alone asks for an operation that only NCCL has
    for name, parameter in policy.named_parameters():
        put(parameter, whole.pop(name, None), ranks)
    for buffer in policy.buffers():
        values = buffer.to(ranks.device).contiguous()
        dist.broadcast(values, 0)
        buffer.copy_(values)


def gather_again(policy: nn.Module) -> None:
    """Forget gathered weights: the next pass gathers them from the shards, which were changed."""
    for part in policy.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, or the tensor itself; a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_on_first(tensor: Tensor, ranks: Ranks, dtype: torch.dtype | None = None) -> Tensor | None:
    """A copy of the whole tensor on the CPU of the first rank, None on the others. Every rank calls it."""
    full = _gathered(tensor) if isinstance(tensor, DTensor) else tensor.detach()
    return full.to("cpu", dtype or full.dtype, copy=True).contiguous() if ranks.first else None


def _gathered(tensor: DTensor) -> Tensor:
    """First within the column, what FSDP2 split last; both at once is done by torch in the same two steps, with a warning."""
    if tensor.device_mesh.ndim == 2:
        tensor = tensor.redistribute(placements=[Replicate(), tensor.placements[1]])
    return tensor.full_tensor()


@torch.no_grad()
def put(target: Tensor, whole: Tensor | None, ranks: Ranks) -> None:
    """Copy the first rank's whole tensor into `target`, wherever its shards are. Every rank calls it; the others give None."""
    values = torch.empty(target.shape, dtype=target.dtype, device=ranks.device)
    if ranks.first and whole is not None:
        values.copy_(whole)
    dist.broadcast(values, 0)
    local(target).copy_(_shard_of(values, target))


def _shard_of(whole: Tensor, target: Tensor) -> Tensor:
    """What of a whole tensor this rank holds. FSDP2 splits what tensor parallelism left, so the mesh is read backwards."""
    if not isinstance(target, DTensor):
        return whole
    mesh, part = target.device_mesh, whole
    for axis in reversed(range(mesh.ndim)):
        dimension = getattr(target.placements[axis], "dim", None)
        if dimension is not None:
            parts = torch.chunk(part, mesh.size(axis), dimension)
            own = mesh.get_local_rank(axis)
            part = parts[own] if own < len(parts) else part.narrow(dimension, 0, 0)
    return part


def gradient_norm(gradients: Iterable[Tensor], ranks: Ranks) -> float:
    """The 2-norm of all gradients together, each element counted once whoever holds it. Every rank calls it."""
    squares = torch.zeros((), dtype=torch.float64, device=ranks.device)
    for gradient in gradients:
        if _split_by_tensor(gradient) or ranks.rank % ranks.tensor == 0:
            squares += local(gradient).double().square().sum()
    dist.all_reduce(squares)
    return math.sqrt(squares.item()) if math.isfinite(squares.item()) else squares.item()


def _split_by_tensor(tensor: Tensor) -> bool:
    """Or is it the same on all ranks of a row?"""
    names = tensor.device_mesh.mesh_dim_names if isinstance(tensor, DTensor) else None
    if not isinstance(tensor, DTensor) or names is None or TENSOR not in names:
        return False
    return getattr(tensor.placements[names.index(TENSOR)], "dim", None) is not None


def _split_products(module: Any, ranks: Ranks) -> None:
    """Transformers' plan for the architecture, carried out by torch's tensor parallelism.

    Raises:
        ConfigurationError: there is no plan, it asks for what is not done here, or a size cannot be divided.
    """
    config, base = module.config, module.base_model
    name = type(module).__name__
    plan = getattr(config, "base_model_tp_plan", None)
    if not plan:
        raise _refused(f"{name} has no plan for tensor parallelism")
    for size in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        value = getattr(config, size, 0) or 0
        if value % ranks.tensor:
            raise _refused(f"{name} has {size} {value}, which {ranks.tensor} ranks cannot divide")
    styles: dict[str, ParallelStyle] = {}
    for pattern, style in plan.items():
        form = re.compile(r"\.".join(r"\d+" if step == "*" else re.escape(step) for step in pattern.split(".")))
        for found in (path for path, _ in base.named_modules() if form.fullmatch(path)):
            styles[found] = _style(name, pattern, style, base.get_submodule(found))
    if not styles:
        raise _refused(f"nothing of {name} is what its plan for tensor parallelism names")
    if ranks.mesh is not None:
        parallelize_module(base, ranks.mesh[TENSOR], styles, src_data_rank=None)


def _style(name: str, pattern: str, style: str, part: nn.Module) -> ParallelStyle:
    if style == "colwise" and isinstance(part, nn.Linear):
        return ColwiseParallel()
    if style == "rowwise" and isinstance(part, nn.Linear):
        return RowwiseParallel()
    if style == "replicated_with_grad_allreduce":
        return SequenceParallel(sequence_dim=_HEADS, use_local_output=True)
    raise _refused(f"{name} splits {pattern} as {style}, which is not done here")


def _refused(what: str) -> ConfigurationError:
    return ConfigurationError(what, where="--tensor-parallel", hint="1: its weights are sharded all the same (FSDP2)")
