"""From measured rates to a recommendation: pure, so that the same numbers always give the same advice.

Rates are noisy, and a smaller batch has less unfinished when a window's time is up: of all sizes whose rate cannot be told from
the best one's, the smallest is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STAGES: Final = ("generate", "judge", "prove", "pack")
LEAST_NOISE: Final = 0.02
"""Of a rate: differences below are no reason for a larger batch, however little the runs differed."""

FRUITLESS: Final = 2
"""Sizes one after the other that bring nothing, after which larger ones are not tried."""


@dataclass(frozen=True)
class Run:
    """One run of the pipeline. Rates in groups per second; a stage's is that of the stage while it works, all its workers."""

    rate: float
    stages: dict[str, float]  # by STAGES
    tokens_per_s: float  # of completions, of the whole run


@dataclass(frozen=True)
class Measured:
    """All runs of one batch size; at least one."""

    batch: int
    runs: tuple[Run, ...]
    memory_bytes: int | None = None  # the process's largest resident size meanwhile
    gpu_bytes: tuple[int, ...] = ()  # in use on each visible GPU at the end, by whomever

    @property
    def rate(self) -> float:
        return statistics.median(run.rate for run in self.runs)

    @property
    def spread(self) -> float:
        """Half of what lies between the best and the worst run, in groups per second."""
        rates = [run.rate for run in self.runs]
        return (max(rates) - min(rates)) / 2

    def stage(self, name: str) -> float:
        return statistics.median(run.stages[name] for run in self.runs)

    @property
    def slowest(self) -> str:
        """The stage that a window waits for; the earlier one of two alike."""
        return min(STAGES, key=self.stage)


@dataclass(frozen=True)
class Choice:
    chosen: Measured
    best: Measured  # of the highest rate
    noise: float  # groups per second within which both are alike
    why: str


def choose(measured: Sequence[Measured]) -> Choice:
    """The smallest batch whose rate cannot be told from the best one's. Raises ValueError where nothing was measured."""
    if not measured:
        raise ValueError("nothing was measured")
    best = max(measured, key=lambda one: (one.rate, -one.batch))
    alike = [one for one in measured if best.rate - one.rate <= noise_between(one, best)]
    chosen = min(alike, key=lambda one: one.batch)
    noise = noise_between(chosen, best)
    if chosen.batch == best.batch:
        why = f"it made the most: {best.rate:.3g} groups/s (spread {best.spread:.2g})"
    else:
        why = (
            f"{best.batch} made {best.rate:.3g} groups/s and {chosen.batch} made {chosen.rate:.3g}: no more than"
            f" {noise:.2g} apart, which the runs differ by, and a smaller batch leaves less unfinished when time is up"
        )
    return Choice(chosen, best, noise, why)


def noise_between(one: Measured, other: Measured) -> float:
    return max(one.spread, other.spread, LEAST_NOISE * max(one.rate, other.rate))


def worth_going_on(measured: Sequence[Measured]) -> bool:
    """Whether a larger batch than the last one may bring more: not after `FRUITLESS` sizes that beat none before them.

    Args:
        measured: by growing batch.
    """
    if len(measured) <= FRUITLESS:
        return True
    before, lately = measured[:-FRUITLESS], measured[-FRUITLESS:]
    best = max(before, key=lambda one: one.rate)
    return any(one.rate - best.rate > noise_between(one, best) for one in lately)


def advice(chosen: Measured) -> str:
    """Which stage the others wait for, and what makes it faster."""
    slowest = chosen.slowest
    told = f"{slowest} is the slowest stage, with {chosen.stage(slowest):.3g} groups/s; all together make {chosen.rate:.3g}"
    others = [name for name in STAGES if name != slowest]
    second = min(others, key=chosen.stage)
    if chosen.stage(second) < 1.5 * chosen.stage(slowest):
        told += f", and {second} is not far behind with {chosen.stage(second):.3g}"
    return f"{told}. To make more: {_FASTER[slowest]}"


_FASTER: Final = {
    "generate": "more or faster devices that draw, or more sequences at a time (GRAIL_PIPELINE_MAX_NUM_SEQS, …_MAX_CONCURRENT)",
    "judge": "the environment's own grading takes the time, on the processor: a faster one, or nothing else on it",
    "prove": "more devices that prove (GRAIL_PIPELINE_PROOF_GPU_IDS), or workers (GRAIL_PIPELINE_PROOF_WORKERS)",
    "pack": "a faster processor, or nothing else on it",
}
