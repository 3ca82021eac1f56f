"""A causal model in float32 whose weights come and go as arrays: what the inner loop trains and what losses are computed with.

The weights are the tensors that a checkpoint publishes: parameters by name, of those tied to each other the last name in order
(`checkpoints.publish.publishable`). Setting them copies into the module's own memory, so that scoring many candidates costs
little beside their forward passes. All rows are full (a corpus has sequences of one length): no padding, no mask, no cache,
no dropout. On one thread of a CPU the same weights and tokens give the same bits; several threads split sums otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from grail_core.errors import CheckpointError
from grail_core.model.architecture import context_length, require_describable
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.model.memory import on_this_machine
from grail_core.model.policy_model import Attention, PolicyModel

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

StateArrays = dict[str, F32]
"""float32, C-contiguous, in their original shapes, in the order of the names' UTF-8 bytes; tied ones once."""

Compute = Literal["fp32", "bf16"]
"""What products are computed in. Parameters, gradients and logits are float32 in either."""


class TrainedModel:
    """One module and its published weights. Not for two threads at a time.

    Attributes:
        sizes: name and shape of every weight, in the order of `StateArrays`: what a layout is made of.
    """

    def __init__(self, module: Any) -> None:
        """Wrap a Transformers causal model in float32. Sets evaluation mode, and asks for all gradients.

        Raises:
            CheckpointError: the protocol does not describe it; a weight is no float32, or is none that can be trained.
        """
        require_describable(module)
        self.module: Any = module.eval().requires_grad_(True)
        self.context_length = context_length(module)
        rows = [table.weight.shape[0] for table in (module.get_input_embeddings(), module.get_output_embeddings())]
        self.vocabulary_size = int(min(rows))
        self._parameters = _published(module)
        self.sizes = tuple((name, tuple(tensor.shape)) for name, tensor in self._parameters.items())

    @classmethod
    def load(cls, folder: str | Path, *, attention: Attention = "sdpa", device: str = "cpu") -> TrainedModel:
        """From a local folder in Transformers' layout. Errors: as `PolicyModel.load`, and those of the constructor."""
        return cls(PolicyModel.load(folder, attention=attention, dtype="float32", device=device).module)

    @property
    def device(self) -> torch.device:
        return next(iter(self._parameters.values())).device

    @torch.no_grad()
    def set(self, state: Mapping[str, F32]) -> None:
        """Copy these weights into the module.

        Raises:
            CheckpointError: other names or shapes, or arrays that are no float32; the module is untouched then.
        """
        if state.keys() != self._parameters.keys():
            missing, unknown = sorted(self._parameters.keys() - state.keys()), sorted(state.keys() - self._parameters.keys())
            raise CheckpointError(f"the tensors are not those of the model: missing {missing[:3]}, unknown {unknown[:3]}")
        for name, shape in self.sizes:
            if state[name].shape != shape or state[name].dtype != np.float32:
                raise CheckpointError(
                    f"tensor {name} is {state[name].dtype} {state[name].shape}, the model's is float32 {shape}"
                )
        for name, parameter in self._parameters.items():
            # A read-only array (a mapped file's) is only read: torch warns of it, since it cannot mark tensors so.
            array = state[name] if state[name].flags.writeable else state[name].copy()
            parameter.copy_(torch.from_numpy(array))

    def state(self) -> StateArrays:
        """A copy of the module's weights."""
        return {name: _array(parameter) for name, parameter in self._parameters.items()}

    @on_this_machine
    def gradient(self, tokens: I32, *, compute: Compute = "fp32", rows: int | None = None) -> StateArrays:
        """Of the mean over sequences of the mean next-token cross-entropy, at the module's weights.

        Args:
            tokens: int32 [b, L]. rows: sequences of one pass; None: all.

        Raises:
            OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
            MachineFaultError: as `on_this_machine`.
        """
        self._check(tokens)
        self.module.zero_grad(set_to_none=True)
        count = tokens.shape[0] * (tokens.shape[1] - 1)
        with torch.enable_grad():
            for start in range(0, len(tokens), rows or len(tokens)):
                part = tokens[start : start + (rows or len(tokens))]
                (self._losses(part, compute).sum() / count).backward()
        found = {
            name: np.zeros(parameter.shape, np.float32) if parameter.grad is None else _array(parameter.grad)
            for name, parameter in self._parameters.items()
        }
        self.module.zero_grad(set_to_none=True)
        return found

    @on_this_machine
    def token_losses(self, tokens: I32) -> F32:
        """float32 [b, L − 1]: nats of every token but the first, computed in float32 in one pass. Errors: as `gradient`."""
        self._check(tokens)
        with torch.inference_mode():
            return self._losses(tokens, "fp32").cpu().numpy()

    def _losses(self, tokens: I32, compute: Compute) -> Tensor:
        rows = torch.from_numpy(tokens.astype(np.int64)).to(self.device)
        with self._precision(compute):
            logits = self.module(input_ids=rows, use_cache=False).logits
        # All positions, the last against anything: leaving it out before would copy the logits.
        following = rows.roll(-1, dims=1).flatten()
        losses = functional.cross_entropy(logits.float().flatten(0, 1), following, reduction="none")
        return losses.view(rows.shape)[:, :-1]

    def _precision(self, compute: Compute) -> AbstractContextManager[Any]:
        return nullcontext() if compute == "fp32" else torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _check(self, tokens: I32) -> None:
        if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
            raise ValueError(f"rows of two or more tokens are expected, not an array of {tokens.shape}")
        if tokens.shape[1] > self.context_length:
            raise OverlongSequenceError(f"{tokens.shape[1]} tokens, but the context has {self.context_length}")
        if tokens.min() < 0 or tokens.max() >= self.vocabulary_size:
            raise OutOfVocabularyError(f"a token id is outside the vocabulary of {self.vocabulary_size}")


def _published(module: Any) -> dict[str, torch.nn.Parameter]:
    """Parameters by the names under which a checkpoint holds them."""
    names: dict[int, str] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in sorted(parameters, key=str.encode):
        names[id(parameters[name])] = name
    found = {name: parameters[name] for name in sorted(names.values(), key=str.encode)}
    strangers = sorted(module.state_dict().keys() - parameters.keys())
    strangers += [name for name, parameter in found.items() if parameter.dtype != torch.float32]
    if strangers or not found:
        raise CheckpointError(
            f"not every weight is a parameter in float32: {', '.join(strangers[:3]) or 'there is none'}",
            where=type(module).__name__,
            hint="gradient work trains all that a checkpoint holds: use a model without buffers of its own, saved in float32",
        )
    return found


def _array(tensor: Tensor) -> F32:
    return np.array(tensor.detach().cpu().contiguous().numpy(), dtype=np.float32, order="C")
