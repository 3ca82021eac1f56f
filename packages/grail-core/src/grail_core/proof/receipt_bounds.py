"""Bounds that hold for one answer alone, from the largest values that honest answers had.

The pooled tests of a window (`statistics`) need many rollouts; a buyer has one receipt. So everything is looked at: the error
of all sketches, each draw, each claimed log-probability, against twice the largest honest value of the same pair of numerics
classes and a like length, and never against less than what nobody would call another model. A table has a pair only for models
no deeper and no wider than those it was made on; else the coarse bounds stand alone. It is not the calibration table that
manifests pin: no window is decided by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from importlib import resources
from math import isfinite
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from grail_core.errors import ConfigurationError
from grail_core.proof.calibration import MAX_TABLE_BYTES, Shape
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.protocol.constants import MARGIN_CLIP, POSITION_ERROR_WINSOR
from grail_core.protocol.reading import Node, parse_json

FORMAT: Final = 1
TABLE_FILE: Final = "receipts.json"

OWN_POSITIONS: Final = 8  # of a completion, from which its own sketches are held alone too: a long prompt would hide them
MARGIN_UNIT: Final = 0.2  # a margin of so much or more counts once in the sum
FACTOR: Final = 2.0  # times the largest honest value
LEAST: Final = {"error": 0.026, "own_error": 0.026, "margin": 0.05, "margin_sum": 0.5, "logprob": 0.25}
"""No bound is below these, however calm the calibration was: on one machine equal kernels give equal bits, and what honest work
differs by between machines is not there to be measured. 0.026 is three times the largest error between unlike kernels of the
trained models, and half of the least that 4-bit weights make."""


@dataclass(frozen=True)
class ReceiptStatistics:
    """What one choice is judged by. Worst values stand for what is no number."""

    error: float  # RMS sketch error over all sketched positions
    own_error: float  # over those of the completion; 0 where it has fewer than OWN_POSITIONS
    margin: float  # the largest
    margin_sum: float  # Σ min(margin / 0.2, 1)
    logprob: float  # the largest difference of a claimed log-probability, nats; 0 where none are claimed

    def exceeding(self, bounds: ReceiptStatistics) -> list[str]:
        """Names of what is above its bound."""
        return [one.name for one in fields(self) if not getattr(self, one.name) <= getattr(bounds, one.name)]


STATISTICS: Final = tuple(one.name for one in fields(ReceiptStatistics))
PROOF: Final = ("error", "own_error", "logprob")
"""Statistics of who computed the proof; the others are of who drew the tokens."""


def receipt_statistics(
    errors: npt.NDArray[np.float32],
    completion_length: int,
    margins: npt.NDArray[np.float64],
    logprob_errors: npt.NDArray[np.float32] | None,
    *,
    repetition_penalty: float = 1.0,
) -> ReceiptStatistics:
    """Of one choice. A repetition penalty multiplies logits, and with them what honest ones differ by: margins are taken in
    units of that.

    Args:
        errors: [n, 4] claimed minus measured z of all sketched positions, the completion's last. margins: [k] as measured.
        logprob_errors: [k] claimed minus measured, nats; None where nothing is claimed.
    """
    squares = position_squares(errors)
    own = squares[-completion_length:]
    possible = possible_margins(margins) / max(repetition_penalty, 1 / repetition_penalty)
    return ReceiptStatistics(
        error=_rms(squares),
        own_error=_rms(own) if len(own) >= OWN_POSITIONS else 0.0,
        margin=float(possible.max(initial=0.0)),
        margin_sum=float(np.minimum(possible / MARGIN_UNIT, 1.0).sum()),
        logprob=0.0 if logprob_errors is None else _largest(np.abs(logprob_errors)),
    )


def possible_margins(margins: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The margins; the worst there is for what no margin can be."""
    return np.where((margins >= 0) & (margins <= MARGIN_CLIP), margins, MARGIN_CLIP)


