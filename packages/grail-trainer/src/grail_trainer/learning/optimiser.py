"""The trained weights: masters, AdamW moments, and the bfloat16 cast that is published.

By default the module is kept in float32 and is its own set of masters; what leaves this machine is the cast of it, so a step
too small for bfloat16 is not lost but waits in the masters. By option it is kept in bfloat16 and rounded stochastically
(`rounding`), or it is frozen and adapters beside it are trained (`lora`). Moments are float32 always. The whole state comes
back to the bit (`training_state`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grail_core.errors import CheckpointError
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.alarms import LEARNING_RATE_FACTOR
from grail_trainer.learning.lora import adapt, adapted_layers, is_adapter
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.ranks import ALONE, Ranks
from grail_trainer.learning.rounding import StochasticAdamW
from grail_trainer.learning.schedule import learning_rate
from grail_trainer.learning.sharded_state import read_whole
from grail_trainer.learning.training_state import (
    BASE,
    MADE,
    MASTER,
    MOMENTS,
    SCALAR,
    STEPS,
    read_state_file,
    require_fits,
    state_digest,
    write_state_file,
)

__all__ = ["Masters", "state_digest"]

ADAM_BETAS = (0.9, 0.99)
EPSILON = 1e-8

_ADAM = dict(zip(MOMENTS, ("exp_avg", "exp_avg_sq"), strict=True))


def global_norm(gradients: Sequence[Tensor]) -> float:
    """The Euclidean norm of all gradients together."""
    return torch.nn.utils.get_total_norm(gradients).item() if gradients else 0.0


class Masters:
    """A Transformers causal model with its AdamW.

    Args:
        module: the model; converted in place to what masters are kept in, and put into evaluation mode: dropout (GPT-2's
            configuration asks for it) would make an update a function of torch's random state, and its log-probabilities
            another model's than those that rollouts were drawn from and verified with.
        settings: a learning rate of 0 is one: steps change moments and nothing else then.
        norm: of the gradients of one step, over all processes that hold a part of them.

    Attributes:
        scalars: what else of a run changes and must be resumed: a controller's coefficient, an alarm's factor of the rate.

    Raises:
        CheckpointError: the model has no layers of the names that adapters are asked for.
    """

    ranks: Ranks = ALONE
    """Who shares the weights: `sharded_masters` are of several."""

    def __init__(
        self, module: Any, settings: OptimiserSettings, *, norm: Callable[[Sequence[Tensor]], float] = global_norm
    ) -> None:
        self.module: Any = module.eval()
        if settings.master_dtype == "float32":
            self.module.float()
        self.module.requires_grad_(True)
        if settings.lora_rank:
            adapt(self.module, settings)
        self.policy = self.laid_out(Policy(self.module, compute=settings.compute).eval())
        self.settings, self._norm, self._steps = settings, norm, 0
        self.scalars: dict[str, float] = {}
        self._named: dict[str, Tensor] = {n: p for n, p in self.module.named_parameters() if p.requires_grad}  # tied ones once
        self._optimiser = self._make_optimiser()
        self._base: str | None = None  # digest of what adapters stand beside, once it was asked for

    def _make_optimiser(self) -> torch.optim.Optimizer:
        settings = self.settings
        stochastic = settings.master_dtype == "bfloat16-stochastic"
        if stochastic:
            for parameter in self._named.values():
                # The parameter alone: a model's tables of rotary frequencies stay in float32. Gradients of micro-batches add up
                # in float32, or a step would depend on how many there are.
                parameter.data = parameter.data.to(torch.bfloat16)
                parameter.grad_dtype = torch.float32
        groups: list[dict[str, Any]] = [
            {"params": [*chosen.values()], "names": [*chosen], "weight_decay": decay}
            for chosen, decay in (
                ({n: p for n, p in self._named.items() if p.dim() > 1}, settings.weight_decay),
                ({n: p for n, p in self._named.items() if p.dim() <= 1}, 0.0),  # biases and norms
            )
            if chosen
        ]
        rate = settings.learning_rate
        if stochastic:
            return StochasticAdamW(groups, lr=rate, betas=ADAM_BETAS, eps=EPSILON, seed=settings.rounding_seed)
        return torch.optim.AdamW(groups, lr=rate, betas=ADAM_BETAS, eps=EPSILON, fused=True)

    @classmethod
    def load(cls, folder: Path, settings: OptimiserSettings, *, device: str = "cpu") -> Masters:
        """Masters from a published checkpoint's folder, moments zero.

        Raises:
            CheckpointError: see `PolicyModel.load`; or the model has no layers of the names that adapters are asked for.
        """
        from grail_core.model.policy_model import PolicyModel

        model = PolicyModel.load(folder, dtype="bfloat16", device=device)
        _require_whole(model.module, model.state(), folder)
        return cls(model.module, settings)

    # --- a step -------------------------------------------------------------------------------------------------------

    def zero_gradients(self) -> None:
        self._optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def spoil_gradients(self) -> None:
        """Make the next `step` one that is not made, on every process that shares in it."""
        for parameter in self._named.values():
            if parameter.grad is not None:
                parameter.grad.fill_(math.nan)

    def step(self, *, largest_norm: float) -> float:
        """Clip the gradients to a global norm and step. Returns the norm before clipping; NaN or infinity: no step was made."""
        norm = self._norm([p.grad for p in self._named.values() if p.grad is not None])
        if not math.isfinite(norm):
            self.zero_gradients()
            return norm
        self._clip(norm, largest_norm)
        rate = self.learning_rate
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._steps += 1
        self.zero_gradients()
        return norm

    def _clip(self, norm: float, largest_norm: float) -> None:
        torch.nn.utils.clip_grads_with_norm_(list(self._named.values()), largest_norm, torch.tensor(norm))

    def laid_out(self, policy: Policy) -> Policy:
        """A policy's weights as these masters have theirs: here whole."""
        return policy

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return learning_rate(self.settings, self._steps) * self.scalars.get(LEARNING_RATE_FACTOR, 1.0)

    # --- what is published --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def published(self) -> dict[str, Tensor]:
        """The bfloat16 cast by parameter name, adapters merged, on the CPU: new tensors, each tied weight once."""
        return {name: tensor.to("cpu", torch.bfloat16, copy=True).contiguous() for name, tensor in self._whole()}

    @torch.no_grad()
    def finite(self) -> bool:
        """Of what is published: the cast overflows from 3.39e38 on, which float32 still holds."""
        return all(bool(torch.isfinite(tensor.to(torch.bfloat16)).all()) for _, tensor in self._whole())

    def _whole(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight of the model, one after the other; an adapted one is made when it is its turn."""
        layers = adapted_layers(self.module)
        for name, parameter in self.module.named_parameters():
            if name in layers:
                yield name, layers[name].merged()
            elif not is_adapter(name):
                yield name, parameter.detach()

    # --- what is resumed ----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resume needs, by name (see `training_state`). Copies, on the CPU."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._parts()}

    def digest(self) -> str:
        """`state_digest` of `tensors()`, without the copies."""
        return state_digest(dict(self._parts()))

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._named.items():
            yield f"{MASTER}{name}", parameter.detach()
            state = self._optimiser.state.get(parameter)
            if state:
                for moment, own in _ADAM.items():
                    yield f"{moment}{name}", state[own]
                if int(state["step"]) != self._steps:  # some steps gave it no gradient
                    yield f"{MADE}{name}", torch.tensor(int(state["step"]))
        yield STEPS, torch.tensor(self._steps)
        for name, value in self.scalars.items():
            yield f"{SCALAR}{name}", torch.tensor(value, dtype=torch.float64)
        if self.adapted:
            yield BASE, torch.frombuffer(bytearray.fromhex(self._base_digest()), dtype=torch.uint8)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned: the next step is the one that would have come next, to the bit.

        Raises:
            CheckpointError: the tensors are of another model or of masters of another kind; nothing is changed then.
        """
        require_fits(tensors, self._named, base=self._base_digest() if self.adapted else None)
        self._take(tensors)

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        self._steps = int(tensors[STEPS])
        self.scalars = {name.removeprefix(SCALAR): float(value) for name, value in tensors.items() if name.startswith(SCALAR)}
        for name, parameter in self._named.items():
            parameter.copy_(tensors[f"{MASTER}{name}"])
            self._optimiser.state.pop(parameter, None)
            if f"{MOMENTS[0]}{name}" in tensors:
                moments = {own: tensors[f"{moment}{name}"].to(parameter.device, copy=True) for moment, own in _ADAM.items()}
                made = tensors.get(f"{MADE}{name}", tensors[STEPS])
                self._optimiser.state[parameter] = {"step": torch.tensor(float(made), device=parameter.device), **moments}
        self.zero_gradients()

    def save(self, path: Path) -> None:
        """Write the state atomically and durably; what adapters stand beside, into a file of its own before it."""
        if self.adapted and not (path.parent / self.base_file).exists():
            write_state_file(path.parent / self.base_file, self._base_tensors())
        write_state_file(path, dict(self._parts()))

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Read what `save` wrote, or several ranks into a folder (`sharded_state`).

        Raises:
            CheckpointError: a file cannot be read, or is of another model or of masters of another kind.
        """
        tensors = read_whole(path)
        if not self.adapted or BASE not in tensors:
            self.restore(tensors)
            return
        stated = bytes(tensors[BASE].tolist()).hex()
        require_fits(tensors, self._named, base=stated)
        if stated != self._base_digest():
            where = path.parent / _base_file(stated)
            base = read_state_file(where)
            mine = {name: tensor for name, tensor in self.module.named_parameters() if not is_adapter(name)}
            fits = base.keys() == mine.keys() and all(base[name].shape == mine[name].shape for name in mine)
            if not fits or state_digest(base) != stated:
                raise CheckpointError("the weights beside the adapters are not those of the training state", where=str(where))
            for name, parameter in mine.items():
                parameter.copy_(base[name])
            self._base = stated
        self._take(tensors)

    @property
    def has_moments(self) -> bool:
        """Was a step made in this run?"""
        return bool(self._optimiser.state)

    # --- adapters -----------------------------------------------------------------------------------------------------

    @property
    def adapted(self) -> bool:
        """Are adapters trained, and not the weights?"""
        return self.settings.lora_rank > 0

    @property
    def base_file(self) -> str:
        """Name of the file with the weights that adapters stand beside."""
        return _base_file(self._base_digest())

    def _base_digest(self) -> str:
        if self._base is None:
            self._base = state_digest(self._base_tensors())
        return self._base

    def _base_tensors(self) -> dict[str, Tensor]:
        """bfloat16 where that is what a weight is: those of a checkpoint are."""
        held: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            if not is_adapter(name):
                cast = parameter.detach().to(torch.bfloat16)
                held[name] = cast if torch.equal(cast.to(parameter.dtype), parameter) else parameter.detach()
        return held


def _base_file(digest: str) -> str:
    return f"base-{digest[:32]}.safetensors"


def _require_whole(module: Any, loaded: Mapping[str, Tensor], folder: Path) -> None:
    """What is trained and published must be all that a reader loads, in the type that it loads.

    Raises:
        CheckpointError: the model has tensors that are no weights, or keeps some in another type.
    """
    trained = dict(module.named_parameters())
    left_out = sorted(loaded.keys() ^ trained.keys())
    kept = sorted(name for name, tensor in loaded.items() if tensor.is_floating_point() and tensor.dtype != torch.bfloat16)
    for names, what in ((left_out, "a tensor that is loaded and not trained"), (kept, "a tensor that stays in another type")):
        if names:
            raise CheckpointError(
                f"the model has {what}: {names[0]}",
                where=str(folder),
                hint="a checkpoint is bf16 weights alone; use another architecture",
            )
