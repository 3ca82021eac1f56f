"""One of several processes that step bfloat16 weights divided among them by rows, and what they have together in the end.

`python -m tooling.testing.rounding_ranks RANK RANKS STORE OUT`: STORE is a file through which the processes find each other
(gloo), OUT gets the whole weights, from the first of them.
"""

from __future__ import annotations

import datetime
import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from grail_trainer.learning.counter_random import key_of, uniform
from grail_trainer.learning.rounding import StochasticAdamW

SHAPES = {"weight": (7, 5), "norm": (7,), "small": (1, 3)}
"""Rows that two processes cannot share evenly; one has none of the last."""
STEPS = 3


def drawn(name: str, step: int) -> Tensor:
    """float32: weights at step 0, then the gradients of each step."""
    shape = SHAPES[name]
    return uniform(key_of("rounding-ranks", name, step), torch.Size(shape).numel()).reshape(shape)


def stepped(parameters: dict[str, torch.nn.Parameter]) -> None:
    """A few steps on parameters that hold `drawn(name, 0)`, whole or divided."""
    groups = [{"params": [*parameters.values()], "names": [*parameters], "weight_decay": 0.1}]
    optimiser = StochasticAdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, seed=5)
    for step in range(1, STEPS + 1):
        for name, parameter in parameters.items():
            gradient = drawn(name, step).to(torch.bfloat16)
            held = parameter.data
            parameter.grad = (
                distribute_tensor(gradient, held.device_mesh, [Shard(0)]) if isinstance(held, DTensor) else gradient
            )
        optimiser.step()


def main(rank: int, ranks: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    waits = datetime.timedelta(seconds=300)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=waits)
    mesh = init_device_mesh("cpu", (ranks,))
    parameters = {
        name: torch.nn.Parameter(distribute_tensor(drawn(name, 0).to(torch.bfloat16), mesh, [Shard(0)])) for name in SHAPES
    }
    stepped(parameters)
    whole = {name: parameter.detach().full_tensor() for name, parameter in parameters.items()}  # type: ignore[attr-defined]
    if rank == 0:
        save_file(whole, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
