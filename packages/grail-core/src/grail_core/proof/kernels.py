"""The compiled loop of the proof: sketches of hidden states. Its plain counterpart is `sketches.sketch_plain`."""

from __future__ import annotations

import numpy as np
from numba import float32

from grail_core.model.kernels import compiled


@compiled(fastmath={"reassoc", "contract", "nsz"})
def sketch_bf16(bits, projections, out):  # type: ignore[no-untyped-def]
    """z of bf16 hidden states in one pass over them, two rows at a time so that a projection is read once for both.

    bits uint16[n, d] (the bf16 words); projections float32[4, d] of ±1; out float32[n, 4].

    Returns:
        The number of rows whose norm is zero or not finite (their z means nothing); the last of an odd number counts twice.
    """
    bad = 0
    rows, d = bits.shape
    for first in range(0, rows, 2):
        second = min(first + 1, rows - 1)
        zero = float32(0.0)
        n0, a0, b0, c0, e0 = zero, zero, zero, zero, zero
        n1, a1, b1, c1, e1 = zero, zero, zero, zero, zero
        for k in range(d):
            x = np.uint32(np.uint32(bits[first, k]) << np.uint32(16)).view(np.float32)
            y = np.uint32(np.uint32(bits[second, k]) << np.uint32(16)).view(np.float32)
            w0, w1, w2, w3 = projections[0, k], projections[1, k], projections[2, k], projections[3, k]
            n0 += x * x
            a0 += x * w0
            b0 += x * w1
            c0 += x * w2
            e0 += x * w3
            n1 += y * y
            a1 += y * w0
            b1 += y * w1
            c1 += y * w2
            e1 += y * w3
        n0, n1 = np.sqrt(n0), np.sqrt(n1)
        bad += not (n0 > 0.0 and n0 < np.inf)
        bad += not (n1 > 0.0 and n1 < np.inf)
        out[first, 0], out[first, 1], out[first, 2], out[first, 3] = a0 / n0, b0 / n0, c0 / n0, e0 / n0
        out[second, 0], out[second, 1], out[second, 2], out[second, 3] = a1 / n1, b1 / n1, c1 / n1, e1 / n1
    return bad
