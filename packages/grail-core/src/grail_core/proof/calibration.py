"""What honest drift looks like, per pair of numerics classes, and the bounds that follow from it.

A table ships with the package (`calibration.json`, made by `tooling.studies`); a checkpoint pins one
(`checkpoints.pinned_table`). It has a version that verdicts name. For each pooled statistic it holds the cumulant-generating
function K(λ) = ln E exp(λ v) of one rollout's value, the worst of all calibration conditions, with a share of unseen extreme
rollouts mixed in. By Chernoff's bound the mean of n independent rollouts exceeds min_λ (K(λ) + ln(1/α)/n) / λ with probability
at most α, whatever the shape of the tail.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from grail_core.errors import ConfigurationError

STATISTICS: Final = ("energy", "margin", "logprob", "logprob_tail")
"""The pooled statistics; `statistics` defines the value of one rollout under each."""

UNSEEN_EXTREMES: Final = 3.0
"""Rollouts at the clip mixed into every calibration: with none among N seen, a rate of 3/N is excluded at 95 %."""

LEAST_TOKENS: Final = 100_000
LEAST_CHECKPOINTS: Final = 10
"""Section 7: a statistic is enforced only after calibration on this much."""

# λ times the clip, from where the bound is all variance to where it is all extremes.
_GRID = np.geomspace(0.02, 120.0, 48)


@dataclass(frozen=True)
class Null:
    """Honest distribution of one statistic's rollout values, clipped at `clip`.

    `dead_zone` is the calibration's own error: how far the worst checkpoint's mean lies above the average checkpoint's.
    """

    clip: float
    mean: float
    worst_mean: float
    dead_zone: float
    grid: tuple[float, ...]  # λ
    cumulants: tuple[float, ...]  # K(λ)

    def threshold(self, rollouts: float, alpha: float) -> float:
        """The mean over `rollouts` rollouts that honest work exceeds with probability at most `alpha`."""
        charge = math.log(1 / alpha) / rollouts
        bound = min((k + charge) / at for at, k in zip(self.grid, self.cumulants, strict=True))
        return min(bound, self.clip) + self.dead_zone

    @classmethod
    def fit(
        cls,
        values: Sequence[npt.NDArray[np.float64]],
        clip: float,
        *,
        scales: Sequence[float] | None = None,
        rollouts: int | None = None,
    ) -> Null:
        """From one array of rollout values per calibration condition (checkpoint and way of measuring).

        Args:
            scales: for a value that is a sum over positions: the table's positions a rollout by the condition's, so that all
                conditions speak of a rollout of one length (`statistics` scales the bound by a rollout's own). None: all 1.
            rollouts: how many different ones there are; None: no two conditions share one.

        Raises:
            ValueError: a value that is not finite: honest work has none, and as the worst value it would widen the bound.
        """
        if not all(np.isfinite(v).all() for v in values):
            raise ValueError("a null is fitted to finite values")
        clipped = [np.minimum(v, clip) for v in values]
        factors = [1.0] * len(clipped) if scales is None else list(scales)
        # One rollout measured in five ways is one rollout in which no extreme was seen: conditions never add to the count.
        total = sum(map(len, clipped)) if rollouts is None else rollouts
        unseen = UNSEEN_EXTREMES / (total + UNSEEN_EXTREMES)
        # Means grow with the positions too: the dead zone compares conditions at one length, so a model whose completions are
        # long is not taken for one that drifts more. Quiet conditions lower the average, hence widen the dead zone; it never
        # exceeds the worst mean.
        means = [float(v.mean()) * factor for v, factor in zip(clipped, factors, strict=True)]
        cumulants = []
        for scaled in _GRID:
            worst = max(_scaled_cumulant(v, scaled / clip, f) for v, f in zip(clipped, factors, strict=True))
            # The unseen extreme is mixed in after scaling: it is one rollout at the clip, however many positions it has.
            mixed = np.logaddexp(math.log1p(-unseen) + min(worst, scaled), math.log(unseen) + scaled)
            cumulants.append(float(mixed))
        average = math.fsum(means) / len(means)
        return cls(
            clip=clip,
            mean=_short(average),
            worst_mean=_short(max(means)),
            dead_zone=_short(max(means) - average),
            grid=tuple(_short(scaled / clip) for scaled in _GRID),
            cumulants=tuple(_short(k) for k in cumulants),
        )


@dataclass(frozen=True)
class Shape:
    """How large a model is. Drift grows with depth and width, so a table is enforced for none larger than it was made on."""

    layers: int
    hidden_size: int


class Coverage(Enum):
    FULL = "full"
    EXTENDED = "extended"
    NONE = "none"


@dataclass(frozen=True)
class PairCalibration:
    """Honest drift of a miner's numerics class as a validator's class sees it."""

    miner: str
    validator: str
    tokens: int
    rollouts: int
    checkpoints: int
    positions: float  # mean challenged positions of a calibration rollout
    largest: Shape
    nulls: Mapping[str, Null]

    logit_variance = 2.0
    sketch_variance = 6.0

    def coverage(self, shape: Shape) -> Coverage:
        return Coverage.FULL if self.covers(shape) else Coverage.NONE

    def covers(self, shape: Shape | None) -> bool:
        """Whether the table may be enforced for such a model (None: of unknown shape, then it may)."""
        enough = self.tokens >= LEAST_TOKENS and self.checkpoints >= LEAST_CHECKPOINTS
        if not enough or shape is None:
            return enough
        return shape.layers <= self.largest.layers and shape.hidden_size <= self.largest.hidden_size


@dataclass(frozen=True)
class CalibrationTable:
    """All pairs under one version text, for example `bf16-cpu/2`. `place` says on what machine and software it was measured."""

    version: str
    place: str
    pairs: Mapping[tuple[str, str], PairCalibration]

    def lookup(self, miner: str, validator: str) -> PairCalibration | None:
        return self.pairs.get((miner, validator))

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "place": self.place,
            "pairs": [
                {
                    "miner": pair.miner,
                    "validator": pair.validator,
                    "tokens": pair.tokens,
                    "rollouts": pair.rollouts,
                    "checkpoints": pair.checkpoints,
                    "positions": pair.positions,
                    "largest": {"layers": pair.largest.layers, "hidden_size": pair.largest.hidden_size},
                    "nulls": {
                        name: {
                            "clip": null.clip,
                            "mean": null.mean,
                            "worst_mean": null.worst_mean,
                            "dead_zone": null.dead_zone,
                            "grid": list(null.grid),
                            "cumulants": list(null.cumulants),
                        }
                        for name, null in pair.nulls.items()
                    },
                }
                for pair in self.pairs.values()
            ],
        }

    @classmethod
    def from_json(cls, value: Any) -> CalibrationTable:
        """Parse a table.

        Raises:
            ConfigurationError: it has another form, a statistic is missing, or a number is not finite.
        """
        try:
            pairs = [_pair(item) for item in value["pairs"]]
            return cls(str(value["version"]), str(value["place"]), {(pair.miner, pair.validator): pair for pair in pairs})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"not a calibration table: {error!r}", hint="make one with `grail-validator calibrate`"
            ) from error


def _pair(item: Any) -> PairCalibration:
    nulls = {}
    for name in STATISTICS:
        null = item["nulls"][name]
        grid, cumulants = tuple(map(_finite, null["grid"])), tuple(map(_finite, null["cumulants"]))
        if not grid or len(grid) != len(cumulants) or min(grid) <= 0:
            raise ValueError(f"{name}: a grid of positive λ with one K(λ) each is expected")
        nulls[name] = Null(
            clip=_positive(null["clip"]),
            mean=_finite(null["mean"]),
            worst_mean=_finite(null["worst_mean"]),
            dead_zone=_finite(null["dead_zone"]),
            grid=grid,
            cumulants=cumulants,
        )
    return PairCalibration(
        miner=str(item["miner"]),
        validator=str(item["validator"]),
        tokens=int(item["tokens"]),
        rollouts=int(item["rollouts"]),
        checkpoints=int(item["checkpoints"]),
        positions=_positive(item["positions"]),
        largest=Shape(int(item["largest"]["layers"]), int(item["largest"]["hidden_size"])),
        nulls=nulls,
    )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number


def _positive(value: Any) -> float:
    number = _finite(value)
    if not number > 0:
        raise ValueError(f"{value!r} is not positive")
    return number


def _short(value: float) -> float:
    return float(f"{value:.7g}")


def _scaled_cumulant(values: npt.NDArray[np.float64], rate: float, factor: float) -> float:
    """K(λ) of `values` for a rollout `factor` times as long.

    K is proportional to the length where positions are independent, and the chance of a rare extreme is where it comes from
    one position: of ln E = ln(1 + ε), the first gives factor · ln(1 + ε), the second ln(1 + factor · ε). The larger is taken;
    they differ only where ε is no longer small, and only there does a clipped sum stop growing with its length.
    """
    excess = float(np.expm1(values * rate).mean())
    return max(factor * math.log1p(excess), math.log1p(factor * excess))


@lru_cache(maxsize=1)
def shipped_table() -> CalibrationTable:
    """The table in the package."""
    text = resources.files("grail_core.proof").joinpath("calibration.json").read_text(encoding="utf-8")
    return CalibrationTable.from_json(json.loads(text))
