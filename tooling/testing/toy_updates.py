"""Something to learn from in no time: a tiny random model and random rollouts with random rewards."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

VOCABULARY = 19


def module_of(seed: int = 0, hidden: int = 16) -> Any:
    return random_model(Qwen2Shape(VOCABULARY, hidden=hidden, heads=2, tied=True), seed)


def groups_of(count: int = 3, size: int = 4, seed: int = 0) -> list[RolloutGroup]:
    """Random rollouts, of a behaviour policy that is near uniform, as a random model is."""
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(count):
        rollouts = []
        for _ in range(size):
            prompt, completion = int(rng.integers(2, 6)), int(rng.integers(1, 7))
            row = TokenSequence(tuple(map(int, rng.integers(0, VOCABULARY, prompt + completion))), prompt)
            behaviour = np.full(completion, -math.log(VOCABULARY), dtype=np.float32)
            rollouts.append(Rollout(row, float(rng.random()), False, behaviour))
        groups.append(RolloutGroup(str(number), tuple(rollouts)))
    return groups
