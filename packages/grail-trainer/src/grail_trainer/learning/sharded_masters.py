"""Masters whose weights and moments lie in shards on several ranks.

Every rank calls every method, in the same order. The first gives and gets whole tensors; on the others what would be returned
is empty, and what is given is not looked at. Where the first rank has followers (`followers`), its `Lead` tells them which
method it calls, so that whoever holds the first rank's masters need not know of any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from grail_core.errors import ConfigurationError
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.ranks import Ranks
from grail_trainer.learning.sharded_state import read_sharded, write_sharded
from grail_trainer.learning.sharding import gather_again, gradient_norm, local, put, shard, whole_on_first
from grail_trainer.learning.training_state import MADE, SCALAR, STEPS, read_state_file, require_fits, state_digest

END = "end"


class Lead:
    """The first rank's word to its followers. What is told inside of a call is part of that call, and not told again."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._within = self._broken = False

    @contextmanager
    def call(self, name: str, *arguments: Any) -> Iterator[None]:
        """The followers do the same as this block: `name` with `arguments` (JSON)."""
        if self._within:
            yield
            return
        self._within = True
        try:
            self.ranks.share([name, *arguments])
            yield
        except BaseException:
            self._broken = True  # somewhere inside; a follower may wait for the rest of it
            raise
        finally:
            self._within = False

    def __enter__(self) -> Lead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Followers that wait for a word are told that none will come; others end as their connection does."""
        if not self._broken:
            self.ranks.share([END])
            self.ranks.meet()  # nobody leaves while another still reads what it said last


class ShardedMasters(Masters):
    """Masters of several ranks; see `Masters` for what each method does.

    Args:
        module: the first rank's has the weights; the others' has tensors of the same shapes.
        lead: of a first rank with followers.

    Raises:
        ConfigurationError: these settings are of one process, or the model cannot be laid out so (`sharding.shard`).
    """

    def __init__(self, module: Any, settings: OptimiserSettings, ranks: Ranks, lead: Lead | None = None) -> None:
        require_shareable(settings)
        self.ranks, self.lead = ranks, lead
        super().__init__(module, settings, norm=partial(gradient_norm, ranks=ranks))

    def laid_out(self, policy: Policy) -> Policy:
        # Tried on weights that are whole, which the first rank's are; and all ranks must make the same passes.
        policy.packed = self.ranks.share(policy.packed if self.ranks.first else None)
        shard(policy, self.ranks)
        return policy

    def _call(self, name: str, *arguments: Any) -> Any:
        return nullcontext() if self.lead is None else self.lead.call(name, *arguments)

    def _clip(self, norm: float, largest_norm: float) -> None:
        share = min(1.0, largest_norm / (norm + 1e-6))
        for parameter in self._named.values():
            if parameter.grad is not None:
                local(parameter.grad).mul_(share)

    @torch.no_grad()
    def published(self) -> dict[str, Tensor]:
        with self._call("published"):
            return self._gathered(self._named, torch.bfloat16)

    @torch.no_grad()
    def finite(self) -> bool:
        with self._call("finite"):
            held = (local(parameter) for parameter in self._named.values())
            return self.ranks.agree(all(bool(torch.isfinite(part.to(torch.bfloat16)).all()) for part in held))

    def tensors(self) -> dict[str, Tensor]:
        with self._call("tensors"):
            return self._gathered(dict(self._parts()))

    def digest(self) -> str:
        """Empty on the other ranks."""
        tensors = self.tensors()
        return state_digest(tensors) if self.ranks.first else ""

    def _gathered(self, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        whole = ((name, whole_on_first(tensor, self.ranks, dtype)) for name, tensor in tensors.items())
        return {name: tensor for name, tensor in whole if tensor is not None}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if self.ranks.first:
            require_fits(tensors, self._named, base=None)  # before a word is said
        with self._call("restore"):
            small = {name: tensor.item() for name, tensor in tensors.items() if is_number(name)}
            small, names = self.ranks.share([small, sorted(tensors)])
            placed = {
                name: torch.tensor(value, dtype=torch.float64 if name.startswith(SCALAR) else torch.int64)
                for name, value in small.items()
            }
            for name in names:
                if not is_number(name):
                    placed[name] = self._place(name)
                    put(placed[name], tensors.get(name), self.ranks)
            self._take(placed)

    def _place(self, name: str) -> Tensor:
        """Memory for this rank's shards of a tensor of the state."""
        return torch.zeros_like(self._named[name.partition(".")[2]].detach())

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        super()._take(tensors)
        gather_again(self.policy)

    def save(self, path: Path) -> None:
        """Write the state as a folder of shards of this name, atomically and durably."""
        with self._call("save", str(path)):
            write_sharded(dict(self._parts()), path, self.ranks)

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Read what `save` wrote, with however many ranks, or the file of one process."""
        if path.is_dir():
            self.resume_shards(path)
        else:
            self.restore(read_state_file(path) if self.ranks.first else {})

    @torch.no_grad()
    def resume_shards(self, path: Path) -> None:
        with self._call("resume_shards", str(path)):
            self._take(read_sharded(path, self._fitting, self.ranks))

    def _fitting(self, described: Mapping[str, Tensor]) -> dict[str, Tensor]:
        require_fits(described, self._named, base=None)
        return {name: tensor if is_number(name) else self._place(name) for name, tensor in described.items()}


def is_number(name: str) -> bool:
    """Is this a number of the run, and no tensor of a parameter's shape?"""
    return name == STEPS or name.startswith((SCALAR, MADE))


def require_shareable(settings: OptimiserSettings) -> None:
    """Is this what several ranks can do together?

    Raises:
        ConfigurationError: it is not; the option is named.
    """
    for chosen, where, what in (
        (settings.lora_rank > 0, "--lora-rank", "adapters are trained"),
        (settings.master_dtype != "float32", "--master-dtype", f"masters in {settings.master_dtype} are kept"),
    ):
        if chosen:
            raise ConfigurationError(
                f"{what} by one process alone", where=where, hint="leave it out, or start without torchrun"
            )
