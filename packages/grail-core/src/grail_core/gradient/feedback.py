"""Section 6: what a miner sends of its pseudo-gradient, and what it keeps for the next round.

a = fl32(fl32(β·e) + Δ) for each element, where β is the spec's integer over 10⁶ in float64, rounded to float32; what the codec
sends of a is taken off it, and the rest e′ is the next round's e, whether or not the update is merged. Three separate roundings
by three separate array operations: nothing may fuse them.
"""

from __future__ import annotations

import numpy as np

from grail_core.gradient import codec, minifloat
from grail_core.gradient.layout import Floats, Layout, StateArrays, TensorLayout
from grail_core.protocol.gradient.spec import MICRO, GradientSpec


def compress(
    layout: Layout, spec: GradientSpec, delta: StateArrays, feedback: StateArrays | None
) -> tuple[tuple[bytes, ...], dict[str, Floats]]:
    """The streams of a round's update, and e′.

    Args:
        delta: Δ = θ_0 − θ_H.
        feedback: e of the round before; None for a new start, which is a vector of zeros.

    Raises:
        ValueError: tensors that are not the layout's, or a sum that is not finite.
    """
    layout.require(delta)
    if feedback is not None:
        layout.require(feedback)
    streams: list[bytes] = []
    rests: dict[str, Floats] = {}
    for tensor in layout.tensors:
        before = tensor.flat(feedback[tensor.name]) if feedback is not None else None
        sums = accumulate(tensor.flat(delta[tensor.name]), before, spec)
        stream, rest = compress_tensor(sums, tensor)
        streams.append(stream)
        rests[tensor.name] = rest.reshape(tensor.shape)
    return tuple(streams), rests


def accumulate(delta: Floats, feedback: Floats | None, spec: GradientSpec) -> Floats:
    """a of a tensor or chunk, as new memory."""
    if feedback is None:
        return delta + np.float32(0)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused when places are chosen
        sums = np.multiply(feedback, np.float32(spec.feedback / MICRO))
        return np.add(sums, delta, out=sums)


def compress_tensor(sums: Floats, tensor: TensorLayout) -> tuple[bytes, Floats]:
    """The stream of a (flat), and e′ in the memory of a."""
    sent = codec.quantised(sums, tensor)
    subtract(sums, sent)
    return codec.pack(sent), sums


def subtract(sums: Floats, sent: codec.Sent) -> None:
    """a − decode(q), in place: float32 holds what is sent exactly, and each difference is rounded once."""
    sums[sent.positions()] -= (sent.decoded() * minifloat.UNIT).astype(np.float32)
