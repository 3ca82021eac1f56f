"""What honest drift looks like, per pair of numerics classes, and for which sizes of model that may be enforced.

A pair is (the miner's class, the class that the validator measured in). A table has a version text that verdicts name, and it
travels over sizes: its statistics are all relative to what the validator measures itself (`pooled`). Beside the four nulls a
pair has the two variances that the tests of named alternatives rest on. One table ships with the package (`calibration.json`,
made by `tooling.studies`); which one a network judges by, its manifests say, and that is not decided here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from functools import lru_cache
from importlib import resources
from math import isfinite
from typing import Any, Final

from grail_core.errors import ConfigurationError
from grail_core.proof.null import Null
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.protocol.constants import FALSE_REJECT_RATE
from grail_core.protocol.reading import Node, parse_json

FORMAT: Final = 3
CALIBRATION_FILE: Final = "calibration.json"
"""The table's path among the files of a checkpoint."""

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "sketch_ratio": (0.0, 1.0),
    "twin_margin": (-1.0, 1.5),
    "logprob_ratio": (0.0, 1.0),
    "twin_logprob": (0.0, 1.5),
}
"""The pooled statistics, and the range that one unit's value is clipped to; `pooled` defines the values.

Who computes better than its class errs by less than the validator does, at will and in as many rollouts as it likes. Counted
below what honest work is expected to have, such a rollout would pay for another that no model ever saw; so it counts as honest.
A margin needs no such floor: what a twin loses is all that a perfect draw can gain, and that is little.
"""
STATISTICS: Final = tuple(BOUNDS)

LEAST_TOKENS: Final = 100_000
LEAST_CHECKPOINTS: Final = 10
LEAST_SHAPES: Final = 3
"""Section 7: a pair is enforced only after calibration on this much."""

MAX_TABLE_BYTES: Final = 2**20
MOST_VERSION: Final = 64  # characters
_MAX_PAIRS, _MAX_SHAPES, _MAX_GRID, _MAX_COUNT = 256, 64, 256, 10**12

_MAKE_ONE = "make one with `grail-validator calibrate`, or take the one that ships with this release"


@dataclass(frozen=True)
class Shape:
    """How large a model is."""

    layers: int
    hidden_size: int


class Coverage(Enum):
    """What a pair's nulls are worth for a model of some shape."""

    FULL = "full"  # no layer more and no wider than what was calibrated on
    EXTENDED = "extended"  # up to twice as deep or wide: enforced with the dead zone doubled
    NONE = "none"  # reported, not enforced

    @property
    def dead_zones(self) -> float:
        return 1.0 if self is Coverage.FULL else 2.0


@dataclass(frozen=True)
class PairCalibration:
    """Honest drift of a miner's numerics class as one of the validator's sees it.

    `logit_variance` (κ): how many times the validator's own noise of the difference of two logits a miner's may have.
    `sketch_variance`: how many times the variance of independent coordinates at the own drift a rollout's noise along one
    direction may have.
    """

    miner: str
    validator: str
    tokens: int
    rollouts: int
    checkpoints: int
    shapes: tuple[Shape, ...]
    logit_variance: float
    sketch_variance: float
    nulls: Mapping[str, Null]

    @property
    def largest(self) -> Shape:
        """As deep as the deepest and as wide as the widest that was calibrated on."""
        return Shape(max(one.layers for one in self.shapes), max(one.hidden_size for one in self.shapes))

    def coverage(self, shape: Shape | None) -> Coverage:
        """Whether the pair may be enforced for such a model (None: of unknown shape, then it may)."""
        if self.tokens < LEAST_TOKENS or self.checkpoints < LEAST_CHECKPOINTS or len(set(self.shapes)) < LEAST_SHAPES:
            return Coverage.NONE
        largest = self.largest
        if shape is None or (shape.layers <= largest.layers and shape.hidden_size <= largest.hidden_size):
            return Coverage.FULL
        if shape.layers <= 2 * largest.layers and shape.hidden_size <= 2 * largest.hidden_size:
            return Coverage.EXTENDED
        return Coverage.NONE

    def covers(self, shape: Shape | None) -> bool:
        """Whether anything is enforced for such a model."""
        return self.coverage(shape) is not Coverage.NONE

    def threshold(self, name: str, units: float, alpha: float, shape: Shape | None = None) -> float:
        """The bound on the mean of a pooled statistic over so many units; reported where the shape is not covered."""
        return self.nulls[name].threshold(units, alpha, dead_zones=self.coverage(shape).dead_zones)

    def widest_threshold(self, name: str, units: float, alpha: float) -> float:
        """The largest of all shapes: whoever wrote the table said how far each of its coverages reaches."""
        return max(self.nulls[name].threshold(units, alpha, dead_zones=one.dead_zones) for one in Coverage)


