"""Honest ways to compute the hidden states that are sketched: one per numerics that a miner may have.

The first is the protocol's own (section 5), the others differ in rounding alone. `SAME_DTYPE` are those a miner may call
bf16; float16 and float32 are computed for the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from tooling.adversaries.deviations.decoding import replay
from tooling.adversaries.deviations.weights import with_constant

RolloutTokens = Sequence[Sequence[int]]
Prover = Callable[[RolloutTokens, int], list[Tensor]]
"""(rows of one group, prompt length) → final hidden states from the prompt's last token on, [completion + 1, d] a row."""

PROTOCOL_NUMERICS = "sdpa, batch 16"
SAME_DTYPE = (
    PROTOCOL_NUMERICS,
    "eager, batch 16",
    "sdpa, batch 1",
    "eager, batch 1",
    "sdpa, padded to 64",
    "KV-cache decode, sdpa",
    "KV-cache decode, eager",
)
OTHER_DTYPE = ("float16, batch 16", "float32, batch 16")


@dataclass(frozen=True)
class HonestModels:
    """One checkpoint under every numerics; each is loaded when it is asked for: a large one is gigabytes."""

    folder: Path

    @cached_property
    def sdpa(self) -> PolicyModel:
        return PolicyModel.load(self.folder)

    @cached_property
    def eager(self) -> PolicyModel:
        return PolicyModel.load(self.folder, attention="eager")

    @cached_property
    def half(self) -> PolicyModel:
        return PolicyModel.load(self.folder, dtype="float16")

    @cached_property
    def single(self) -> PolicyModel:
        return PolicyModel.load(self.folder, dtype="float32")


def same_dtype(models: HonestModels) -> Mapping[str, Prover]:
    """bf16 provers, the protocol's first, by the names of SAME_DTYPE."""
    ways = (
        together(models.sdpa),
        together(models.eager),
        alone(models.sdpa),
        alone(models.eager),
        padded(models.sdpa, 64),
        cached(models.sdpa),
        cached(models.eager),
    )
    return dict(zip(SAME_DTYPE, ways, strict=True))


def other_dtype(models: HonestModels) -> Mapping[str, Prover]:
    """For the record: no numerics class admits them."""
    return dict(zip(OTHER_DTYPE, (together(models.half), together(models.single)), strict=True))


def together(model: PolicyModel) -> Prover:
    return lambda rows, prompt: [states[prompt - 1 :] for states in model.hidden_states(rows)]


def alone(model: PolicyModel) -> Prover:
    return lambda rows, prompt: [model.hidden_states([row])[0][prompt - 1 :] for row in rows]


def cached(model: PolicyModel) -> Prover:
    return lambda rows, prompt: replay(model, rows, prompt)


def padded(model: PolicyModel, multiple: int) -> Prover:
    """All rows filled up on the right to a multiple of so many tokens."""

    def prove(rows: RolloutTokens, prompt: int) -> list[Tensor]:
        longest = -(-max(map(len, rows)) // multiple) * multiple
        filled = [[*row, *[0] * (longest - len(row))] for row in rows]
        states = model.hidden_states(filled)
        return [state[prompt - 1 : len(row)] for row, state in zip(rows, states, strict=True)]

    return prove


@torch.inference_mode()
def moved(model: PolicyModel, matrix: Tensor, share: float) -> Prover:
    """States of this model moved by so many times what `weights.map_between` predicts."""

    def prove(rows: RolloutTokens, prompt: int) -> list[Tensor]:
        found = []
        for states in together(model)(rows, prompt):
            exact = states.double()
            change = exact.norm(dim=1, keepdim=True) * (with_constant(exact) @ matrix)
            found.append((exact + share * change).float())
        return found

    return prove


def before_the_norm(model: PolicyModel) -> Prover:
    """Not honest: the hidden states that the last norm is given."""

    def prove(rows: RolloutTokens, prompt: int) -> list[Tensor]:
        return [states[prompt - 1 :] for states in _layer_states(model, rows, model.layers)]

    return prove


def of_layer(model: PolicyModel, layer: int) -> Prover:
    """Not honest: the hidden states after block `layer` (1 is the first), normed like the last ones."""

    def prove(rows: RolloutTokens, prompt: int) -> list[Tensor]:
        with torch.inference_mode():
            return [model.base.norm(states[prompt - 1 :]) for states in _layer_states(model, rows, layer)]

    return prove


def _layer_states(model: PolicyModel, rows: RolloutTokens, layer: int) -> list[Tensor]:
    """Output of block `layer` (1 … layers), before any norm."""
    kept: list[Tensor] = []
    hook = model.base.layers[layer - 1].register_forward_hook(
        lambda _module, _args, output: kept.append(output if isinstance(output, Tensor) else output[0])
    )
    try:
        model.hidden_states(rows)
    finally:
        hook.remove()
    return [kept[0][index, : len(row)] for index, row in enumerate(rows)]
