"""Random weights of a real shape, made on the device that computes with them, and the copies that deviate from them.

A model of 7 billion weights never lies in main memory. Trained weights have heavy tails and a few outlier dimensions, and 8-bit
rounding is as coarse as these make it; so have these: Student-t values of six degrees, four dimensions ten times as large with
small norms behind them, and a last norm that leaves 1.2 nats of entropy. What such models say about trained ones is how
numerics behave, not how much a step of training changes.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import round_to_nearest
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, configuration

ENTROPY: Final = 1.2
"""Nats of the next token, on random prompts."""

_OUTLIERS, _OUTLIER_FACTOR = 4, 10.0
_PROBE_ROWS, _PROBE_TOKENS = 4, 16
_FINAL_NORM: Final = "model.norm.weight"

Change = Callable[[str, Tensor], Tensor]
"""(name, the model's weight) → the deviating one, any floating dtype, on the same device."""


def random_model(shape: Qwen2Shape, device: torch.device, seed: int) -> PolicyModel:
    """A bf16 model on `device`; shape, kind of device and seed decide every weight."""
    module = _empty(shape, device)
    generator = torch.Generator(device=device).manual_seed(seed)
    outliers = torch.randperm(shape.hidden, generator=generator, device=device)[:_OUTLIERS]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_weights(name, tuple(parameter.shape), shape.tied, outliers, generator))
    model = PolicyModel(module.requires_grad_(False))
    _set_entropy(model, generator)
    return model


def _empty(shape: Qwen2Shape, device: torch.device) -> Any:
    from transformers import Qwen2ForCausalLM

    config = configuration(shape)
    with torch.device("meta"):
        module = Qwen2ForCausalLM(config).to(torch.bfloat16)
    module = module.to_empty(device=device).eval()
    module.model.rotary_emb = type(module.model.rotary_emb)(config).to(device)  # what no folder holds, in float32
    if shape.tied:
        module.lm_head.weight = module.model.embed_tokens.weight
    return module


def _weights(name: str, size: tuple[int, ...], tied: bool, outliers: Tensor, generator: torch.Generator) -> Tensor:
    def normal() -> Tensor:
        return torch.randn(size, generator=generator, device=generator.device)

    if name.endswith("norm.weight"):
        values = torch.exp(0.25 * normal())
        values[outliers] *= 0.3
    elif name.endswith("bias"):
        values = 0.5 * normal()
    elif "embed_tokens" in name or "lm_head" in name:
        values = normal()
        if "embed_tokens" in name and not tied:
            values[:, outliers] *= _OUTLIER_FACTOR / 2
    else:
        deviation = 1 / math.sqrt(size[1])
        values = _student(size, generator)
        if "o_proj" in name or "down_proj" in name:
            values *= 0.5 * deviation
            values[outliers] *= _OUTLIER_FACTOR
        else:
            values *= (1.3 if "q_proj" in name or "k_proj" in name else 1.0) * deviation
    return values


def _student(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Student's t of six degrees and variance 1: half a chi-square of six degrees is minus the logarithm of three uniforms."""
    uniforms = torch.rand(size, generator=generator, device=generator.device)
    for _ in range(2):
        uniforms.mul_(torch.rand(size, generator=generator, device=generator.device))
    half_chi_square = uniforms.clamp_min_(torch.finfo(torch.float32).tiny).log_().neg_()
    values = torch.randn(size, generator=generator, device=generator.device)
    return values.mul_(half_chi_square.div_(3).rsqrt_()).mul_(math.sqrt(4 / 6))


@torch.inference_mode()
def _set_entropy(model: PolicyModel, generator: torch.Generator) -> None:
    """Scale the last norm until random prompts are followed by ENTROPY nats on average."""
    ids = torch.randint(model.vocabulary_size, (_PROBE_ROWS, _PROBE_TOKENS), generator=generator, device=generator.device)
    logits = model.logits(torch.cat(model.hidden_states(ids.tolist())))
    low, high = 1e-4, 1e3
    for _ in range(40):
        middle = math.sqrt(low * high)
        spread = (logits * middle).log_softmax(dim=1)
        entropy = float(-(spread.exp() * spread).sum(dim=1).mean())
        low, high = (middle, high) if entropy > ENTROPY else (low, middle)
    norm = model.state()[_FINAL_NORM]
    with model.lock:
        norm.mul_(math.sqrt(low * high))
        model.weights_changed()


class OtherWeights:
    """One more bf16 copy of a model, whose weights become one deviation's after the other's."""

    def __init__(self, model: PolicyModel) -> None:
        self._base = model
        self._copy = PolicyModel(copy.deepcopy(model.module))

    @torch.inference_mode()
    def become(self, change: Change) -> PolicyModel:
        """The copy with these weights, until the next call."""
        ours = self._base.state()
        with self._copy.lock:
            for name, value in self._copy.state().items():
                value.copy_(change(name, ours[name]))
            self._copy.weights_changed()
        return self._copy


def quantised(bits: int, group: int | None) -> Change:
    """Symmetric round-to-nearest of the blocks' matrices; embeddings and head stay."""
    return lambda name, weight: round_to_nearest(weight, bits, group) if _in_blocks(name, weight) else weight


def eight_bit_float(name: str, weight: Tensor) -> Tensor:
    """The blocks' matrices in fp8 (e4m3), a scale per output channel."""
    if not _in_blocks(name, weight):
        return weight
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (weight.float() / scale).to(torch.float8_e4m3fn).float() * scale


def zero_point(bits: int, group: int) -> Change:
    """Integers with a scale and a zero point per group of input columns: a scheme that no validator names."""

    def change(name: str, weight: Tensor) -> Tensor:
        if not _in_blocks(name, weight):
            return weight
        width = group if weight.shape[1] % group == 0 else weight.shape[1]
        blocks = weight.float().reshape(-1, width)
        low, high = blocks.amin(dim=1, keepdim=True).clamp_max(0), blocks.amax(dim=1, keepdim=True).clamp_min(0)
        top = 2**bits - 1
        scale = (high - low).clamp_min(1e-12) / top
        zero = (-low / scale).round()
        integers = ((blocks / scale).round() + zero).clamp(0, top)
        rounded: Tensor = (integers - zero).mul(scale).reshape(weight.shape)
        return rounded

    return change


def stepped_back(rate: float, seed: int) -> Change:
    """The checkpoint one step of `rate` older, in a random direction of one per weight.

    The float32 weights behind the bf16 ones are not known: any that round to them would do, and these are drawn.
    """

    def change(name: str, weight: Tensor) -> Tensor:
        generator = torch.Generator(device=weight.device).manual_seed(seed + zlib.crc32(name.encode()))
        rounding = torch.rand(weight.shape, generator=generator, device=weight.device).sub_(0.5).mul_(2.0**-8)
        step = torch.randn(weight.shape, generator=generator, device=weight.device).mul_(rate)
        return (weight.float() * (1 + rounding) - step).to(weight.dtype)

    return change


def _in_blocks(name: str, weight: Tensor) -> bool:
    return ".layers." in name and weight.dim() == 2