@dataclass(frozen=True)
class CalibrationTable:
    """All pairs under one version text, for example `bf16-cpu/3`. `place` says on what machine and software it was measured."""

    version: str
    place: str
    pairs: Mapping[tuple[str, str], PairCalibration]

    def lookup(self, miner: str, validator: str) -> PairCalibration | None:
        return self.pairs.get((miner, validator))

    def to_json(self) -> dict[str, Any]:
        pairs = [asdict(pair) for pair in self.pairs.values()]
        return {"format": FORMAT, "version": self.version, "place": self.place, "pairs": pairs}

    def to_bytes(self) -> bytes:
        """As it lies in a file: the same table has the same bytes, and so the same digest."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, value: object, *, where: str = "") -> CalibrationTable:
        """Read a table that somebody else may have written.

        Args:
            where: the file's name, for the error.

        Raises:
            ConfigurationError: another form or version, an unknown class, a number that is none or that the pair's own data
                cannot have given; it names the field.
        """
        try:
            return _table(Node(value, "$"))
        except (ValueError, OverflowError, RecursionError) as error:
            raise _refused(error, where) from error

    @classmethod
    def from_bytes(cls, raw: bytes, *, where: str = "") -> CalibrationTable:
        """`from_json` of a file's bytes; size and depth are looked at before anything is decoded.

        Raises:
            ConfigurationError: as `from_json`, or no JSON.
        """
        try:
            return _table(parse_json(raw, most=MAX_TABLE_BYTES, floats=True))
        except (ValueError, OverflowError, RecursionError) as error:
            raise _refused(error, where) from error


def is_version(text: str) -> bool:
    """Whether a table may have this text as its version."""
    return 0 < len(text) <= MOST_VERSION and text.isprintable()


def share_of_pooled(alpha: float = FALSE_REJECT_RATE) -> float:
    """α of one pooled statistic: half of all goes to the named alternatives, whether or not any is measured."""
    return alpha / 2 / len(STATISTICS)


def thresholds_of(
    pair: PairCalibration, sizes: Sequence[int] = (8, 16, 32, 64), shape: Shape | None = None
) -> dict[str, dict[int, float]]:
    """For people: the bound of every pooled statistic on the mean of so many rollouts."""
    alpha = share_of_pooled()
    return {name: {n: float(f"{pair.threshold(name, n, alpha, shape):.6g}") for n in sizes} for name in STATISTICS}


def _table(root: Node) -> CalibrationTable:
    if isinstance(root.value, Mapping) and root.value.get("format") != FORMAT:
        found = root.value.get("format")
        which = f"format {found}" if type(found) is int else "no format"
        Node(found, "$.format").refuse(f"a table of format {FORMAT} is expected, and this one is of {which:.80}")
    of = root.members("format", "version", "place", "pairs")
    pairs: dict[tuple[str, str], PairCalibration] = {}
    for node in of["pairs"].items(_MAX_PAIRS):
        pair = _pair(node)
        if (pair.miner, pair.validator) in pairs:
            node.refuse(f"miner {pair.miner} and validator {pair.validator} are there twice")
        pairs[pair.miner, pair.validator] = pair
    version = of["version"].text(MOST_VERSION)
    if not is_version(version):
        of["version"].refuse("a printable text is expected")
    return CalibrationTable(version, of["place"].text(1000), pairs)


def _pair(node: Node) -> PairCalibration:
    of = node.members(
        *("miner", "validator", "tokens", "rollouts", "checkpoints", "shapes"),
        *("logit_variance", "sketch_variance", "nulls"),
    )
    shapes = tuple(_shape(one) for one in of["shapes"].items(_MAX_SHAPES))
    if not shapes:
        of["shapes"].refuse("at least one shape is expected")
    rollouts = of["rollouts"].integer(1, _MAX_COUNT)
    nulls = of["nulls"].members(*STATISTICS)
    return PairCalibration(
        miner=_class(of["miner"]),
        validator=_class(of["validator"]),
        tokens=of["tokens"].integer(rollouts, _MAX_COUNT),  # no rollout is empty
        rollouts=rollouts,
        checkpoints=of["checkpoints"].integer(1, rollouts),
        shapes=shapes,
        logit_variance=_variance(of["logit_variance"]),
        sketch_variance=_variance(of["sketch_variance"]),
        nulls={name: _null(name, nulls[name], rollouts) for name in STATISTICS},
    )


def _null(name: str, node: Node, rollouts: int) -> Null:
    of = node.members("low", "high", "mean", "worst_mean", "dead_zone", "grid", "cumulants")
    if (_number(of["low"]), _number(of["high"])) != BOUNDS[name]:
        of["low"].refuse("values of {} are clipped to {:g} … {:g}".format(name, *BOUNDS[name]))
    grid = tuple(map(_number, of["grid"].items(_MAX_GRID)))
    if not grid:
        of["grid"].refuse("at least one value of λ is expected")
    null = Null(
        *BOUNDS[name],
        mean=_number(of["mean"]),
        worst_mean=_number(of["worst_mean"]),
        dead_zone=_number(of["dead_zone"]),
        grid=grid,
        cumulants=tuple(map(_number, of["cumulants"].items(_MAX_GRID))),
    )
    wrong = null.unfounded(rollouts)
    if wrong is not None:
        of[wrong[0]].refuse(wrong[1])
    return null


def _shape(node: Node) -> Shape:
    of = node.members("layers", "hidden_size")
    return Shape(of["layers"].integer(1, 10**6), of["hidden_size"].integer(1, 10**7))


def _class(node: Node) -> str:
    name = node.text(128)
    if name not in NUMERICS_CLASSES:
        node.refuse(f"{name!r} is no numerics class of this release")
    return name


def _variance(node: Node) -> float:
    value = _number(node)
    if not 1 <= value <= 1000:
        node.refuse(f"{value:g} times the own variance is outside 1 … 1000")
    return value


def _number(node: Node) -> float:
    value = node.value
    if not isinstance(value, int | float) or isinstance(value, bool):
        node.refuse("a number is expected")
    number = float(value)
    if not isfinite(number):
        node.refuse(f"{number} is not finite")
    return number


def _refused(error: Exception, where: str) -> ConfigurationError:
    return ConfigurationError(f"not a calibration table of this release: {error}", where=where, hint=_MAKE_ONE)


@lru_cache(maxsize=1)
def shipped_table() -> CalibrationTable:
    """The table in the package."""
    return CalibrationTable.from_bytes(resources.files("grail_core.proof").joinpath(CALIBRATION_FILE).read_bytes())
