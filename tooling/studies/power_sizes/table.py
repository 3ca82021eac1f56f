"""The calibration table over sizes: the four nulls of every pair of classes, from honest work of every checkpoint.

A condition is one way of computing at one checkpoint. Nulls of the proof take the runs whose prover is of the miner's class,
`twin_margin` those whose text an engine of that class wrote; both as measured in the pair's other class.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import transformers

from grail_core.proof.calibration import BOUNDS, CalibrationTable, PairCalibration, Shape
from grail_core.proof.null import Null
from grail_core.proof.pooled import Paired, unit_values
from grail_core.proof.statistics import LOGIT_VARIANCE, SKETCH_VARIANCE
from tooling.studies.power_sizes.judge import comparisons, pair_of
from tooling.studies.power_sizes.study import KINDS, Run

VERSION: Final = "bf16-cpu/3"
_DRAWN = ("twin_margin",)  # nulls of the engine that wrote the text

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Condition:
    """One run of one checkpoint, as its units' values."""

    size: str
    shape: Shape
    checkpoint: str
    text: str  # equal for runs of the same rollouts
    writes: str
    proves: str
    measured: str
    rollouts: int
    tokens: int
    own_drift: float
    own_noise: float
    values: Mapping[str, Floats]


def condition_of(size: str, shape: Shape, checkpoint: str, run: Run, measured: str) -> Condition:
    """Raises ValueError: nothing can be said of the run, whose reference is not finite or whose drift is none."""
    paired = Paired.of(comparisons(run))
    if paired is None or paired.undecided or paired.left_out:
        raise ValueError(f"{checkpoint}, {run.name}: the reference is not sound")
    values = {name: unit_values(name, paired) for name in BOUNDS}
    count, tokens = len(run.rollouts), sum(paired.lengths)
    text = f"{checkpoint}, {run.writes}"
    return Condition(
        *(size, shape, checkpoint, text, run.writes, run.proves, measured, count, tokens),
        *(paired.own_drift, paired.own_noise, values),
    )


def fit(conditions: Sequence[Condition], *, without: Shape | None = None) -> CalibrationTable:
    """All four pairs. `without`: a shape that is left out, so that it can be judged by what the others say of it."""
    taken = [one for one in conditions if one.shape != without]
    pairs = [_pair(taken, miner, measured) for miner in KINDS for measured in KINDS]
    place = f"{platform.machine()} CPU, one thread, torch {torch.__version__}, transformers {transformers.__version__}"
    return CalibrationTable(VERSION, place, {(pair.miner, pair.validator): pair for pair in pairs})


def _pair(conditions: Sequence[Condition], miner: str, measured: str) -> PairCalibration:
    seen = [one for one in conditions if one.measured == measured]
    proved = [one for one in seen if one.proves == miner]
    written = [one for one in seen if one.writes == miner]
    of_name = {name: written if name in _DRAWN else proved for name in BOUNDS}
    # Rollouts that every null was seen on: what was not seen among so few counts as unseen for all four.
    rollouts = min(sum({one.text: one.rollouts for one in taken}.values()) for taken in of_name.values())
    nulls = {
        name: Null.fit([one.values[name] for one in of_name[name]], *bounds, rollouts=rollouts)
        for name, bounds in BOUNDS.items()
    }
    names = pair_of(miner, measured)
    either = {one.text: one for one in (*proved, *written)}.values()
    return PairCalibration(
        *names,
        tokens=sum(one.tokens for one in either),
        rollouts=rollouts,
        checkpoints=len({one.checkpoint for one in either}),
        shapes=tuple(sorted({one.shape for one in either}, key=lambda shape: (shape.layers, shape.hidden_size))),
        logit_variance=LOGIT_VARIANCE,
        sketch_variance=SKETCH_VARIANCE,
        nulls=nulls,
    )
