"""Low-rank adapters (Hu et al. 2021): two small matrices beside a frozen linear layer, trained in its stead.

    y = x Wᵀ + b + (x Aᵀ) Bᵀ · alpha / rank        A [rank, in] drawn, B [out, rank] zero: the first pass is the base's

The layers keep their places and names in the model, so that it goes on being the model that everything else knows; what is
published is the whole of it, each adapted weight as W + B A · alpha / rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grail_core.errors import ConfigurationError
from grail_trainer.hyper_parameters import ALL_LINEAR, OptimiserSettings
from grail_trainer.learning.counter_random import key_of, uniform

_A, _B = "lora_a", "lora_b"


class AdaptedLinear(nn.Linear):
    """A linear layer that holds the frozen weight and bias of another, and an adapter.

    Attributes:
        adapting: whether the adapter is added. scale: alpha / rank.
    """

    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def __init__(self, base: nn.Linear, *, rank: int, scale: float, key: int) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.adapting = scale, True
        device, bound = base.weight.device, 1 / math.sqrt(base.in_features)
        drawn = uniform(key, rank * base.in_features).reshape(rank, base.in_features) * bound
        self.lora_a = nn.Parameter(drawn.to(device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        if not self.adapting:
            return out
        low = nn.functional.linear(input.to(self.lora_a.dtype), self.lora_a)
        return out + (nn.functional.linear(low, self.lora_b) * self.scale).to(out.dtype)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """float32 [out, in]: the weight of a plain layer that computes the same."""
        return torch.addmm(self.weight.float(), self.lora_b, self.lora_a, alpha=self.scale)


def adapt(module: Any, settings: OptimiserSettings) -> None:
    """Freeze a causal model and put adapters beside its linear layers, in place. A function of its arguments.

    Raises:
        ConfigurationError: a name in `lora_modules` is of no linear layer, or of the head.
    """
    module.requires_grad_(False)
    head = module.get_output_embeddings()
    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and layer is not head}
    wanted = None if settings.lora_modules == ALL_LINEAR else {name.strip() for name in settings.lora_modules.split(",")}
    kinds = {name.rpartition(".")[2] for name in linear}
    unknown = sorted((wanted or kinds) - kinds)
    if unknown or not linear:
        raise ConfigurationError(
            f"no linear layer that could get an adapter is called {unknown[0]!r}"
            if unknown
            else "the model has no linear layer",
            where="--lora-modules",
            hint=f"of this model: {', '.join(sorted(kinds)) or 'none'}",
        )
    for name, layer in linear.items():
        parent, _, own = name.rpartition(".")
        if wanted is None or own in wanted:
            key = key_of("grail-trainer/lora", settings.lora_seed, name)
            scale = settings.lora_alpha / settings.lora_rank
            setattr(module.get_submodule(parent), own, AdaptedLinear(layer, rank=settings.lora_rank, scale=scale, key=key))


def adapted_layers(module: Any) -> dict[str, AdaptedLinear]:
    """By the name of the layer's weight in the model."""
    return {f"{name}.weight": layer for name, layer in module.named_modules() if isinstance(layer, AdaptedLinear)}


def is_adapter(name: str) -> bool:
    """Is this a name of an adapter's parameter?"""
    return name.rpartition(".")[2] in (_A, _B)


@contextmanager
def without_adapters(module: Any) -> Iterator[None]:
    """The base alone: what the model was before it was adapted."""
    layers = list(adapted_layers(module).values())
    for layer in layers:
        layer.adapting = False
    try:
        yield
    finally:
        for layer in layers:
            layer.adapting = True
