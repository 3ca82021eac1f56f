"""The trained weights: float32 masters, AdamW moments, and the bfloat16 cast that is published.

The module is kept in float32 and is its own set of masters; what leaves this machine is the cast of it, so a step too small
for bfloat16 is not lost but waits in the masters. The whole state goes into one safetensors file and comes back to the bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grail_core.disk import write_atomically
from grail_core.errors import CheckpointError, is_out_of_memory
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.schedule import learning_rate

ADAM_BETAS = (0.9, 0.99)

_SCALAR = "scalar."


class Masters:
    """A Transformers causal model in float32 with its AdamW.

    Args:
        module: the model; converted to float32 in place, and put into evaluation mode: dropout (GPT-2's configuration asks for
            it) would make an update a function of torch's random state, and its log-probabilities another model's than those
            that rollouts were drawn from and verified with.
        settings: a learning rate of 0 is one: steps change moments and nothing else then.
    """

    def __init__(
        self,
        module: Any,
        settings: OptimiserSettings,
    ) -> None:
        self.module: Any = module.float().eval()
        self.module.requires_grad_(True)
        self.policy = Policy(self.module).eval()
        self.settings, self._steps = settings, 0
        self.scalars: dict[str, float] = {}  # what else of a run changes and must be resumed: a controller's coefficient
        self._named: dict[str, Tensor] = dict(self.module.named_parameters())  # tied parameters once
        self._optimiser = torch.optim.AdamW(
            list(self._named.values()), lr=settings.learning_rate, betas=ADAM_BETAS, weight_decay=0.0, eps=1e-8, foreach=False
        )

    @classmethod
    def load(cls, folder: Path, settings: OptimiserSettings, *, device: str = "cpu") -> Masters:
        """Masters from a published checkpoint's folder, moments zero.

        Raises:
            CheckpointError: see `PolicyModel.load`.
        """
        from grail_core.model.policy_model import PolicyModel

        model = PolicyModel.load(folder, dtype="bfloat16", device=device)
        _require_whole(model.module, model.state(), folder)
        return cls(model.module, settings)

    def zero_gradients(self) -> None:
        self._optimiser.zero_grad(set_to_none=True)

    def step(self, *, largest_norm: float) -> float:
        """Clip the gradients to a global norm and step. Returns the norm before clipping; NaN or infinity: no step was made."""
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item() if gradients else 0.0
        if not math.isfinite(norm):
            self.zero_gradients()
            return norm
        torch.nn.utils.clip_grads_with_norm_(list(self._named.values()), largest_norm, torch.tensor(norm))
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self._steps)
        self._optimiser.step()
        self._steps += 1
        self.zero_gradients()
        return norm

    @torch.no_grad()
    def published(self) -> dict[str, Tensor]:
        """The bfloat16 cast by parameter name, on the CPU: new tensors, each tied weight once."""
        return {name: parameter.detach().to("cpu", torch.bfloat16).contiguous() for name, parameter in self._named.items()}

    @torch.no_grad()
    def finite(self) -> bool:
        """Of what is published: the cast overflows from 3.39e38 on, which float32 still holds."""
        return all(bool(torch.isfinite(parameter.to(torch.bfloat16)).all()) for parameter in self._named.values())

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """Everything a resume needs, by name: `master.*`, `moment1.*`, `moment2.*`, `steps`, and float64 `scalar.*`.

        Copies, on the CPU.
        """
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            tensors[f"master.{name}"] = parameter.detach().cpu().clone()
            state = self._optimiser.state.get(parameter)
            if state:
                tensors[f"moment1.{name}"] = state["exp_avg"].cpu().clone()
                tensors[f"moment2.{name}"] = state["exp_avg_sq"].cpu().clone()
        tensors["steps"] = torch.tensor(self._steps)
        for name, value in self.scalars.items():
            tensors[f"{_SCALAR}{name}"] = torch.tensor(value, dtype=torch.float64)
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned: the next step is the one that would have come next, to the bit.

        Raises:
            CheckpointError: the tensors are of another model; nothing is changed then.
        """
        for name, parameter in self._named.items():
            master = tensors.get(f"master.{name}")
            if master is None or master.shape != parameter.shape or master.dtype != torch.float32:
                raise CheckpointError("the training state is of another model", where=name)
        self._steps = int(tensors["steps"]) if "steps" in tensors else 0
        self.scalars = {name.removeprefix(_SCALAR): float(value) for name, value in tensors.items() if name.startswith(_SCALAR)}
        for name, parameter in self._named.items():
            parameter.copy_(tensors[f"master.{name}"])
            self._optimiser.state.pop(parameter, None)
            if self._steps and f"moment1.{name}" in tensors:
                self._optimiser.state[parameter] = {
                    "step": torch.tensor(float(self._steps)),
                    "exp_avg": tensors[f"moment1.{name}"].to(parameter.device, copy=True),
                    "exp_avg_sq": tensors[f"moment2.{name}"].to(parameter.device, copy=True),
                }

    def save(self, path: Path) -> None:
        """Write the state atomically and durably."""
        from safetensors.torch import save

        write_atomically(path, save(self.tensors()))

    def resume(self, path: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file cannot be read, or is of another model.
        """
        from safetensors.torch import load

        try:
            tensors = load(path.read_bytes())
        except Exception as error:  # safetensors raises its own kinds
            if is_out_of_memory(error):
                raise  # nothing is wrong with the file
            raise CheckpointError(f"the training state cannot be read: {error}", where=str(path)) from error
        self.restore(tensors)


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


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, shapes and bytes, in order of name; for the training log."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
