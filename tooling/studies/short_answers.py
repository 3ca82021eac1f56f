"""How far honest short answers come from the coarse bounds: the figures of docs/proof.md, "Short answers".

    python -m tooling.studies.short_answers --seconds 300 --seed 1

Random models of six shapes, some far more erratic than a trained one, answer in 1, 3, 6 or 15 tokens at most; either kind of
attention proves and measures, and one row at a time with the CPU's bf16 kernels off. Prints one JSON object a condition.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from grail_core.calibration.measure import ATTENTIONS, compared, measure, mine, other_kernels
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.coarse_bounds import coarse_error_share, coarse_margin_share
from grail_core.proof.comparison import Comparison
from grail_core.proof.sketches import projections
from grail_core.protocol.constants import COARSE_SHARE_POSITIONS, POSITION_ERROR_WINSOR, PROOF_BATCH_SIZE
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, save_random_model

SHAPES = tuple(
    Qwen2Shape(vocabulary, hidden=hidden, layers=layers, context=128, spread=spread)
    for vocabulary, hidden, layers, spread in (
        (64, 64, 3, 0.15),
        (64, 64, 3, 0.3),
        (64, 128, 4, 0.1),
        (300, 128, 4, 0.2),
        (64, 32, 2, 0.3),
        (128, 256, 8, 0.08),
    )
)
LIMITS = (1, 3, 6, 15)
PROMPTS = 24
_STRIDE = 7  # prime to the numbers of shapes and limits: every combination comes


@dataclass
class Extremes:
    """The largest honest values of one condition. `counted`: rollouts with enough positions, `beyond` of them over a bound."""

    rollouts: int = 0
    positions: int = 0
    counted: int = 0
    beyond: int = 0
    position_error: float = 0.0
    counted_error: float = 0.0
    margin: float = 0.0
    logprob_error: float = 0.0

    def add(self, sample: Sequence[Comparison]) -> None:
        for one in sample:
            errors = np.sqrt(np.square(one.errors, dtype=np.float64).mean(axis=1))
            self.rollouts += 1
            self.positions += len(errors)
            self.position_error = max(self.position_error, float(errors.max()))
            self.margin = max(self.margin, float(one.lost.max()))
            self.logprob_error = max(self.logprob_error, float(np.abs(one.logprob_errors).max()))
            if len(errors) >= COARSE_SHARE_POSITIONS:
                rms = np.sqrt(np.square(np.minimum(errors, POSITION_ERROR_WINSOR)).mean())
                self.counted += 1
                self.counted_error = max(self.counted_error, float(rms))
                self.beyond += coarse_error_share([one]).value > 0 or coarse_margin_share([one]).value > 0


def main() -> None:
    """Measure for some seconds and print."""
    parser = argparse.ArgumentParser(prog="python -m tooling.studies.short_answers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Extremes] = defaultdict(Extremes)
    number, end = options.seed, time.monotonic() + options.seconds
    while time.monotonic() < end:
        _one_model(number, found)
        number += _STRIDE
    for name, extremes in found.items():
        print(json.dumps({"condition": name} | asdict(extremes)))


def _one_model(number: int, found: dict[str, Extremes]) -> None:
    shape = SHAPES[number % len(SHAPES)]
    with tempfile.TemporaryDirectory() as folder:
        save_random_model(Path(folder), shape, number)
        models = {attention: PolicyModel.load(folder, attention=attention) for attention in ATTENTIONS}
    rng = np.random.default_rng(number)
    prompts = [tuple(rng.integers(20, shape.vocabulary, int(rng.integers(4, 50))).tolist()) for _ in range(PROMPTS)]
    signs = projections(Randomness(bytes(32)), number.to_bytes(32, "big"), shape.hidden)
    ends = frozenset(range(shape.vocabulary // (4, 8, 16)[number % 3]))
    policy = GenerationPolicy(LIMITS[number % len(LIMITS)])
    for attention, miner in models.items():
        rows = mine(miner, policy, ends, prompts, signs, seed=number)
        claims = [row.proof for row in rows]
        for other, validator in models.items():
            measured = measure(validator, policy, rows, signs, PROOF_BATCH_SIZE)
            found[f"{attention} by {other}"].add(compared(rows, claims, measured))
        with other_kernels():
            measured = measure(miner, policy, rows, signs, 1)
        found[f"{attention} by other kernels, batch 1"].add(compared(rows, claims, measured))


if __name__ == "__main__":
    main()
