"""Held-out loss of rounds, over that of one process with AdamW on the same sequences.

`loss_ratio`: as many steps as the rounds have inner steps, each on all miners' rows of that step. `loss_ratio_small_batch`: one
miner's rows a step, so as many times more steps. The process keeps its moments, sends nothing and has the best of three rates,
chosen by the very loss that is compared; the rounds have the preset's. Four honest miners of the least batch.
"""

from __future__ import annotations

import statistics

import numpy as np

from grail_core.proof.trained_model import I32
from grail_core.protocol.gradient.spec import GradientSpec
from grail_envs.corpus.bytes_1 import ENTROPY
from grail_trainer.gradient_presets import TINY
from tooling.rounds.reference import reference
from tooling.studies.benchmarks.gradient_lean import LeanNetwork

Figures = dict[str, float]

MINERS = 4
ROUNDS = 30
SEEDS = range(8)
QUICK = range(2)


def loss_figures(quick: bool = False) -> Figures:
    """Both ratios: mean over seeds, standard deviation, least and greatest."""
    found = [ratios(TINY, seed) for seed in (QUICK if quick else SEEDS)]
    figures: Figures = {"gradient.loss_ratio.seeds": len(found), "gradient.loss.entropy": ENTROPY}
    for key in found[0]:
        values = [one[key] for one in found]
        figures |= {
            f"gradient.{key}": statistics.mean(values),
            f"gradient.{key}.sd": statistics.stdev(values),
            f"gradient.{key}.least": min(values),
            f"gradient.{key}.most": max(values),
        }
    return figures


def ratios(spec: GradientSpec, seed: int, rounds: int = ROUNDS, miners: int = MINERS) -> Figures:
    """Of one seed: both ratios, and the losses in nats that they are of."""
    network = LeanNetwork.of(spec, seed)
    sizes = [spec.batch_least] * miners
    theta = network.start
    for played in network.play(sizes, rounds):
        theta = played.merged
    ours = network.held_out(theta)
    small = [rows for number in range(rounds) for rows in _steps(network, number, miners)]
    large = [np.concatenate(small[i : i + miners]) for i in range(0, len(small), miners)]
    alone, more = (
        reference(network.model, network.start, batches, spec, network.held_out, every=len(batches)).losses[-1]
        for batches in (large, small)
    )
    return {
        "loss_ratio": ours / alone,
        "loss_ratio_small_batch": ours / more,
        "loss": ours,
        "loss.adamw": alone,
        "loss.adamw_small_batch": more,
    }


def _steps(network: LeanNetwork, number: int, miners: int) -> list[I32]:
    """A round's batches, step by step and in a step miner by miner."""
    by_miner = [network.batches(number, uid, network.spec.batch_least) for uid in range(miners)]
    return [rows for step in zip(*by_miner, strict=True) for rows in step]
