"""Who learns together: this process alone, or the ranks that `torchrun` started.

Ranks stand in a mesh [data, tensor]. Ranks of one row share the matrix products of the same micro-batches (tensor parallel);
rows learn from different micro-batches, and every rank holds its shard of the weights (`sharding`). All ranks know all rows of
an optimiser step, so normalisers are counted over the whole of it by each: gradients and statistics are summed, never averaged.
Every rank makes the same calls in the same order; what decides that order must be equal everywhere. Ranks trust each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from grail_core.errors import ConfigurationError, MachineFaultError

Item = TypeVar("Item")

DATA, TENSOR = "data", "tensor"

WORK_TIMEOUT = timedelta(minutes=30)
"""A collective that is not joined by all ranks for so long ends them: one of them hangs."""

IDLE_TIMEOUT = timedelta(days=30)
"""Between windows nothing is due: a peer that dies closes its connection, one that only waits must not be taken for dead."""


_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """This process among those that learn together. Without arguments: it learns alone, on the CPU.

    Attributes:
        mesh: [data, tensor] of all ranks, None for a process alone. everyone: the same ranks in one row.
        control: a group of gloo's, whatever weights travel over, for what is said between windows.
    """

    rank: int = 0
    count: int = 1
    tensor: int = 1
    device: torch.device = _CPU
    mesh: DeviceMesh | None = None
    everyone: DeviceMesh | None = None
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """The rank with chain, buckets and disk; the others follow it."""
        return self.rank == 0

    @property
    def data_count(self) -> int:
        """Micro-batches that are learned from at one time."""
        return self.count // self.tensor

    @property
    def data_rank(self) -> int:
        return self.rank // self.tensor

    def mine(self, parts: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """This rank's share of the micro-batches of a step, as many as every other rank's: collectives must match.

        Yields (part, counts): a rank with fewer gets one again that must add nothing, neither to loss nor to statistics.
        """
        known = list(parts)
        for start in range(0, len(known), self.data_count):
            index = start + self.data_rank
            yield (known[index], True) if index < len(known) else (known[0], False)

    def sums(self, values: Tensor) -> Tensor:
        """Of each value over all micro-batches, from what this rank's gave; on the CPU, the same bits on every rank."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def greatest(self, value: float) -> float:
        """Of all micro-batches."""
        return float(self._reduced(torch.tensor(value, dtype=torch.float64), dist.ReduceOp.MAX).item())

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.mesh is None:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total, operation, group=self.mesh[DATA].get_group())
        return total.cpu()

    def agree(self, yes: bool) -> bool:
        """Do all ranks say so?"""
        if self.mesh is None:
            return yes
        said = torch.tensor(int(yes), device=self.device)
        dist.all_reduce(said, dist.ReduceOp.MIN)
        return bool(said.item())

    def meet(self) -> None:
        """Go on when all ranks are here."""
        self.agree(True)

    def share(self, value: Any = None) -> Any:
        """The first rank's value (JSON), on every rank; the others give none."""
        return value if self.control is None else json.loads(self.share_bytes(json.dumps(value).encode()))

    def share_bytes(self, data: bytes = b"") -> bytes:
        """The first rank's bytes, on every rank. Waits as long as the first rank has nothing to say."""
        if self.control is None:
            return data
        size = torch.tensor(len(data), dtype=torch.int64)
        dist.broadcast(size, 0, group=self.control)
        buffer = torch.empty(int(size.item()), dtype=torch.uint8)
        if self.first and data:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        if len(buffer):
            dist.broadcast(buffer, 0, group=self.control)
        return buffer.numpy().tobytes()

    def require_same(self, value: Any, what: str) -> None:
        """Every rank calls this with its own value (JSON).

        Raises:
            MachineFaultError: on the ranks whose value is not the first one's: they must not go on together.
        """
        if json.dumps(self.share(value)) != json.dumps(value):
            raise MachineFaultError(
                f"rank {self.rank} has another {what} than rank 0",
                where=f"rank {self.rank} of {self.count}",
                hint="start every rank by the same command, with the same versions, on machines of one kind",
            )


ALONE = Ranks()


def started_by_torchrun() -> bool:
    """Is this one of several processes?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined_ranks(device: str = "cpu", *, tensor: int = 1) -> Iterator[Ranks]:
    """This process among those that torchrun started; alone where it started none. The group ends with the block.

    Args:
        device: "cpu" (gloo), or "cuda" (NCCL, the device with this rank's number on its machine).
        tensor: ranks that share each matrix product; a divisor of their count.

    Raises:
        ConfigurationError: the ranks cannot be laid out so, or torchrun's variables are not whole.
        MachineFaultError: another rank went away meanwhile.
    """
    if not started_by_torchrun():
        if tensor != 1:
            raise ConfigurationError(
                f"{tensor} ranks are to share each product, and this process is alone",
                where="--tensor-parallel",
                hint=f"start it by `torchrun --nproc-per-node {tensor}`",
            )
        yield Ranks(device=torch.device(device))
        return
    count, own = int(os.environ["WORLD_SIZE"]), _own_device(device)
    if tensor < 1 or count % tensor:
        raise ConfigurationError(
            f"{count} ranks cannot be laid out in rows of {tensor}",
            where="--tensor-parallel",
            hint="the number of ranks must be a multiple of it",
        )
    with _lost_peers():
        dist.init_process_group("gloo" if own.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=WORK_TIMEOUT)
        try:
            mesh = init_device_mesh(own.type, (count // tensor, tensor), mesh_dim_names=(DATA, TENSOR))
            everyone = init_device_mesh(own.type, (count,), mesh_dim_names=("everyone",))
            control = dist.new_group(backend="gloo", timeout=IDLE_TIMEOUT)
            ranks = Ranks(dist.get_rank(), count, tensor, own, mesh, everyone, control)
            ranks.require_same([tensor, torch.__version__], "layout or version of torch")
            yield ranks
        finally:
            dist.destroy_process_group()


def _own_device(device: str) -> torch.device:
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigurationError(
            f"WORLD_SIZE says that there are several ranks, but {missing[0]} is not set",
            where=missing[0],
            hint="start ranks by `torchrun --nproc-per-node N`, or unset WORLD_SIZE",
        )
    if torch.device(device).index is not None:
        raise ConfigurationError(
            f"every rank would use {device}",
            where="GRAIL_DEVICE",
            hint="name the kind alone (cuda): each rank takes the device with its own number on its machine",
        )
    if torch.device(device).type != "cuda":
        return torch.device(device)
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own


@contextmanager
def _lost_peers() -> Iterator[None]:
    """Say of torch's many errors which of them mean that another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        known = isinstance(error, dist.DistBackendError | dist.DistNetworkError)
        if not known and not any(word in text for word in ("connection closed by peer", "gloo", "nccl", "connection reset")):
            raise
        raise MachineFaultError(
            f"another rank went away, or hangs: {error}",
            where=f"rank {os.environ.get('RANK')}",
            hint="look at what that rank said last; started again (torchrun --max-restarts), the window is learned from anew",
        ) from error
