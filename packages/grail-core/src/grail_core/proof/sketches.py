"""Section 5: four numbers a position that only a run of the model gives cheaply, eight bytes on the wire.

z_{t,j} = ⟨h_t, w_j⟩ / ‖h_t‖ with random signs w_j that nobody knew before the window: about N(0, 1) whatever the scale of the
hidden states. The miner stores z rounded to 1/4096; the validator compares with its own unrounded z. Deciding what error is
too large is left to `statistics`. torch is imported by what makes sketches alone: who only compares them has no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from grail_core.proof.errors import MalformedSketchError, UnprovableError
from grail_core.protocol.constants import (
    SKETCH_BYTES_PER_POSITION,
    SKETCH_DIMENSIONS,
    SKETCH_LIMIT,
    SKETCH_SCALE,
)
from grail_core.protocol.randomness import Randomness

if TYPE_CHECKING:
    from torch import Tensor

Projections = npt.NDArray[np.float32]
"""float32 [4, d] of ±1."""
Sketches = npt.NDArray[np.float32]
"""float32 [n, 4], z of n positions."""

ROUNDING_VARIANCE = (1 / SKETCH_SCALE) ** 2 / 12
"""Of a coordinate that a claimed word stands for."""

_RESERVED = -32768
_MAX_Z = SKETCH_LIMIT / SKETCH_SCALE


def projections(randomness: Randomness, window_seed: bytes, hidden_size: int) -> Projections:
    """The window's four projections; the coefficient belongs to the dimension."""
    rows = [randomness.sketch_bits(window_seed, j, hidden_size) for j in range(SKETCH_DIMENSIONS)]
    return np.ascontiguousarray(np.stack(rows), dtype=np.float32)


def sketch(hidden: Tensor, projections: Projections) -> Sketches:
    """z of every position, float32 [n, 4].

    Args:
        hidden: [n, d], the model's dtype, any device. projections: [4, d].

    Raises:
        UnprovableError: a hidden state that is zero or not finite.
    """
    import torch

    if hidden.ndim != 2 or hidden.shape[1] != projections.shape[1]:
        raise ValueError(f"hidden states {tuple(hidden.shape)} do not fit projections of {projections.shape[1]} dimensions")
    if hidden.dtype == torch.bfloat16 and hidden.device.type == "cpu":
        from grail_core.proof import kernels

        bits = hidden.detach().contiguous().view(torch.int16).numpy().view(np.uint16)
        z = np.empty((len(bits), SKETCH_DIMENSIONS), dtype=np.float32)
        bad = bool(kernels.sketch_bf16(bits, projections, z))
    else:
        z, bad = _sketch_torch(hidden, projections)
    if bad or not np.isfinite(z).all():
        raise UnprovableError("a hidden state is zero or not finite", hint="the model's weights or its dtype overflow")
    return z


def sketch_plain(hidden: npt.NDArray[np.float32], projections: Projections) -> Sketches:
    """`sketch` in two lines of numpy, for reading and for tests."""
    norms = np.sqrt(np.einsum("nd,nd->n", hidden, hidden))
    return np.asarray(hidden @ projections.T / norms[:, None], dtype=np.float32)


def _sketch_torch(hidden: Tensor, projections: Projections) -> tuple[Sketches, bool]:
    import torch

    with torch.inference_mode():
        wide = hidden.detach().float()
        norms = torch.linalg.vector_norm(wide, dim=1)
        z = wide @ torch.from_numpy(projections).to(wide.device).t() / norms[:, None]
        good = bool((torch.isfinite(norms) & (norms > 0)).all())
        return z.cpu().numpy(), not good


def quantise(z: Sketches) -> bytes:
    """The wire form: int16 little-endian, q = clamp(round-half-even(4096 z), −32767, 32767), 8 bytes a position.

    Raises:
        UnprovableError: a z that is not finite.
    """
    if not np.isfinite(z).all():
        raise UnprovableError("a sketch is not finite")
    scaled = np.rint(np.asarray(z, dtype=np.float32) * np.float32(SKETCH_SCALE))
    return bytes(np.clip(scaled, -SKETCH_LIMIT, SKETCH_LIMIT).astype("<i2").tobytes())


def parse_sketches(data: object, positions: int) -> npt.NDArray[np.int16]:
    """Wire form → int16 [positions, 4].

    Raises:
        MalformedSketchError: no bytes, another length than 8 · positions, or the reserved value −32768.
    """
    if not isinstance(data, bytes | memoryview):
        raise MalformedSketchError(f"sketches are bytes, not {type(data).__name__}")
    if len(data) != SKETCH_BYTES_PER_POSITION * positions:
        raise MalformedSketchError(
            f"{positions} positions have {SKETCH_BYTES_PER_POSITION * positions} bytes of sketches, not {len(data)}"
        )
    q = np.frombuffer(data, dtype="<i2").reshape(positions, SKETCH_DIMENSIONS)
    if q.size and int(q.min()) == _RESERVED:
        raise MalformedSketchError("a sketch holds the reserved value −32768")
    return q.astype(np.int16, copy=False)


def differences(q: npt.NDArray[np.int16], z: Sketches) -> npt.NDArray[np.float32]:
    """Claimed minus measured, float32 [n, 4]; the measured z unrounded, clipped to ±32767/4096. NaN where z is not finite:
    clipped, an infinite one would be met by the largest claim."""
    claimed = q.astype(np.float32) / np.float32(SKETCH_SCALE)
    return claimed - np.where(np.isfinite(z), np.clip(z, np.float32(-_MAX_Z), np.float32(_MAX_Z)), np.float32(np.nan))
