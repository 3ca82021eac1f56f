"""Section 6: scales as 16-bit floats of 2⁻⁴⁰, so that whatever is decoded is an integer.

Code 0 is 0; any other code c is (2048 + (c mod 2048)) · 2^(c div 2048) units of 2⁻⁴⁰: 1.9e-9 to 8 with a relative step of
2⁻¹¹. The integer of code 0's own bits, 2048, is therefore no scale. Values are rounded to the nearest one, ties to the even
code, and saturate at the largest.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

UNIT: Final = 2.0**-40
"""What a decoded integer counts."""

MOST: Final = 65535
"""The largest code."""

_MANTISSA = 11
_HALF = 1 << _MANTISSA


def encode(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """The codes of values ≥ 0, finite. Every step is exact but the one rounding."""
    units = np.minimum(np.asarray(values, np.float64), 16.0) * 2.0**40  # more than the largest code saturates anyway
    exponent = np.maximum(np.frexp(units)[1] - (_MANTISSA + 1), 0)  # units · 2^-exponent is below 4096
    code = np.rint(np.ldexp(units, -exponent)).astype(np.int64) - _HALF + exponent * _HALF
    # Below 2049 units the nearest is 0 or code 1; half way, at 1024.5, 0 is the even one.
    code = np.where(units < _HALF + 1, units > (_HALF + 1) / 2, code)
    return np.minimum(code, MOST).astype(np.uint16)


def decode(codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Units of 2⁻⁴⁰; all codes are legal."""
    wide = codes.astype(np.int64)
    return np.where(wide == 0, 0, (_HALF + (wide & (_HALF - 1))) << (wide >> _MANTISSA))


def squares(codes: npt.NDArray[np.uint16], counts: npt.NDArray[np.int64]) -> int:
    """Σ counts · decode(codes)², exactly: by exponent, Σ 4^e Σ count · m². Σ counts is below 2³⁹."""
    wide = codes.astype(np.int64)
    exponents, mantissas = wide >> _MANTISSA, np.where(wide == 0, 0, _HALF + (wide & (_HALF - 1)))
    terms = mantissas * mantissas * counts
    return sum(int(terms[exponents == e].sum()) << (2 * int(e)) for e in np.unique(exponents))
