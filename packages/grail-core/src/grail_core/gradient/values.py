"""Section 6, values `sign1`: one scale a chunk and one sign a value.

The scale is the mean magnitude of the chunk's chosen values, so defined that every machine gets its bits: the magnitudes are
added in float64 from the lowest place to the highest, each sum rounded once, and the total is divided by their number and
rounded once. (Sums in another order, or in pairs as `numpy.sum` adds, differ in the last bit and now and then in the code.)
On the wire stand the scales, u16 little-endian, then the sign bits, most significant first, 1 for a value below 0, padding 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grail_core.gradient import loops, minifloat
from grail_core.gradient.layout import Floats, TensorLayout

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint16]
Places = npt.NDArray[np.uint16]
"""Places within their chunk, increasing, chunk after chunk."""


def value_bytes(tensor: TensorLayout) -> int:
    return 2 * tensor.chunks + (tensor.values + 7) // 8


def quantise(values: Floats, places: Places, tensor: TensorLayout) -> tuple[Codes, Bytes]:
    """The code of each chunk's scale, and per chosen value 1 where it is below 0, else 0."""
    means, negative = np.empty(tensor.chunks, np.float64), np.empty(tensor.values, np.uint8)
    loops.gather(values, tensor.chunk, tensor.kept, places, means, negative)
    return minifloat.encode(means), negative


def pack_values(scales: Codes, negative: Bytes) -> bytes:
    return scales.astype("<u2").tobytes() + np.packbits(negative).tobytes()


def unpack_values(raw: memoryview, tensor: TensorLayout, path: str) -> tuple[Codes, Bytes]:
    """Inverse of `pack_values`; `raw` has `value_bytes`. Errors: ValueError where the padding is not zero."""
    at, count = 2 * tensor.chunks, tensor.values
    scales = np.frombuffer(raw[:at], "<u2").astype(np.uint16, copy=False)
    require_padding(raw, count, f"{path}.values")
    return scales, np.unpackbits(np.frombuffer(raw[at:], np.uint8), count=count)


def require_padding(raw: memoryview, bits: int, path: str) -> None:
    """The bits of the last byte that `bits` do not use are zero. Errors: ValueError."""
    if bits % 8 and raw[-1] & (0xFF >> bits % 8):
        raise ValueError(f"{path}: bits behind the last value are set")
