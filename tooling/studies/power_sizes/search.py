"""How many rollouts one statistic needs: the least n of which it rejects 99 % of samples, by itself and at its own share of α.

The unit is the rollout: its values are computed once, over the whole run, and samples are drawn with replacement. A window as
enforced is `judge`'s, with the functions that validators call; here samples of thousands of rollouts are asked about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.alternative_test import DEPENDENCE, Sums, by_yardstick, counted, log_ratios, own_drift, project
from grail_core.proof.calibration import STATISTICS, share_of_pooled
from grail_core.proof.coarse_bounds import coarse_bounds
from grail_core.proof.comparison import Comparison, NamedComparison
from grail_core.proof.mixture import STAKES
from grail_core.proof.pooled import Paired, unit_values
from grail_core.proof.statistics import share_of_other, token_statistic
from grail_core.proof.token_test import noise_variance, token_evidence
from grail_core.protocol.constants import CHECK_ALL_BELOW, ROLLOUTS_PER_PROBLEM
from tooling.studies.power_sizes.judge import Bench

WANTED_POWER: Final = 0.99
_MOST = 16_384
_SAMPLES, _MOST_DRAWN = 100, 200_000

Floats = npt.NDArray[np.float64]
Rejects = Callable[[npt.NDArray[np.intp]], npt.NDArray[np.bool_]]
"""Indices of units [samples, n] → whether each sample is rejected."""


@dataclass(frozen=True)
class Detection:
    """How one statistic sees one run. `rollouts` and `tokens` are None where 16,384 rollouts do not suffice.

    `tokens`: positions that the statistic looks at, of that many rollouts.
    """

    statistic: str
    rollouts: int | None
    tokens: int | None
    extrapolated: bool
    window_power: float


def detections(sample: Sequence[Comparison], by: Bench) -> list[Detection]:
    """Every statistic's view of a run, the coarse bounds' among them."""
    found = []
    paired = Paired.of(sample)
    if paired is not None and not paired.undecided:
        positions = sum(paired.lengths) / len(paired.lengths)
        for name in STATISTICS:
            values = unit_values(name, paired)
            each = sum(paired.lengths) / len(values)  # positions of a unit
            found.append(_searched(name, _pooled(name, values, by), len(values), each, each / positions))
    found += _named([one.named for one in sample if one.named is not None], by)
    return [*found, *_coarse(sample)]


def distances(sample: Sequence[Comparison]) -> dict[str, float]:
    """RMS Δ of every alternative that is other weights, in units of the own drift."""
    named = [one.named for one in sample if one.named is not None and one.named.usable]
    if not named:
        return {}
    drift = own_drift([one.drift for one in named])
    return {name: project(*_sums(named, name, drift), 6.0).distance for name in named[0].deltas}


def _pooled(name: str, values: Floats, by: Bench) -> Rejects:
    pair = by.margins if name == "twin_margin" else by.proof

    def rejects(drawn: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        threshold = pair.threshold(name, drawn.shape[1], share_of_pooled(), by.shape)
        return np.asarray(values[drawn].mean(axis=1) > threshold)

    return rejects


def _named(named: Sequence[NamedComparison], by: Bench) -> list[Detection]:
    usable = [one for one in named if one.usable]
    if not usable:
        return []
    drift = own_drift([one.drift for one in usable])
    positions = sum(len(one.tokens) for one in usable) / len(usable)
    of_file = noise_variance([one.noise for one in usable], [one.spread for one in usable])
    found = []
    for name in sorted(usable[0].deltas):
        own, reference = _sums(usable, name, drift)
        of_name = project(own, reference, by.proof.sketch_variance)
        test = _sketches(own, reference, of_name.rollouts) if of_name.testable else _never
        found.append(_searched(name, test, len(usable), positions, 1.0))
    for name in sorted(usable[0].leads) if of_file > 0 else ():
        evidence = token_evidence(
            [one.tokens for one in usable],
            [one.leads[name] for one in usable],
            [one.noise for one in usable],
            of_file,
            by.margins.logit_variance,
        )
        test = _tokens(evidence.rollouts)
        found.append(_searched(token_statistic(name), test, len(usable), positions, 1.0))
    return found


def _sums(named: Sequence[NamedComparison], name: str, drift: float) -> tuple[Sums, Sums]:
    return by_yardstick([one.errors for one in named], [one.drift for one in named], [one.deltas[name] for one in named], drift)


def _tokens(log_e: Floats) -> Rejects:
    needed = math.log(1 / share_of_other())
    return lambda drawn: np.asarray(mixtures(log_e[drawn]) >= needed)


def _sketches(taken: Sums, reference: Sums, log_e: Floats) -> Rejects:
    """As `alternative_test.project`; the sign test's values of a rollout are what it says of that rollout alone."""
    needed = math.log(1 / share_of_other())
    signs = counted(
        np.array([log_ratios(taken, dependence) for dependence in DEPENDENCE]), reference
    )  # [dependences, rollouts]

    def rejects(drawn: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        sign = np.logaddexp.reduce(signs[:, drawn].sum(axis=2)) - math.log(len(signs))
        return np.asarray(np.logaddexp(mixtures(log_e[drawn]), sign) - math.log(2) >= needed)

    return rejects


def _never(drawn: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    return np.zeros(len(drawn), dtype=bool)


def mixtures(log_e: Floats) -> Floats:
    """`mixture.log_mixture` of every row of [samples, n]."""
    parts = []
    for stake in STAKES:
        kept = math.log1p(-stake) if stake < 1 else -math.inf
        parts.append(np.logaddexp(kept, math.log(stake) + log_e).sum(axis=1))
    mixed: Floats = np.logaddexp.reduce(parts) - math.log(len(parts))
    return mixed


def _searched(name: str, rejects: Rejects, units: int, positions: float, rollouts_of_unit: float) -> Detection:
    """Least number of rollouts, by doubling and halving the interval to a sixteenth."""
    draws = np.random.default_rng(1)

    def power(rollouts: int) -> float:
        n = max(1, round(rollouts / rollouts_of_unit))
        samples = max(20, min(_SAMPLES, _MOST_DRAWN // n))
        return float(rejects(draws.integers(0, units, (samples, n))).mean())

    window = power(CHECK_ALL_BELOW)
    below, found = 0, 1
    while power(found) < WANTED_POWER:
        below, found = found, 2 * found
        if found > _MOST or rejects is _never:
            return Detection(name, None, None, False, window)
    while found - below > max(1, below // 16):
        middle = (found + below) // 2
        below, found = (below, middle) if power(middle) >= WANTED_POWER else (middle, found)
    tokens = math.ceil(found * positions / rollouts_of_unit)
    return Detection(name, found, tokens, found > units * rollouts_of_unit, window)


def _coarse(sample: Sequence[Comparison]) -> list[Detection]:
    """The coarse bounds look at single rollouts, groups and pools: the least of 1, 16 and 64 that they reject 99 % of."""
    found: dict[str, dict[int, float]] = {}
    for size in (1, ROLLOUTS_PER_PROBLEM, CHECK_ALL_BELOW):
        sets = [sample[i : i + size] for i in range(0, len(sample), size)]
        for one in sets:
            for statistic in coarse_bounds(one):
                shares = found.setdefault(statistic.name, {})
                shares[size] = shares.get(size, 0.0) + statistic.rejects / len(sets)
    positions = float(np.mean([len(one.margins) for one in sample]))
    least = {
        name: next((size for size, share in shares.items() if share >= WANTED_POWER), None) for name, shares in found.items()
    }
    return [
        Detection(name, n, None if n is None else math.ceil(n * positions), False, found[name][CHECK_ALL_BELOW])
        for name, n in least.items()
    ]
