"""What a trainer's memory is taken by, part by part, from a model's configuration alone.

Weights are counted, not loaded: every figure follows from the number of parameters but two, the activations and the logits.
Activations are counted on tensors without memory, by asking autograd what it keeps of a short row for the backward pass; that
grows with the number of tokens (attention keeps no matrix over pairs of them). What torch and libraries take besides (a few
hundred MiB), and what an allocator does not give back, is not in here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from grail_trainer.hyper_parameters import HyperParameters, OptimiserSettings
from grail_trainer.steps import MAX_PENDING

SINGLE: Final = 4
"""Bytes of a float32."""
HALF: Final = 2
"""Bytes of a bfloat16."""
_COUNTED_TOKENS = 16
VERIFYING, UPDATING, WRITING = "verifying rollouts", "updating", "writing the training state"
PHASES: Final = (VERIFYING, UPDATING, WRITING)


@dataclass(frozen=True)
class ModelSize:
    """Of a causal model: its numbers (tied ones once), how many are trained (of them, or adapters beside them), tokens of its
    head, and bytes that autograd keeps of one token."""

    parameters: int
    trained: int
    vocabulary: int
    context_length: int
    layers: int
    hidden_size: int
    activation_bytes: int


@dataclass(frozen=True)
class MemoryPart:
    """`phases` in which it is there."""

    name: str
    nbytes: int
    phases: tuple[str, ...] = PHASES


@dataclass(frozen=True)
class MemoryPlan:
    parts: tuple[MemoryPart, ...]

    def part(self, name: str) -> int:
        """Bytes of one part. Raises KeyError."""
        return {part.name: part.nbytes for part in self.parts}[name]

    def total(self, phase: str) -> int:
        return sum(part.nbytes for part in self.parts if phase in part.phases)

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that takes most, and how much."""
        phase = max(PHASES, key=self.total)
        return phase, self.total(phase)

    def to_json(self) -> dict[str, Any]:
        return {
            "parts": [{"name": part.name, "bytes": part.nbytes, "phases": list(part.phases)} for part in self.parts],
            "bytes": {phase: self.total(phase) for phase in PHASES},
        }


def memory_plan(size: ModelSize, chosen: HyperParameters, *, pack_tokens: int, logits_bytes: int) -> MemoryPlan:
    """What is held, and when.

    Args:
        pack_tokens: of the largest pass with gradients. logits_bytes: held by the head at one time.
    """
    weights, trained = size.parameters, size.trained
    adapters = trained if chosen.optimiser.lora_rank else 0
    one = HALF if chosen.optimiser.master_dtype == "bfloat16-stochastic" else SINGLE
    state = (one + 2 * SINGLE) * trained
    parts = [
        MemoryPart("masters", one * (weights + adapters)),
        MemoryPart("moments", 2 * SINGLE * trained),
        MemoryPart("behaviour checkpoint", HALF * weights),
        MemoryPart("weights waiting to be published", MAX_PENDING * HALF * weights),
        MemoryPart("reference", HALF * weights if chosen.update.kl_coefficient and not adapters else 0, (UPDATING,)),
        MemoryPart("behaviour policy in float32", SINGLE * weights, (VERIFYING,)),
        MemoryPart("gradients", SINGLE * trained, (UPDATING,)),
        MemoryPart("copy to take the first update back to", one * trained, (UPDATING,)),  # later ones: the state on disk
        MemoryPart("published weights before and after", 2 * HALF * weights, (UPDATING,)),
        MemoryPart("activations of the largest pass", size.activation_bytes * pack_tokens, (UPDATING,)),
        MemoryPart("logits, and the head as a pass needs it", logits_bytes, (VERIFYING, UPDATING)),
        MemoryPart("training state as tensors and as bytes", 2 * state, (WRITING,)),
    ]
    return MemoryPlan(tuple(parts))


def model_size(config: Mapping[str, Any], optimiser: OptimiserSettings | None = None) -> ModelSize:
    """Of the model that a configuration (config.json) makes.

    Raises:
        CheckpointError: it makes none, none that says how long its context is, or none with the layers that get adapters.
    """
    from grail_core.model.architecture import context_length
    from grail_core.model.skeleton import skeleton
    from grail_trainer.learning.lora import adapt

    module = skeleton(config)
    vocabulary, hidden = module.get_output_embeddings().weight.shape
    parameters = trained = sum(parameter.numel() for parameter in module.parameters())
    if optimiser is not None and optimiser.lora_rank:
        adapt(module, optimiser)
        trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return ModelSize(
        parameters=parameters,
        trained=trained,
        vocabulary=int(vocabulary),
        context_length=context_length(module),
        layers=int(module.config.num_hidden_layers),
        hidden_size=int(hidden),
        activation_bytes=_activation_bytes(module.config),
    )


def _activation_bytes(config: Any) -> int:
    """Bytes that autograd keeps of a token's way through the body, in float32: storages of its own, each once."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.autograd.graph import saved_tensors_hooks
    from transformers import AutoModelForCausalLM

    kept: dict[int, Any] = {}  # storages, which stay alive while they are counted: an address is not given out twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with FakeTensorMode(), _quiet():
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
        own |= {buffer.untyped_storage()._cdata for buffer in module.buffers()}
        tokens = torch.zeros((1, _COUNTED_TOKENS), dtype=torch.long)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            module.base_model(input_ids=tokens, use_cache=False)
        total = sum(storage.nbytes() for address, storage in kept.items() if address not in own)
    return -(-int(total) // _COUNTED_TOKENS)


@contextlib.contextmanager
def _quiet() -> Any:
    """Transformers warns of configurations; whoever loads the model hears it."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
