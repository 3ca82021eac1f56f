"""What a proposed calibration table changes against the one that a checkpoint pins, and whether its network would follow it.

Pure: two tables in, words out. A wider threshold lets more pass, a narrower one rejects more; a pair that is gone leaves its
classes to the coarse bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from grail_core.checkpoints.pinned_table import LIMIT_ROLLOUTS
from grail_core.proof.calibration import CalibrationTable, PairCalibration, share_of_pooled


@dataclass(frozen=True)
class TableChange:
    """One figure of one pair; None where that table has it not."""

    miner: str
    measured_in: str
    what: str
    before: float | None
    after: float | None

    @property
    def line(self) -> str:
        old, new = ("none" if value is None else f"{value:.4g}" for value in (self.before, self.after))
        return f"{self.miner} measured in {self.measured_in}: {self.what} {old} -> {new}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def changes(before: CalibrationTable, after: CalibrationTable) -> list[TableChange]:
    """Every figure that differs to four digits, pair by pair."""
    found = []
    for miner, measured_in in dict.fromkeys([*before.pairs, *after.pairs]):
        old = dict(_figures(before.lookup(miner, measured_in)))
        new = dict(_figures(after.lookup(miner, measured_in)))
        for what in dict.fromkeys([*old, *new]):
            one = TableChange(miner, measured_in, what, old.get(what), new.get(what))
            if one.before is None or one.after is None or f"{one.before:.4g}" != f"{one.after:.4g}":
                found.append(one)
    return found


def _figures(pair: PairCalibration | None) -> Iterator[tuple[str, float]]:
    """What a person compares: thresholds for 64 rollouts, how far the table reaches, and what it was made of."""
    if pair is None:
        return
    share = share_of_pooled()
    for name, null in pair.nulls.items():
        yield f"{name} threshold at {LIMIT_ROLLOUTS} rollouts", null.threshold(LIMIT_ROLLOUTS, share)
    yield "logit_variance", pair.logit_variance
    yield "sketch_variance", pair.sketch_variance
    yield "layers", float(pair.largest.layers)
    yield "hidden_size", float(pair.largest.hidden_size)
    yield "tokens", float(pair.tokens)
    yield "checkpoints", float(pair.checkpoints)
