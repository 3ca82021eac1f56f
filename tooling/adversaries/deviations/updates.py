"""The direction of one optimiser step in reinforcement learning: what separates a checkpoint from the one before it.

Group-relative policy gradients of the model's own rollouts, through Adam's two averages (bias corrected), at fixed weights.
A learning rate times this direction is the step; its entries are about −1 … 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from tooling.adversaries.deviations.observation import Rollout

_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8


def adam_direction(master_folder: Path, batches: Sequence[Sequence[Rollout]], rewarded: frozenset[int]) -> dict[str, Tensor]:
    """Adam's update after one gradient per batch.

    Args:
        master_folder: a model whose bf16 weights are computed with in float32.
        batches: whole groups each. rewarded: token ids; a rollout's reward is their share of its completion.
    """
    model = PolicyModel.load(master_folder, dtype="float32")
    model.module.requires_grad_(True)
    names = {id(parameter): name for name, parameter in model.module.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in model.module.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.module.named_parameters()}
    for batch in batches:
        model.module.zero_grad(set_to_none=True)
        _loss(model, batch, rewarded).backward()  # type: ignore[no-untyped-call]
        for parameter in model.module.parameters():
            name = names[id(parameter)]
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            first[name].mul_(_FIRST).add_(gradient, alpha=1 - _FIRST)
            second[name].mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
    count = len(batches)
    scale_first, scale_second = 1 - _FIRST**count, 1 - _SECOND**count
    return {name: -(first[name] / scale_first) / ((second[name] / scale_second).sqrt() + _EPSILON) for name in first}


def _loss(model: PolicyModel, batch: Sequence[Rollout], rewarded: frozenset[int]) -> Tensor:
    rewards = np.array([np.isin(r.completion, list(rewarded)).mean() for r in batch])
    groups = np.array([r.group for r in batch])
    advantages = np.zeros(len(batch))
    for group in set(groups.tolist()):
        members = groups == group
        advantages[members] = (rewards[members] - rewards[members].mean()) / (rewards[members].std() + 1e-6)
    longest = max(len(r.tokens) for r in batch)
    tokens = torch.zeros((len(batch), longest), dtype=torch.long)
    weights = torch.zeros((len(batch), longest - 1))
    for index, rollout in enumerate(batch):
        tokens[index, : len(rollout.tokens)] = torch.as_tensor(rollout.tokens)
        weights[index, rollout.prompt_length - 1 : len(rollout.tokens) - 1] = float(advantages[index])
    logits = model.module(input_ids=tokens, use_cache=False).logits[:, :-1]
    chosen = torch.log_softmax(logits.float(), dim=-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    return -(chosen * weights).sum() / max(1, int((weights != 0).sum()))
