"""How far claims lie from the validator's own pass, in absolute units: reported, never acted on.

Honest drift grows with depth, width and the weights themselves, so no bound on these travels from one model to another; what
is acted on are the coarse bounds, which are wide, and ratios to the validator's own drift (`pooled`). People read these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.comparison import Comparison, Statistic, lost_margins, shortened

Floats = npt.NDArray[np.float64]

# A rollout counts up to a clip, so that one odd one does not make the mean.
ENERGY_CLIP = 0.02**2
MARGIN_SCALE = 0.2
"""A margin counts in full from here on."""
MARGIN_CLIP_PER_ROLLOUT = 1.0
LOGPROB_CLIP = 0.1  # nats
LOGPROB_TAIL = 0.25  # nats
LOGPROB_TAIL_CLIP = 0.25  # of a rollout's informative positions


def absolute_statistics(sample: Sequence[Comparison]) -> list[Statistic]:
    """All of them, of at least one rollout."""
    return [_statistic(name, sample) for name in ABSOLUTE]


def absolute_values(name: str, sample: Sequence[Comparison]) -> Floats:
    """One value per rollout, unclipped. Infinite where a number is missing."""
    return _ABSOLUTE[name].values(sample)


def _energies(sample: Sequence[Comparison]) -> Floats:
    """Mean squared sketch difference of a coordinate; infinite where a measured state has no sketch."""
    squares = np.square(np.concatenate([one.errors for one in sample]), dtype=np.float64)
    energies = _sums_of(sample, np.add.reduce(squares, axis=1)) / [one.errors.size for one in sample]
    return _worst_if_not_finite(energies)


def _lost_positions(sample: Sequence[Comparison]) -> Floats:
    """How many positions lost clearly: Σ min(margin / 0.2, 1). A sum, so one wrong token counts alike in any length."""
    return _sums_of(sample, np.minimum(lost_margins(np.concatenate([one.margins for one in sample])) / MARGIN_SCALE, 1.0))


def _logprob_means(sample: Sequence[Comparison]) -> Floats:
    """Mean absolute difference of log-probabilities over the informative positions, nats."""
    return _informative_mean(sample, lambda distances: distances)


def _logprob_tails(sample: Sequence[Comparison]) -> Floats:
    """Share of the informative positions whose log-probabilities differ by more than LOGPROB_TAIL."""
    return _informative_mean(sample, lambda distances: (distances > LOGPROB_TAIL).astype(np.float64))


def _informative_mean(sample: Sequence[Comparison], value: Callable[[Floats], Floats]) -> Floats:
    """Σ w v / max(Σ w, 1) with w = 1 − p: rollouts whose every token is sure weigh nothing. Infinite where a number is not."""
    distances = np.abs(np.concatenate([one.logprob_errors for one in sample]), dtype=np.float64)
    weights = np.concatenate([one.informative for one in sample]).astype(np.float64)
    with np.errstate(invalid="ignore"):  # what is no number becomes the worst value below
        total = _sums_of(sample, np.where(np.isfinite(distances), value(distances) * weights, np.nan))
        return _worst_if_not_finite(total / np.maximum(_sums_of(sample, weights), 1.0))


def _worst_if_not_finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.inf)


def _sums_of(sample: Sequence[Comparison], values: Floats) -> Floats:
    """Sums over each rollout's positions of values laid end to end."""
    starts = np.cumsum([0, *(len(one.margins) for one in sample[:-1])])
    sums: Floats = np.add.reduceat(values, starts)
    return sums


@dataclass(frozen=True)
class _Absolute:
    check: str
    clip: float
    values: Callable[[Sequence[Comparison]], Floats]
    what: str


_ABSOLUTE: Final = {
    "energy": _Absolute("proof", ENERGY_CLIP, _energies, "mean squared sketch difference a coordinate"),
    "margin": _Absolute("sampling", MARGIN_CLIP_PER_ROLLOUT, _lost_positions, "clearly lost positions a rollout"),
    "logprob": _Absolute(
        "logprob", LOGPROB_CLIP, _logprob_means, "mean absolute log-probability difference where it is informative, nats"
    ),
    "logprob_tail": _Absolute(
        "logprob", LOGPROB_TAIL_CLIP, _logprob_tails, f"share of informative positions off by over {LOGPROB_TAIL:g} nats"
    ),
}
ABSOLUTE: Final = tuple(_ABSOLUTE)


def _statistic(name: str, sample: Sequence[Comparison]) -> Statistic:
    of = _ABSOLUTE[name]
    values = np.minimum(of.values(sample), of.clip)
    detail = f"{of.what}, {len(values)} rollouts"
    return Statistic(of.check, name, shortened(math.fsum(values) / len(values)), None, False, detail)
