"""A table of receipts that its reader trusts: of one model, as `grail receipts calibrate` measures it, or of shapes.

A table of a model holds for these weights under this configuration and for nothing else, whatever their size. One of shapes is
of the shipped table's form and holds by its rule. Neither says anything to anybody but the reader, who names the file: reports
say that it was his, and its SHA-256. Read strictly, since it may have come from somebody else: what no honest answer has, and
what was made from too few choices, is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from grail_core.errors import ConfigurationError
from grail_core.inference.answers import ServedModel
from grail_core.proof.calibration import MAX_TABLE_BYTES, Shape
from grail_core.proof.receipt_bounds import ReceiptTable, table_bytes, table_of
from grail_core.protocol.reading import Node, parse_json

MODEL_FORMAT: Final = 2
LEAST_CHOICES: Final = 300
"""Distinct choices that a model's table is made from, at least: fewer say nothing of one receipt in a hundred."""
LEAST_OF_CLASS: Final = 20
"""Choices of a length class, at least; one with fewer is left out."""
_TOKENS: Final = 100_000  # texts, brackets and commas: 256 pairs of 32 length classes


@dataclass(frozen=True)
class MeasuredModel:
    """What computes, of a model folder: its tokenizer, template and end tokens are not part of it."""

    architecture: str
    config_digest: bytes
    weights_root: bytes
    shape: Shape

    def is_of(self, model: ServedModel) -> bool:
        return (self.architecture, self.config_digest, self.weights_root) == (
            model.architecture,
            model.config_digest,
            model.weights_root,
        )


@dataclass(frozen=True)
class Measured:
    """What a table was made from."""

    answers: int
    choices: int  # different ones
    tokens: int  # of all completions

    @property
    def rate(self) -> float:
        """Below which, with 95 %, the share of honest choices like these lies that have more than all of them: 3 / choices."""
        return 3 / self.choices


@dataclass(frozen=True)
class ModelTable:
    """The honest extremes of one model."""

    model: MeasuredModel
    measured: Measured
    table: ReceiptTable

    def to_bytes(self) -> bytes:
        model = {
            "architecture": self.model.architecture,
            "config_digest": self.model.config_digest.hex(),
            "weights_root": self.model.weights_root.hex(),
            **asdict(self.model.shape),
        }
        rest = asdict(self.table)
        return table_bytes({"format": MODEL_FORMAT, "model": model, "measured": asdict(self.measured), **rest})


@dataclass(frozen=True)
class ReaderTable:
    """A table as its reader gave it."""

    name: str  # of the file, for reports
    digest: bytes  # SHA-256 of the file
    table: ReceiptTable
    model: MeasuredModel | None = None  # None: of whatever its shapes cover

    def is_of(self, model: ServedModel) -> bool:
        return self.model is None or self.model.is_of(model)

    @classmethod
    def from_bytes(cls, raw: bytes, *, name: str) -> ReaderTable:
        """Read what somebody else may have written.

        Raises:
            ConfigurationError: another form, a class nobody knows, a number that no honest answer has, too few choices.
        """
        try:
            model, table = _read(parse_json(raw, most=MAX_TABLE_BYTES, tokens=_TOKENS, floats=True))
        except (ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"not a table of receipts: {error}", where=name, hint="make one of your model: grail receipts calibrate"
            ) from error
        return cls(name, hashlib.sha256(raw).digest(), table, model)


def _read(node: Node) -> tuple[MeasuredModel | None, ReceiptTable]:
    value = node.value
    if isinstance(value, Mapping) and "model" not in value:
        of = node.members("format", "version", "place", "pairs")
        of["format"].integer(1, 1)
        return None, table_of(of)
    of = node.members("format", "model", "measured", "version", "place", "pairs")
    of["format"].integer(MODEL_FORMAT, MODEL_FORMAT)
    model, table = _model(of["model"]), table_of(of)
    for pair in table.pairs:
        if pair.shapes != (model.shape,):
            of["pairs"].refuse("a pair of another shape than the model's")
    counts = of["measured"].members("answers", "choices", "tokens")
    counts["choices"].integer(LEAST_CHOICES)
    counts["answers"].integer(1)
    counts["tokens"].integer(1)
    return model, table


def _model(node: Node) -> MeasuredModel:
    of = node.members("architecture", "config_digest", "weights_root", "layers", "hidden_size")
    return MeasuredModel(
        of["architecture"].text(128),
        of["config_digest"].raw(32),
        of["weights_root"].raw(32),
        Shape(of["layers"].integer(1, 10**6), of["hidden_size"].integer(1, 10**7)),
    )