def position_squares(errors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[n] squared winsorised error of each position; one that is no number counts as winsorised."""
    squares: npt.NDArray[np.float64] = np.fmin(np.square(errors, dtype=np.float64).mean(axis=1), POSITION_ERROR_WINSOR**2)
    return squares


def _rms(squares: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(squares.mean()))


def _largest(values: npt.NDArray[np.float32]) -> float:
    return float(values.max(initial=0.0)) if np.isfinite(values).all() else float("inf")


@dataclass(frozen=True)
class LengthClass:
    """Honest choices of at most so many completion tokens (and more than the class before has)."""

    tokens: int
    choices: int  # how many were measured
    largest: ReceiptStatistics

    @property
    def bounds(self) -> ReceiptStatistics:
        return ReceiptStatistics(**{name: max(LEAST[name], FACTOR * getattr(self.largest, name)) for name in STATISTICS})


@dataclass(frozen=True)
class PairExtremes:
    """One pair of numerics classes: who computed, and what was measured in."""

    miner: str
    validator: str
    shapes: tuple[Shape, ...]
    lengths: tuple[LengthClass, ...]  # by rising tokens

    def covers(self, shape: Shape) -> bool:
        """No deeper and no wider than what was measured."""
        return shape.layers <= max(one.layers for one in self.shapes) and shape.hidden_size <= max(
            one.hidden_size for one in self.shapes
        )

    def bounds(self, length: int, looked_at: int) -> ReceiptStatistics:
        """Of a completion of so many tokens, of which so many draws are looked at. Beyond the longest class its errors hold on,
        and its sum of margins in proportion."""
        of = next((one for one in self.lengths if length <= one.tokens), self.lengths[-1])
        return replace(of.bounds, margin_sum=of.bounds.margin_sum * max(1.0, looked_at / of.tokens))


@dataclass(frozen=True)
class ReceiptTable:
    version: str
    place: str  # on what machine and software it was measured
    pairs: tuple[PairExtremes, ...]

    def lookup(self, miner: str, validator: str) -> PairExtremes | None:
        return next((pair for pair in self.pairs if (pair.miner, pair.validator) == (miner, validator)), None)

    def bounds(
        self, *, proof_class: str, generation_class: str, measured_in: str, shape: Shape, length: int, looked_at: int
    ) -> ReceiptStatistics | None:
        """What one choice is held against; None where a class is not calibrated for models of this shape."""
        found = []
        for miner in (proof_class, generation_class):
            pair = self.lookup(miner, measured_in)
            if pair is None or not pair.covers(shape):
                return None
            found.append(pair.bounds(length, looked_at))
        proof, draws = found
        return ReceiptStatistics(**{name: getattr(proof if name in PROOF else draws, name) for name in STATISTICS})

    def to_bytes(self) -> bytes:
        return table_bytes({"format": FORMAT, **asdict(self)})

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).digest()

    @classmethod
    def from_bytes(cls, raw: bytes, *, where: str = "") -> ReceiptTable:
        """Read a table that somebody else may have written.

        Raises:
            ConfigurationError: another form, an unknown class, or a number that no honest answer has; it names the field.
        """
        try:
            return _table(parse_json(raw, most=MAX_TABLE_BYTES, floats=True))
        except (ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"not a table of receipts of this release: {error}",
                where=where,
                hint="take the one that ships with this release",
            ) from error


def table_bytes(value: dict[str, Any]) -> bytes:
    """As tables of receipts lie in files."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _table(node: Node) -> ReceiptTable:
    of = node.members("format", "version", "place", "pairs")
    if of["format"].integer() != FORMAT:
        of["format"].refuse(f"format {FORMAT} is expected")
    return table_of(of)


def table_of(of: Mapping[str, Node]) -> ReceiptTable:
    """The table of members `version`, `place` and `pairs`. Raises ValueError."""
    pairs = tuple(_pair(one) for one in of["pairs"].items(256))
    if len({(one.miner, one.validator) for one in pairs}) != len(pairs):
        of["pairs"].refuse("a pair of classes is there twice")
    return ReceiptTable(of["version"].text(64), of["place"].text(1000), pairs)


def _pair(node: Node) -> PairExtremes:
    of = node.members("miner", "validator", "shapes", "lengths")
    names = [of[name].text(128) for name in ("miner", "validator")]
    for name in names:
        if name not in NUMERICS_CLASSES:
            node.refuse(f"{name!r} is no numerics class of this release")
    lengths = tuple(_length(one) for one in of["lengths"].items(32))
    tokens = [one.tokens for one in lengths]
    if not tokens or tokens != sorted(set(tokens)):
        of["lengths"].refuse("length classes by rising tokens are expected, one at least")
    shapes = tuple(_shape(one) for one in of["shapes"].items(64))
    if not shapes:
        of["shapes"].refuse("at least one shape is expected")
    return PairExtremes(names[0], names[1], shapes, lengths)


def _length(node: Node) -> LengthClass:
    of = node.members("tokens", "choices", "largest")
    largest = of["largest"].members(*STATISTICS)
    tokens = of["tokens"].integer(1, 10**6)
    most = {"error": 0.1, "own_error": 0.1, "margin": 1.0, "margin_sum": float(tokens), "logprob": 1.0}
    values = {name: _number(largest[name], most[name]) for name in STATISTICS}
    return LengthClass(tokens, of["choices"].integer(1), ReceiptStatistics(**values))


def _shape(node: Node) -> Shape:
    of = node.members("layers", "hidden_size")
    return Shape(of["layers"].integer(1, 10**6), of["hidden_size"].integer(1, 10**7))


def _number(node: Node, most: float) -> float:
    value: Any = node.value
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        node.refuse("a finite number is expected")
    if not 0 <= value <= most:
        node.refuse(f"{value:g} is outside 0 … {most:g}: no honest answer has that")
    return float(value)


@lru_cache(maxsize=1)
def shipped_receipt_table() -> ReceiptTable:
    """The table in the package."""
    return ReceiptTable.from_bytes(resources.files("grail_core.proof").joinpath(TABLE_FILE).read_bytes())
