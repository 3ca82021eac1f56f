"""Whether outputs are right: raw bytes against the reference's, within what honest arithmetic of their type may differ.

An element y is right if |y − r| ≤ 4u·|r| + (2u + 32·2⁻²⁴·√n)·ρ, where r is the reference in float64, u the unit roundoff of the
output's type (2⁻²⁴, 2⁻¹¹, 2⁻⁸ for float32, float16, bfloat16), ρ the root mean square of the reference's finite elements, and
n how many numbers one output may be a sum of (the longest side of an input, or inputs over outputs where that is more). The
first part is the rounding of the result, the second of an intermediate of the same type, the third of a sum of n products
in float32. NaN is never right, an infinity only where the reference has it; whole numbers and truth values are equal or
wrong. Nothing of this depends on a clock. NumPy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

UNIT_ROUNDOFF: Final = {"float32": 2.0**-24, "float64": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SUM_ROUNDOFF: Final = 32 * 2.0**-24

_NUMPY: Final = {
    "float32": np.float32, "float64": np.float64, "float16": np.float16, "int8": np.int8, "int16": np.int16, "int32": np.int32,
    "int64": np.int64, "uint8": np.uint8, "bool": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """One right output: the type and shape it has to have, its values in float64 or as they are, and n of the formula."""

    dtype: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any]
    terms: int


def array_of(dtype: str, shape: tuple[int, ...], raw: bytes) -> npt.NDArray[Any]:
    """Values from their bytes; bfloat16 as float32.

    Raises:
        ValueError: an unknown type, or another number of bytes than the shape has.
    """
    if dtype == "bfloat16":
        bits = np.frombuffer(raw, dtype=np.uint16).astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(shape)
    if dtype not in _NUMPY:
        raise ValueError(f"values of type {dtype}")
    return np.frombuffer(raw, dtype=_NUMPY[dtype]).reshape(shape)


def terms_of(input_shapes: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    """How many numbers one output element may be a sum of."""
    longest = max((side for shape in input_shapes for side in shape), default=1)
    elements = sum(math.prod(shape) for shape in input_shapes)
    return max(1, longest, elements // max(1, math.prod(output)))


def difference(
    expected: Expected, dtype: str, shape: tuple[int, ...], values: npt.NDArray[Any], *, least_unit: float = 0.0
) -> str:
    """What is wrong with an output, "" where it is right. `least_unit` is a lower bound of u, for coarser arithmetic."""
    if shape != expected.shape:
        return f"an output of shape {list(shape)[:8]} in the place of {list(expected.shape)}"
    if dtype != expected.dtype:
        return f"an output of type {dtype} in the place of {expected.dtype}"
    if dtype not in UNIT_ROUNDOFF:
        wrong = int((values != expected.values).sum())
        return f"{wrong} of {values.size} values differ" if wrong else ""
    found, right = values.astype(np.float64), expected.values.astype(np.float64)
    if np.isnan(found).any():
        return f"{int(np.isnan(found).sum())} of {found.size} values are NaN"
    finite = np.isfinite(right)
    if not (found[~finite] == right[~finite]).all():
        return "a finite value where the reference is infinite"
    with np.errstate(invalid="ignore", over="ignore"):
        bound = tolerance(expected, right, finite, least_unit)
        wrong = int((~(np.abs(found - right) <= bound) & finite).sum())
    return f"{wrong} of {found.size} values differ by more than the tolerance" if wrong else ""


CLEARLY: Final = 8


def clearly_different(expected: Expected, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which elements of another draw's reference differ from this one's by more than `CLEARLY` tolerances."""
    if expected.dtype not in UNIT_ROUNDOFF:
        other: npt.NDArray[np.bool_] = values != expected.values
        return other
    found, right = values.astype(np.float64), expected.values.astype(np.float64)
    finite = np.isfinite(right) & np.isfinite(found)
    with np.errstate(invalid="ignore", over="ignore"):
        is_near = np.abs(found - right) <= CLEARLY * tolerance(expected, right, finite)
    return np.where(finite, ~is_near, (found != right) & ~(np.isnan(found) & np.isnan(right)))


def tolerance(
    expected: Expected, right: npt.NDArray[Any], finite: npt.NDArray[np.bool_], least_unit: float = 0.0
) -> npt.NDArray[np.float64]:
    """The bound of the formula above for every element."""
    unit = max(UNIT_ROUNDOFF[expected.dtype], least_unit)
    scale = float(np.sqrt(np.mean(np.square(right[finite])))) if finite.any() else 0.0
    bound: npt.NDArray[np.float64] = 4 * unit * np.abs(right) + (2 * unit + SUM_ROUNDOFF * math.sqrt(expected.terms)) * scale
    return bound
