"""One size judged: honest windows, and every deviation, in the form that is published.

What is judged by which table is the caller's: the one fitted to all sizes, or one that has not seen this size. A judged size is
kept by the digest of its table, since a sample of thousands of rollouts takes its time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from grail_core.proof.calibration import CalibrationTable, Coverage, Shape
from grail_core.proof.comparison import Comparison
from grail_core.proof.pooled import Paired, unit_values
from tooling.adversaries.deviations.deviation import Deviation
from tooling.studies.power_sizes import search
from tooling.studies.power_sizes.judge import Bench, comparisons, false_rejects, upper_bound, window_power
from tooling.studies.power_sizes.study import Run, SizeStudy
from tooling.testing.models.artefacts import Artefacts, Recipe

MIXED: Final = (
    "8-bit weights, per channel",
    "8-bit weights, groups of 32",
    "8-bit weights, groups of 64 with zero point",
    "4-bit weights, per channel",
    "4-bit weights, groups of 32",
)
"""Deviations that are judged once more with a sixteenth of the file's rollouts run honestly."""

_VERSION: Final = 4  # of everything that judging does


def judged(study: SizeStudy, table: CalibrationTable, store: Artefacts, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything of one size that is published."""
    size = study.size
    digest = hashlib.sha256(table.to_bytes()).hexdigest()
    recipe: Recipe = {"size": repr(size), "table": digest, "version": _VERSION}

    def build(folder: Path) -> None:
        say(f"judging {size.name}")
        (folder / "judged.json").write_text(json.dumps(_judged(study, table, say)))

    found: dict[str, Any] = json.loads((store.make("sizes-judged", recipe, build).folder / "judged.json").read_text())
    return found


def _judged(study: SizeStudy, table: CalibrationTable, say: Callable[[str], None]) -> dict[str, Any]:
    shape = shape_of(study)
    honest = [_honest(run, table, shape) for run in (*study.held_out(), *study.elsewhere())]
    beside = comparisons(study.honest_beside())
    deviations = []
    for deviation in study.deviations:
        say(f"  {deviation.name}")
        run = study.deviation(deviation)
        sample, by = comparisons(run), Bench.of(table, run, shape)
        deviations.append(_deviation(deviation, sample, by))
        if deviation.name in MIXED:
            name = f"{deviation.name}, one rollout in 16 run honestly"
            mixed = Deviation(name, deviation.threat, deviation.produce)
            deviations.append(_row(mixed, sample, *window_power(sample, by, beside), []))
        study.done_with()
    return {
        "name": study.size.name,
        "shape": {"layers": shape.layers, "hidden_size": shape.hidden_size},
        "model": study.told_of_model(),
        "coverage": table_coverage(study, table),
        "distances": search.distances(beside),
        "honest": _all_honest(honest),
        "deviations": deviations,
    }


def table_coverage(study: SizeStudy, table: CalibrationTable) -> str:
    """What the table enforces of this shape, in its worst pair."""
    order = [Coverage.NONE, Coverage.EXTENDED, Coverage.FULL]
    return min((pair.coverage(shape_of(study)) for pair in table.pairs.values()), key=order.index).value


def shape_of(study: SizeStudy) -> Shape:
    return Shape(study.size.judged.layers, study.size.judged.hidden)


def _honest(run: Run, table: CalibrationTable, shape: Shape) -> dict[str, Any]:
    sample = comparisons(run)
    paired = Paired.of(sample)
    if paired is None or paired.undecided:
        raise ValueError(f"{run.name}: the reference says nothing")
    windows, rejected, names = false_rejects(sample, Bench.of(table, run, shape))
    values = {name: unit_values(name, paired) for name in ("sketch_ratio", "twin_margin", "logprob_ratio", "twin_logprob")}
    return {
        "numerics": run.name,
        "rollouts": len(sample),
        "windows": windows,
        "compared": len(run.compared),
        "rejected": rejected,
        "by": names,
        "own_drift": paired.own_drift,
        "own_noise": paired.own_noise,
        **{name: [float(np.mean(v)), float(np.std(v)), float(np.max(v))] for name, v in values.items()},
    }


def _all_honest(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    windows, rejected = sum(one["windows"] for one in found), sum(one["rejected"] for one in found)
    return {
        "rollouts": sum(one["rollouts"] for one in found),
        "windows": windows,
        "compared": sum(one["compared"] for one in found),
        "rejected": rejected,
        "upper_bound_per_window_95": upper_bound(rejected, windows) if windows else 1.0,
        "numerics": list(found),
    }


def _deviation(deviation: Deviation, sample: Sequence[Comparison], by: Bench) -> dict[str, Any]:
    rate, names = window_power(sample, by)
    return _row(deviation, sample, rate, names, search.detections(sample, by))


def _row(
    deviation: Deviation, sample: Sequence[Comparison], rate: Any, names: Mapping[str, float], seen: Sequence[search.Detection]
) -> dict[str, Any]:
    able = [one for one in seen if one.rollouts is not None]
    best = min(able, key=lambda one: one.rollouts or 0, default=None)
    return {
        "name": deviation.name,
        "threat": deviation.threat,
        "rollouts": len(sample),
        "tokens": sum(len(one.margins) for one in sample),
        "best_statistic": best.statistic if best else None,
        "rollouts_to_detect": best.rollouts if best else None,
        "tokens_to_detect": best.tokens if best else None,
        "extrapolated": best.extrapolated if best else None,
        "window_power": max((one.window_power for one in seen), default=rate.value),
        "enforced_window_power": asdict(rate),
        "rejecting": dict(names),
        "distances": search.distances(sample),
        "statistics": {
            one.statistic: {"rollouts": one.rollouts, "tokens": one.tokens, "window_power": one.window_power} for one in seen
        },
    }
