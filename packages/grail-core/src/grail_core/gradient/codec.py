"""Section 6: a tensor of float32 to the bytes of its stream, and the bytes to places and integers.

Of each chunk the k_i values of greatest magnitude are chosen, ties to the lower place; `values` says what is sent of them,
`indices` where they stand. A stream is the values, then the indices. Reading checks everything before anything is used, and
takes memory for one tensor at most; no float is read from foreign bytes. What is sent is an integer of 2⁻⁴⁰.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grail_core.gradient import loops, minifloat
from grail_core.gradient.indices import pack_indices, unpack_indices
from grail_core.gradient.layout import Floats, TensorLayout
from grail_core.gradient.values import Bytes, Codes, Places, pack_values, quantise, unpack_values, value_bytes

Stream = bytes | memoryview
"""The stream of one tensor; a view where it is a part of a file in memory."""


@dataclass(frozen=True, eq=False)
class Sent:
    """What a stream holds: a scale code per chunk, and per value its place in the chunk and whether it is negative."""

    tensor: TensorLayout
    scales: Codes
    places: Places
    negative: Bytes

    @property
    def norm2(self) -> int:
        """Σv² of the decoded values, exactly, in units of 2⁻⁸⁰."""
        counts = np.full(self.tensor.chunks, self.tensor.kept, np.int64)
        if counts.size:
            counts[-1] = self.tensor.chunk_kept(counts.size - 1)
        return minifloat.squares(self.scales, counts)

    def chunk(self, chunk: int) -> SentChunk:
        first = chunk * self.tensor.kept
        span = slice(first, first + self.tensor.chunk_kept(chunk))
        return SentChunk(int(self.scales[chunk]), self.places[span], self.negative[span])

    def positions(self) -> npt.NDArray[np.int64]:
        """Places of the values among the tensor's elements, increasing."""
        return self._chunks() * self.tensor.chunk + self.places

    def decoded(self) -> npt.NDArray[np.int64]:
        """The values at `positions`, in units of 2⁻⁴⁰."""
        sizes = minifloat.decode(self.scales)[self._chunks()]
        return np.where(self.negative != 0, -sizes, sizes)

    def _chunks(self) -> npt.NDArray[np.int64]:
        """The chunk of each value: all have `kept` of them but the last."""
        return np.arange(self.tensor.values, dtype=np.int64) // self.tensor.kept


@dataclass(frozen=True, eq=False)
class SentChunk:
    """One chunk of `Sent`."""

    scale: int
    places: Places
    negative: Bytes

    def decoded(self) -> Floats:
        """The values at `places`; float32 holds each of them exactly."""
        size = np.float32(int(minifloat.decode(np.array([self.scale], np.uint16))[0]) * minifloat.UNIT)
        return np.where(self.negative != 0, -size, size)


def select(values: Floats, tensor: TensorLayout) -> Places:
    """Places of the values that are sent: the k_i of greatest magnitude of each chunk, ties to the lower place.

    Args:
        values: flat float32 of the tensor.

    Raises:
        ValueError: a value is not finite.
    """
    places = np.empty(tensor.values, np.uint16)
    wrong = loops.select(values.view(np.int32), tensor.chunk, tensor.kept, places)
    if wrong >= 0:
        raise ValueError(f"{tensor.name}: a value of chunk {wrong} is not finite: no update can be made of it")
    return places


def quantised(values: Floats, tensor: TensorLayout) -> Sent:
    """What is sent of a tensor's values (flat float32). Errors: ValueError for one that is not finite."""
    places = select(values, tensor)
    return Sent(tensor, *_with_values(values, places, tensor))


def pack(sent: Sent) -> bytes:
    """The stream."""
    return pack_values(sent.scales, sent.negative) + pack_indices(sent.places, sent.tensor)


def encode(values: Floats, places: Places, tensor: TensorLayout) -> bytes:
    """The stream of values whose places are chosen."""
    return pack(Sent(tensor, *_with_values(values, places, tensor)))


def require_length(length: int, tensor: TensorLayout, path: str) -> None:
    """Errors: ValueError for a stream that is shorter or longer than any of this tensor."""
    if not tensor.stream_least <= length <= tensor.stream_most:
        raise ValueError(f"{path}: {length} bytes, {tensor.stream_least} to {tensor.stream_most} are a stream of this tensor")


def decode(stream: Stream, tensor: TensorLayout, path: str = "$stream") -> Sent:
    """What a stream holds.

    Args:
        path: what complaints begin with.

    Raises:
        ValueError: any rule of section 6 or 7 is broken: lengths, counts, places, padding.
    """
    require_length(len(stream), tensor, path)
    raw = memoryview(stream)
    ends = value_bytes(tensor)
    scales, negative = unpack_values(raw[:ends], tensor, path)
    return Sent(tensor, scales, unpack_indices(raw[ends:], tensor, f"{path}.indices"), negative)


def _with_values(values: Floats, places: Places, tensor: TensorLayout) -> tuple[Codes, Places, Bytes]:
    scales, negative = quantise(values, places, tensor)
    return scales, places, negative
