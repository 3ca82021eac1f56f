"""What is measured: rollouts drawn on the device with the protocol's seeds, honestly or not, and honest ways to run them again.

Prompts are random tokens and no completion ends early, so that every batch is a rectangle and figures of different rollouts are
alike. Decoding is in the model's own dtype with a key-value cache on the device, as an engine decodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries.deviations.decoding import Chooser, decode
from tooling.adversaries.deviations.observation import Rollout, Setting
from tooling.studies.gpu_study.shapes import Amount

TEMPERATURE: Final = 1.0
_ROWS_AT_ONCE = 64


def setting_of(amount: Amount, label: str) -> Setting:
    """One invented window: seeds, projections and challenged positions are the protocol's."""
    return Setting(label, GenerationPolicy(max(amount.completion, amount.speed_completion), temperature=TEMPERATURE))


def draw(model: PolicyModel, setting: Setting, amount: Amount, chooser: Chooser | None = None) -> list[Rollout]:
    """Whole groups of 16 rollouts. `chooser`: the rule for the next token, where it is not the setting's policy."""
    rule = chooser or SeededSampler(setting.policy)
    rng = np.random.default_rng(1)
    count = amount.groups
    prompts = [tuple(map(int, rng.integers(0, model.vocabulary_size, amount.prompt))) for _ in range(count)]
    rows = [(g, r) for g in range(count) for r in range(ROLLOUTS_PER_PROBLEM)]
    rollouts = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        seeds = [setting.sampling_seed(g, r) for g, r in part]
        done = decode(model, [prompts[g] for g, _ in part], seeds, rule, None, amount.completion)
        rollouts += [
            Rollout(g, r, (*prompts[g], *completion), amount.prompt)
            for (g, r), completion in zip(part, done.completions, strict=True)
        ]
    return rollouts


def in_batches(rollouts: Sequence[Rollout]) -> Iterator[list[Rollout]]:
    """Proof batches: one group each."""
    for start in range(0, len(rollouts), ROLLOUTS_PER_PROBLEM):
        yield list(rollouts[start : start + ROLLOUTS_PER_PROBLEM])
