"""Rollouts, and the public randomness that they are written and proved in.

`Setting` is one invented window of the real derivations: seeds, projections and challenged positions are the protocol's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof
from grail_core.proof.sketches import Projections, projections, quantise, sketch
from grail_core.protocol import Randomness, challenged_positions
from grail_core.protocol.constants import CHALLENGE_K
from grail_core.protocol.policy import GenerationPolicy


@dataclass(frozen=True)
class Rollout:
    """Prompt and completion of one rollout, as the file would hold them."""

    group: int
    rollout: int
    tokens: tuple[int, ...]
    prompt_length: int

    @property
    def completion(self) -> tuple[int, ...]:
        return self.tokens[self.prompt_length :]


@dataclass(frozen=True)
class Setting:
    """Public randomness of the study. Another `label` is another window with other seeds, projections and challenge."""

    label: str
    policy: GenerationPolicy

    @cached_property
    def randomness(self) -> Randomness:
        return Randomness(_digest("network"))

    @cached_property
    def window_seed(self) -> bytes:
        return self.randomness.window_seed(_digest(self.label), _digest("beacon"))

    def sampling_seed(self, group: int, rollout: int, hotkey: str = "miner") -> int:
        parts = (self.window_seed, _digest(hotkey), _digest("checkpoint"), _digest("environment"))
        return self.randomness.sampling_seed(*parts, group, rollout)

    def projections(self, hidden: int) -> Projections:
        return projections(self.randomness, self.window_seed, hidden)

    def positions(self, rollout: Rollout, count: int = CHALLENGE_K) -> list[int]:
        row = hashlib.sha256(np.asarray(rollout.tokens, "<i4").tobytes()).digest()
        return challenged_positions(_digest("challenge" + self.label), row, len(rollout.completion), count)


def claim_of(model: PolicyModel, setting: Setting, rollout: Rollout, hidden: Tensor) -> RolloutProof:
    """Sketches and log-probabilities from hidden states [completion + 1, d], with `model`'s head."""
    data = quantise(sketch(hidden.contiguous(), setting.projections(model.hidden_size)))
    with torch.inference_mode():
        logits = model.logits(hidden[:-1].to(model.dtype))
        ids = torch.as_tensor(rollout.completion)[:, None]
        values = logits.gather(1, ids).squeeze(1) - logits.logsumexp(dim=1)
    return RolloutProof(data, values.numpy().astype(np.float32))


def _digest(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()
