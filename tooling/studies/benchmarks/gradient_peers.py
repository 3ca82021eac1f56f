"""What others send of the same chosen values: their formats, for the bytes and the error that they cost.

`14bit`: a 12-bit place and a 2-bit code a value, with 4 bins a tensor: six standard deviations around the mean of the values
sent are cut in four, each decoded to the mean of what fell in it. (Means, mean and deviation travel beside, 24 bytes a tensor;
they are not counted.) `fp32_int16`: a float32 and a 16-bit place a value, exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grail_core.gradient import codec
from grail_core.gradient.layout import Floats, TensorLayout

BINS = 4
RANGE = 6  # standard deviations


@dataclass(frozen=True)
class Piece:
    """One tensor as a peer sends it."""

    size: int  # bytes
    error: float  # Σ (value − decoded)² over all values of the tensor


def four_bins(values: Floats, tensor: TensorLayout) -> Piece:
    sent, missed = _split(values, tensor)
    shift, deviation = sent.mean(), sent.std(ddof=1) if sent.size > 1 else 0.0
    width = RANGE * deviation / BINS or 1.0
    codes = np.clip(np.rint((sent - shift) / width + BINS // 2), 0, BINS - 1).astype(np.int64)
    counts = np.bincount(codes, minlength=BINS)
    means = np.bincount(codes, sent, BINS) / np.maximum(counts, 1)
    return Piece((14 * sent.size + 7) // 8, missed + float(np.square(sent - means[codes]).sum()))


def exact(values: Floats, tensor: TensorLayout) -> Piece:
    sent, missed = _split(values, tensor)
    return Piece(6 * sent.size, missed)


PEERS: dict[str, Callable[[Floats, TensorLayout], Piece]] = {"14bit": four_bins, "fp32_int16": exact}


def _split(values: Floats, tensor: TensorLayout) -> tuple[np.ndarray, float]:
    """The values sent, in float64, and the squares of those that are not."""
    chosen = codec.quantised(values, tensor).positions()
    wide = values.astype(np.float64)
    sent = wide[chosen]
    return sent, float(np.square(wide).sum() - np.square(sent).sum())
