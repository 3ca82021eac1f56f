"""Decoding with a key-value cache in the model's own dtype, under any rule for the next token.

Unlike `grail_core.generation.hf`, which an honest miner uses, the rule can be dishonest, any block may be replaced, and the
hidden states met on the way can be kept: an engine's numerics. All prompts of a call have one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel


class Chooser(Protocol):
    """The rule for the next token of every row; `grail_core.model.sampling.SeededSampler` is the honest one."""

    def sample(
        self,
        logits: Tensor,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        histories: Sequence[Sequence[int]] | None = None,
    ) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True)
class Decoded:
    """Completions (the end token last), and the hidden states [completion + 1, d] from the prompt's last token on."""

    completions: list[tuple[int, ...]]
    hidden: list[Tensor]


@torch.inference_mode()
def decode(
    model: PolicyModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    chooser: Chooser,
    end: int | None,
    limit: int,
) -> Decoded:
    """Complete every prompt. `end`: the token that ends a completion; None: none does."""
    length = len(prompts[0])
    words = np.array([seed & (2**64 - 1) for seed in seeds], dtype=np.uint64)
    chosen = np.zeros((len(prompts), limit), dtype=np.int64)
    stepper = _Stepper(model)
    states = [stepper(torch.as_tensor(np.asarray(prompts), dtype=torch.long))]
    done = np.zeros(len(prompts), dtype=bool)
    for step in range(limit):
        positions = np.full(len(prompts), length + step - 1, dtype=np.uint32)
        histories = None
        if getattr(chooser, "needs_history", False):
            histories = [[*prompt, *chosen[i, :step].tolist()] for i, prompt in enumerate(prompts)]
        chosen[:, step] = chooser.sample(model.logits(states[-1]), words, positions, histories)
        states.append(stepper(torch.from_numpy(chosen[:, step : step + 1])))
        if end is not None:
            done |= chosen[:, step] == end
            if done.all():
                break
    used = len(states) - 1
    stacked = torch.stack(states, dim=1)
    completions, hidden = [], []
    for row, tokens in enumerate(chosen[:, :used]):
        stops = np.flatnonzero(tokens == end) if end is not None else np.empty(0, np.int64)
        count = int(stops[0]) + 1 if len(stops) else used
        completions.append(tuple(map(int, tokens[:count])))
        hidden.append(stacked[row, : count + 1])
    return Decoded(completions, hidden)


@torch.inference_mode()
def replay(model: PolicyModel, rows: Sequence[Sequence[int]], prompt_length: int) -> list[Tensor]:
    """Hidden states of given rows as a cached decoder meets them: prompt in one pass, then token by token."""
    longest = max(map(len, rows))
    tokens = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    stepper = _Stepper(model)
    states = [stepper(tokens[:, :prompt_length])]
    states += [stepper(tokens[:, at : at + 1]) for at in range(prompt_length, longest)]
    stacked = torch.stack(states, dim=1)
    return [stacked[index, : len(row) - prompt_length + 1] for index, row in enumerate(rows)]


class _Stepper:
    """One cache; each call feeds tokens [n, t], from any device, and returns the final hidden state [n, d] after the last."""

    def __init__(self, model: PolicyModel) -> None:
        from transformers import DynamicCache

        self._base: Any = model.base
        self._device = model.device
        self._cache = DynamicCache(config=model.module.config)

    def __call__(self, tokens: Tensor) -> Tensor:
        there = tokens.to(self._device)
        hidden: Tensor = self._base(input_ids=there, past_key_values=self._cache, use_cache=True).last_hidden_state
        return hidden[:, -1]
