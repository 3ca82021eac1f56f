"""What a calibration table enforces of each class that a network admits, at one model's shape.

A validator measures with the attention of the miner's proof class (`numerics.measuring_class`), so the pairs that count are
(proof class, class measured in) and (generation class, class measured in), over every class that validators may compute with.
A class is covered as well as its worst pair: validators must refuse alike, and not each by its own class alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from grail_core.proof.calibration import CalibrationTable, Coverage, PairCalibration, Shape
from grail_core.proof.numerics import MOST_EAGER_TOKENS, NUMERICS_CLASSES, measuring_class
from grail_core.protocol.network import NetworkParameters

Use = Literal["proof", "generation"]


@dataclass(frozen=True)
class PairCoverage:
    """One use of a miner's class as a validator sees it. `pair` None: the table has none."""

    use: Use
    miner: str
    measured_in: str
    pair: PairCalibration | None
    coverage: Coverage


def coverage_of(
    table: CalibrationTable, params: NetworkParameters, shape: Shape, *, proof: str | None = None, generation: str | None = None
) -> Iterator[PairCoverage]:
    """Every pair that files of these classes may be judged by.

    Args:
        proof, generation: the classes that a header names; None: each one that the network admits.
    """
    proofs = params.proof_classes if proof is None else (proof,)
    measured_in = {
        one: list(dict.fromkeys(name for own in params.validator_classes for name in measured_in_classes(one, own)))
        for one in proofs
    }
    for one, names in measured_in.items():
        for name in names:
            yield _pair("proof", one, name, table, shape)
    for one in params.generation_classes if generation is None else (generation,):
        for name in dict.fromkeys(itertools.chain.from_iterable(measured_in.values())):
            yield _pair("generation", one, name, table, shape)


def uncovered(
    table: CalibrationTable, params: NetworkParameters, shape: Shape, *, proof: str | None = None, generation: str | None = None
) -> list[PairCoverage]:
    """Those of `coverage_of` whose statistics nobody enforces."""
    found = coverage_of(table, params, shape, proof=proof, generation=generation)
    return [one for one in found if one.coverage is Coverage.NONE]


def measured_in_classes(proof_class: str, own: str) -> tuple[str, ...]:
    """Short files and long ones. A network may name classes of validators that this version does not know: they measure as
    they are."""
    if own not in NUMERICS_CLASSES:
        return (own,)
    return measuring_class(proof_class, own), measuring_class(proof_class, own, MOST_EAGER_TOKENS + 1)


def _pair(use: Use, miner: str, measured_in: str, table: CalibrationTable, shape: Shape) -> PairCoverage:
    pair = table.lookup(miner, measured_in)
    return PairCoverage(use, miner, measured_in, pair, Coverage.NONE if pair is None else pair.coverage(shape))
