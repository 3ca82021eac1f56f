"""Pairs of checkpoints to code: synthetic ones at a wanted share of unchanged weights, and real ones from training.

Synthetic: 50 M weights in the shapes of a small decoder, N(0, 0.02²) fp32 masters, one step of normally distributed updates
whose size is found by bisection, so that the wanted share of the bf16 casts stays unchanged. Real: a byte-level language model
trained with AdamW on fp32 masters over Python's own standard library, its bf16 casts taken after consecutive steps.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]
State = dict[str, RawTensor]

WARM_UP_STEPS, MEASURED_STEPS = 120, 50
CONTEXT, BATCH = 96, 8
SHAPE = Qwen2Shape(
    256, hidden=192, intermediate=512, layers=4, heads=6, key_value_heads=2, context=CONTEXT, spread=0.02, tied=True
)


def bf16(values: Floats) -> Bits:
    """Round to nearest even, as torch does (finite values)."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def shapes(layers: int = 5, hidden: int = 768, inner: int = 2048, vocabulary: int = 19_000) -> dict[str, tuple[int, ...]]:
    """A decoder of about 50 M weights."""
    made: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for n in range(layers):
        block = f"model.layers.{n}."
        made |= {f"{block}self_attn.{p}_proj.weight": (hidden, hidden) for p in "qkvo"}
        made |= {f"{block}mlp.{p}_proj.weight": (inner, hidden) for p in ("gate", "up")}
        made |= {f"{block}mlp.down_proj.weight": (hidden, inner), f"{block}input_layernorm.weight": (hidden,)}
    return made


def synthetic(unchanged: float, seed: int = 0) -> tuple[State, State]:
    """Base and new state of which `unchanged` (a share) of the weights are equal."""
    rng = np.random.default_rng(seed)
    layout = shapes()
    size = sum(int(np.prod(shape)) for shape in layout.values())
    master = rng.standard_normal(size, np.float32) * np.float32(0.02)
    update = rng.standard_normal(size, np.float32)
    low, high = 1e-9, 1e-3
    sample, step = master[: 1 << 20], update[: 1 << 20]
    for _ in range(22):
        middle = float(np.sqrt(low * high))
        if (bf16(sample) != bf16(sample + np.float32(middle) * step)).mean() > 1 - unchanged:
            high = middle
        else:
            low = middle
    base, new = bf16(master), bf16(master + np.float32(high) * update)
    return _split(layout, base), _split(layout, new)


def _split(layout: dict[str, tuple[int, ...]], flat: Bits) -> State:
    state, offset = {}, 0
    for name in sorted(layout):
        size = int(np.prod(layout[name]))
        state[name] = RawTensor(Layout(DTYPES["BF16"], layout[name]), flat[offset : offset + size].copy())
        offset += size
    return state


def real(learning_rate: float, seed: int = 0) -> Iterator[State]:
    """bf16 casts before the first and after each of `MEASURED_STEPS` steps at this rate, after a warm-up at 3e-4."""
    model = random_model(SHAPE, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, betas=(0.9, 0.999))
    text = _corpus()
    generator = torch.Generator().manual_seed(seed)
    for step in range(WARM_UP_STEPS + MEASURED_STEPS):
        if step == WARM_UP_STEPS:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            yield _cast(model)
        starts = torch.randint(0, text.numel() - CONTEXT, (BATCH,), generator=generator)
        batch = torch.stack([text[s : s + CONTEXT] for s in starts]).long()
        optimiser.zero_grad(set_to_none=True)
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step >= WARM_UP_STEPS:
            yield _cast(model)


def _cast(model: torch.nn.Module) -> State:
    state = {}
    for name, parameter in sorted(model.named_parameters()):
        values = parameter.detach().to(torch.bfloat16).contiguous()
        bits = values.view(-1).view(torch.uint8).numpy().view(np.uint16).copy()
        state[name] = RawTensor(Layout(DTYPES["BF16"], tuple(values.shape)), bits)
    return state


def _corpus(limit: int = 2 << 20) -> torch.Tensor:
    parts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        data = path.read_bytes()
        parts.append(data)
        size += len(data)
        if size >= limit:
            break
    return torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8)
