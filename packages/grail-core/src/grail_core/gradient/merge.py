"""Section 12, `mean` with divisor `all`: the next checkpoint from the updates that are merged, to the bit, on any machine.

Everything up to the last three operations is done in integers of 2⁻⁴⁰: norms exactly, the median, the clip c of each update,
w = (v·c + 2¹⁵) ≫ 16, and the sum of w, below 2⁴⁹ for 64 updates. So neither the order of updates nor threads nor instruction
sets can show. Then x = fl64(Σw) · fl64(f · 2⁻⁴⁰) with f = fl64(min(1, rate/(10⁶ R))), and θ′ = fl32(fl64(θ) − x), each rounded
once by an array operation of its own. Tensors are merged one by one, each with memory for itself: a tensor's merge is a pure
function, and whoever wants threads maps over tensors. Who is merged is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt

import numpy as np

from grail_core.gradient import loops, minifloat
from grail_core.gradient.codec import Sent, Stream, decode
from grail_core.gradient.layout import Floats, Layout, StateArrays, TensorLayout
from grail_core.protocol.gradient.spec import MICRO, PERMILLE, GradientSpec

MAX_UPDATES = 64

_WHOLE = 1 << 16  # c of an update that is not clipped
_AT_ONCE = 1 << 16  # elements that are summed at a time: they stay in the processor's cache


def merge(theta: StateArrays, updates: Sequence[Sequence[Stream]], layout: Layout, rate: int) -> Iterator[tuple[str, Floats]]:
    """The tensors of the next checkpoint, in layout order, each as it is ready.

    Args:
        theta: the checkpoint that the updates were made from.
        updates: the streams of each update, in any order.
        rate: of the spec's `outer_rate`, in parts of a million.

    Raises:
        ValueError: no update or more than 64, tensors that are not the layout's, or a stream that breaks a rule.
    """
    layout.require(theta)
    for update in updates:
        _require_streams(update, layout)
    for i, tensor in enumerate(layout.tensors):
        streams = [update[i] for update in updates]
        yield tensor.name, merge_tensor(theta[tensor.name], streams, tensor, rate, f"streams[{i}]")


def merge_tensor(theta: Floats, streams: Sequence[Stream], tensor: TensorLayout, rate: int, path: str = "stream") -> Floats:
    """One tensor of the next checkpoint, as new memory. Arguments and errors as of `merge`, of this tensor alone."""
    if not 0 < len(streams) <= MAX_UPDATES:
        raise ValueError(f"{len(streams)} updates cannot be merged: 1 to {MAX_UPDATES} can")
    sent = [decode(stream, tensor, f"$updates[{u}].{path}") for u, stream in enumerate(streams)]
    norms = [one.norm2 for one in sent]
    most = median(norms)
    clips = [clip(norm, most) for norm in norms]
    share = min(1.0, rate / (MICRO * len(sent)))  # a division of integers is rounded once
    return _moved(theta, sent, clips, share, tensor)


def norms2(update: Sequence[Stream], layout: Layout, path: str = "$update") -> tuple[int, ...]:
    """Σv² of an update's values for each tensor, exactly, in units of 2⁻⁸⁰. Errors: ValueError for a malformed stream."""
    _require_streams(update, layout)
    pairs = zip(update, layout.tensors, strict=True)
    return tuple(decode(stream, tensor, f"{path}.streams[{i}]").norm2 for i, (stream, tensor) in enumerate(pairs))


def medians(norms: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The median of each tensor's norms², over updates. `norms`: what `norms2` gives, of each update."""
    return tuple(median(column) for column in zip(*norms, strict=True))


def median(norms: Sequence[int]) -> int:
    """Element ⌊(n − 1)/2⌋ of the sorted norms². Errors: ValueError for none."""
    if not norms:
        raise ValueError("nothing has no median")
    return sorted(norms)[(len(norms) - 1) // 2]


def clip(norm: int, most: int) -> int:
    """c, in parts of 2¹⁶: what an update's values are multiplied with, so that its norm² is `most` at most."""
    return isqrt((most << 32) // norm) if norm > most else _WHOLE


def apply_one(
    theta: StateArrays, update: Sequence[Stream], most: Sequence[int], layout: Layout, spec: GradientSpec
) -> Iterator[tuple[str, Floats]]:
    """θ_0 − u for the score of one update (section 10), in layout order: u = score_step · w, w clipped to `most`.

    Args:
        most: for each tensor the median norm² of the set that the update is judged in (`medians`).

    Raises:
        ValueError: tensors that are not the layout's, or a stream that breaks a rule.
    """
    layout.require(theta)
    _require_streams(update, layout)
    share = spec.score_step / PERMILLE
    for i, tensor in enumerate(layout.tensors):
        sent = decode(update[i], tensor, f"$update.streams[{i}]")
        yield tensor.name, _moved(theta[tensor.name], [sent], [clip(sent.norm2, most[i])], share, tensor)


def _moved(theta: Floats, sent: Sequence[Sent], clips: Sequence[int], share: float, tensor: TensorLayout) -> Floats:
    """fl32(fl64(θ) − fl64(Σw) · fl64(share · 2⁻⁴⁰))."""
    values, result = tensor.flat(theta), np.empty(tensor.size, np.float32)
    weighed = [_weighed(one, c) for one, c in zip(sent, clips, strict=True)]
    step = max(1, _AT_ONCE // tensor.chunk)
    factor = np.float64(share) * minifloat.UNIT
    sums = np.empty(min(tensor.size, step * tensor.chunk), np.int64)
    for first in range(0, tensor.chunks, step):
        span = slice(first * tensor.chunk, min(tensor.size, (first + step) * tensor.chunk))
        part = sums[: span.stop - span.start]
        part[:] = 0
        chunks, chosen = slice(first, first + step), slice(first * tensor.kept, (first + step) * tensor.kept)
        for one, (plus, minus) in zip(sent, weighed, strict=True):
            places, negative = one.places[chosen], one.negative[chosen]
            loops.add(places, negative, plus[chunks], minus[chunks], tensor.chunk, tensor.kept, part)
        moved = part.astype(np.float64)
        np.multiply(moved, factor, out=moved)
        np.subtract(values[span], moved, out=moved, dtype=np.float64)
        result[span] = moved
    return result.reshape(tensor.shape)


def _weighed(sent: Sent, c: int) -> tuple[np.ndarray, np.ndarray]:
    """w of each chunk's value, positive and negative: rounding is towards +∞ half way, so they are no mirror images."""
    sizes = minifloat.decode(sent.scales)
    half = 1 << 15
    return (sizes * c + half) >> 16, (half - sizes * c) >> 16


def _require_streams(update: Sequence[Stream], layout: Layout) -> None:
    if len(update) != len(layout.tensors):
        raise ValueError(f"an update with {len(update)} streams, the checkpoint has {len(layout.tensors)} tensors")
