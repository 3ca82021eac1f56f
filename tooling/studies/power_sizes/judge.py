"""From runs to decisions: windows of 64 rollouts, judged by the functions that validators call.

A window's own statistics are computed first; if none rejects, the named alternatives on the first rollouts, and on the others
what `left_open` says. A rate is the share of windows drawn with replacement from a run's rollouts, with the 2.5 and 97.5
percentiles over resampled pools of them: the error of having seen so few. Samples larger than a run are extrapolations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, fsum
from typing import Any

import numpy as np
import numpy.typing as npt

from grail_core.proof.calibration import CalibrationTable, PairCalibration, Shape
from grail_core.proof.comparison import Comparison, compare, compare_named
from grail_core.proof.numerics import class_name
from grail_core.proof.sketches import parse_sketches
from grail_core.proof.statistics import alternative_statistics, left_open, own_statistics, sketch_ratio_passes
from grail_core.proof.work import ComparedRollout
from grail_core.protocol.constants import CHECK_ALL_BELOW, ROLLOUTS_PER_PROBLEM
from grail_core.verification.challenged import MOST_COMPARED_FIRST
from tooling.studies.power_sizes.study import Run

_DRAWS, _POOLS, _DRAWS_OF_POOL = 50, 20, 6

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Bench:
    """What a run is judged by: calibrations of its two pairs of classes, and the model's shape."""

    proof: PairCalibration
    margins: PairCalibration
    shape: Shape

    @classmethod
    def of(cls, table: CalibrationTable, run: Run, shape: Shape) -> Bench:
        """Raises LookupError: the table lacks a pair."""
        pairs = [table.lookup(*pair_of(kind, run.proves)) for kind in (run.proves, run.writes)]
        if pairs[0] is None or pairs[1] is None:
            raise LookupError(f"{table.version} lacks a pair of {run.name}")
        return cls(pairs[0], pairs[1], shape)


@dataclass(frozen=True)
class Rate:
    """A share of windows, and its 95 % interval."""

    value: float
    low: float
    high: float


def pair_of(miner: str, measured: str) -> tuple[str, str]:
    """Names of the classes of two attention kinds on this machine."""
    return class_name(attention=miner, device="cpu"), class_name(attention=measured, device="cpu")


def comparisons(run: Run) -> list[Comparison]:
    """What the project's statistics take; `named` where alternatives were measured and the reference said something."""
    found = []
    for i, (rollout, claim, measured) in enumerate(zip(run.rollouts, run.told.claims, run.measured, strict=True)):
        words = parse_sketches(claim.sketches, len(rollout.completion) + 1)[1:]
        at = np.asarray(measured.positions)
        compared = _renamed(run.compared[i]) if i < len(run.compared) else None
        named = None
        if compared is not None and compared.z:
            places = np.asarray(compared.positions)
            named = compare_named(
                claimed_sketches=words[places],
                tokens=np.asarray(rollout.completion, np.int32)[places],
                compared=compared,
            )
        found.append(
            compare(
                rollout.group,
                rollout.rollout,
                claimed_sketches=words[at],
                claimed_logprobs=claim.logprobs[at],
                z=measured.z,
                logprobs=measured.logprobs,
                margins=measured.margins,
                reference=measured.reference,
                named=named,
            )
        )
    return found


def _renamed(compared: ComparedRollout) -> ComparedRollout:
    """An earlier checkpoint under the name that validators give it, whatever step lies between."""

    def shared(named: Mapping[str, Any]) -> dict[str, Any]:
        return {name.partition(" at ")[0]: value for name, value in named.items()}

    return replace(compared, z=shared(compared.z), leads=shared(compared.leads))


def rejecting(window: Sequence[Comparison], by: Bench) -> list[str]:
    """Names of the statistics that reject a window, in the order in which a validator asks."""
    own = own_statistics(window, by.proof, margins=by.margins, shape=by.shape)
    found = [one.name for one in own if one.rejects]
    if found:
        return found
    named = [one.named for one in window if one.named is not None]
    judged = named[:MOST_COMPARED_FIRST]
    if not judged:
        return []
    asked = left_open(judged, by.proof, margins=by.margins, shape=by.shape)
    if asked:
        judged = [*judged, *(one.only(asked) for one in named[MOST_COMPARED_FIRST:])]
    passes = sketch_ratio_passes(own)
    others = alternative_statistics(judged, by.proof, margins=by.margins, shape=by.shape, sketch_ratio_passes=passes)
    return [one.name for one in others if one.rejects]


def window_power(sample: Sequence[Comparison], by: Bench, honest: Sequence[Comparison] = ()) -> tuple[Rate, dict[str, float]]:
    """Share of windows of 64 that are rejected, and how often each statistic did it.

    Args:
        honest: rollouts of the same file that were run honestly: of every 16 of a window one is drawn from these.
    """
    draws = np.random.default_rng(3)
    by_name: dict[str, int] = {}

    def drawn(pool: Indices) -> list[Comparison]:
        window = [sample[i] for i in pool[draws.integers(0, len(pool), CHECK_ALL_BELOW)]]
        if honest:
            for at in range(0, CHECK_ALL_BELOW, 16):
                window[at + int(draws.integers(0, 16))] = honest[int(draws.integers(0, len(honest)))]
        return window

    everything = np.arange(len(sample))
    rejected = 0
    for _ in range(_DRAWS):
        names = rejecting(drawn(everything), by)
        rejected += bool(names)
        for name in names:
            by_name[name] = by_name.get(name, 0) + 1
    pools = []
    for _ in range(_POOLS):
        pool = draws.integers(0, len(sample), len(sample))
        pools.append(np.mean([bool(rejecting(drawn(pool), by)) for _ in range(_DRAWS_OF_POOL)]))
    low, high = np.percentile(pools, [2.5, 97.5])
    value = rejected / _DRAWS
    rate = Rate(value, min(float(low), value), max(float(high), value))
    return rate, {name: count / _DRAWS for name, count in sorted(by_name.items())}


def false_rejects(sample: Sequence[Comparison], by: Bench) -> tuple[int, int, dict[str, int]]:
    """Windows of 64 consecutive honest rollouts, the last one of what is left if that is a group: how many there are, how many
    are rejected, and by which statistics."""
    windows = rejected = 0
    names: dict[str, int] = {}
    for start in range(0, len(sample) - ROLLOUTS_PER_PROBLEM + 1, CHECK_ALL_BELOW):
        windows += 1
        against = rejecting(sample[start : start + CHECK_ALL_BELOW], by)
        rejected += bool(against)
        for name in against:
            names[name] = names.get(name, 0) + 1
    return windows, rejected, names


def upper_bound(events: int, trials: int) -> float:
    """One-sided 95 % Clopper–Pearson bound of a rate."""
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        terms = (comb(trials, k) * middle**k * (1 - middle) ** (trials - k) for k in range(events + 1))
        low, high = (middle, high) if fsum(terms) > 0.05 else (low, middle)
    return high
