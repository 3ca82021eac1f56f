"""Check 8 of gradient work: which files resemble each other more than honest ones do. It reports, and never rejects.

Candidates are found on a few chunks drawn for everybody, then the cosine of the decoded values is taken in integers. Who is
replayed follows from the coins alone, since a file opens no more than they ask: nobody is framed by being copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from math import isqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.gradient import minifloat
from grail_core.gradient.layout import Layout
from grail_core.gradient.update_file import UpdateFile
from grail_core.protocol.findings import Finding
from grail_core.protocol.gradient.spec import PERMILLE, GradientSpec
from grail_core.protocol.randomness import draw
from grail_core.verification.wording import accept

SIMILAR: Final = "similar"
CHUNKS_COMPARED: Final = 64
COSINE_PERMILLE: Final = 500
"""Above it a pair is reported; honest pairs had 180 to 250 in rounds 0 to 5."""
_TAG: Final = "grail/draw/gradient-similar"


def similar_pairs(
    files: Mapping[int, UpdateFile], layout: Layout, spec: GradientSpec, select_seed: bytes
) -> dict[int, tuple[int, int]]:
    """For each UID the other whose values it resembles most, and the cosine in thousandths; those above the bound alone."""
    numbers = draw(select_seed, _TAG, layout.chunks, min(CHUNKS_COMPARED, layout.chunks))
    vectors = {uid: _Vector.of(one, layout, spec, numbers) for uid, one in sorted(files.items())}
    norms = {uid: vector.dot(vector) for uid, vector in vectors.items()}
    found: dict[int, tuple[int, int]] = {}
    for a, b in combinations(vectors, 2):
        dot = vectors[a].dot(vectors[b])
        if dot <= 0 or not norms[a] or not norms[b]:
            continue
        cosine = isqrt(dot * dot * PERMILLE * PERMILLE // (norms[a] * norms[b]))
        if cosine > COSINE_PERMILLE:
            for one, other in ((a, b), (b, a)):
                if one not in found or found[one][1] < cosine:
                    found[one] = (other, cosine)
    return found


def similar_finding(other: int, cosine: int) -> Finding:
    detail = f"its values resemble those of UID {other} (cosine in thousandths); reported"
    return accept(SIMILAR, value=cosine, threshold=COSINE_PERMILLE, detail=detail)


@dataclass(frozen=True, eq=False)
class _Vector:
    """The drawn chunks of one file: a scale each, and int8 [chunks, C] signs, 0 where nothing is sent."""

    scales: tuple[int, ...]
    signs: npt.NDArray[np.int8]

    @classmethod
    def of(cls, file: UpdateFile, layout: Layout, spec: GradientSpec, numbers: Sequence[int]) -> _Vector:
        signs, scales = np.zeros((len(numbers), spec.chunk), np.int8), [0] * len(numbers)
        rows = sorted(range(len(numbers)), key=lambda row: layout.tensor_of(numbers[row]))
        # Each tensor is decoded once, however many of its chunks are drawn: it may be most of the model.
        for tensor, drawn in groupby(rows, key=lambda row: layout.tensor_of(numbers[row])):
            decoded = file.decode(layout, tensor)
            for row in drawn:
                sent = decoded.chunk(layout.place(numbers[row])[1])
                signs[row, sent.places] = 1 - 2 * sent.negative.astype(np.int8)
                scales[row] = int(minifloat.decode(np.array([sent.scale], np.uint16))[0])
        return cls(tuple(scales), signs)

    def dot(self, other: _Vector) -> int:
        """Exact. All pairs of a subnet's files may have all their places in common: only sums over chunks are Python's."""
        counts = np.einsum("ij,ij->i", self.signs, other.signs, dtype=np.int64).tolist()
        return sum(a * b * count for a, b, count in zip(self.scales, other.scales, counts, strict=True))
