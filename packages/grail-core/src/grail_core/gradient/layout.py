"""Section 6: how the tensors of a checkpoint are cut into chunks, and how many values of each are sent.

A layout follows from the checkpoint's index and the spec alone, so that neither names nor sizes travel with an update, and
every length of a foreign file can be checked before anything of it is decoded. Tensors stand in the order of their names'
UTF-8 bytes, row-major; chunks are `chunk` consecutive elements, the last of a tensor shorter. Tied tensors are given once:
which are tied is the checkpoint's matter.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from grail_core.protocol.gradient.spec import GradientSpec

Floats = npt.NDArray[np.float32]
StateArrays = Mapping[str, Floats]
"""float32 tensors of a checkpoint by name: C-contiguous, in their own shapes, tied ones once."""


@dataclass(frozen=True)
class TensorLayout:
    """One tensor. `chunk` and `kept` are the spec's C and k, `first_chunk` the number of its first chunk among all."""

    name: str
    shape: tuple[int, ...]
    chunk: int
    kept: int
    first_chunk: int

    @cached_property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def chunks(self) -> int:
        return -(-self.size // self.chunk)

    def chunk_size(self, chunk: int) -> int:
        """Elements of a chunk of this tensor."""
        return min(self.chunk, self.size - chunk * self.chunk)

    def chunk_kept(self, chunk: int) -> int:
        """k_i: values that are sent of a chunk of this tensor."""
        return max(1, self.kept * self.chunk_size(chunk) // self.chunk)

    @cached_property
    def values(self) -> int:
        """Values that are sent of the tensor."""
        return (self.chunks - 1) * self.kept + self.chunk_kept(self.chunks - 1) if self.chunks else 0

    @property
    def remainder_bits(self) -> int:
        """r of `rice`: bits of a gap's remainder, max(0, ⌊log₂(C/k)⌋ − 1)."""
        return max(0, (self.chunk // self.kept).bit_length() - 2)

    @property
    def unary_most(self) -> int:
        """Most bytes of the unary part: a one for each value, and zeros for the gaps of full chunks."""
        r = self.remainder_bits
        zeros = self.size // self.chunk * (self.chunk >> r) + (self.size % self.chunk >> r)
        return (self.values + zeros + 7) // 8

    @property
    def stream_least(self) -> int:
        """Bytes of a stream whose gaps have no unary zeros."""
        count = self.values
        return 2 * self.chunks + (count + 7) // 8 + 4 + (count * self.remainder_bits + 7) // 8 + (count + 7) // 8

    @property
    def stream_most(self) -> int:
        return self.stream_least - (self.values + 7) // 8 + self.unary_most

    def flat(self, array: Floats) -> Floats:
        """The elements of an array of this tensor, in order; a view.

        Raises:
            ValueError: the array is of another type, shape or order in memory.
        """
        if array.dtype != np.float32 or array.shape != self.shape or not array.flags.c_contiguous:
            raise ValueError(f"{self.name}: {array.dtype}{list(array.shape)} is no contiguous float32{list(self.shape)}")
        return array.reshape(-1)

    def elements(self, array: Floats, chunk: int) -> Floats:
        """The elements of one chunk; a view."""
        start = chunk * self.chunk
        return self.flat(array)[start : start + self.chunk_size(chunk)]


@dataclass(frozen=True)
class Layout:
    """All tensors of a checkpoint, cut as a spec says. Build it with `Layout.of`."""

    tensors: tuple[TensorLayout, ...]

    @classmethod
    def of(cls, sizes: Sequence[tuple[str, tuple[int, ...]]], spec: GradientSpec) -> Layout:
        """The layout of tensors given as (name, shape), in name order, tied ones once.

        Raises:
            ValueError: no elements at all, a negative dimension, or names that do not rise.
        """
        tensors: list[TensorLayout] = []
        first, last = 0, None
        for name, shape in sizes:
            order = name.encode("utf-8", "surrogatepass")
            if last is not None and order <= last:
                raise ValueError(f"{name[:120]!r}: tensors are ordered by the UTF-8 bytes of their names, each named once")
            if any(d < 0 for d in shape):
                raise ValueError(f"{name[:120]!r}: the shape {list(shape)} is none")
            tensor = TensorLayout(name, tuple(shape), spec.chunk, spec.kept, first)
            tensors.append(tensor)
            first, last = first + tensor.chunks, order
        if not first:
            raise ValueError("a layout has at least one element")
        return cls(tuple(tensors))

    @cached_property
    def chunks(self) -> int:
        """Chunks of all tensors."""
        return self.tensors[-1].first_chunk + self.tensors[-1].chunks

    @cached_property
    def size(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def _firsts(self) -> list[int]:
        return [tensor.first_chunk for tensor in self.tensors]

    def place(self, number: int) -> tuple[TensorLayout, int]:
        """The tensor that a chunk lies in, and the chunk's number in it. Errors: ValueError for a number out of range."""
        if not 0 <= number < self.chunks:
            raise ValueError(f"no chunk {number} among {self.chunks}")
        tensor = self.tensors[self.tensor_of(number)]
        return tensor, number - tensor.first_chunk

    def tensor_of(self, number: int) -> int:
        """The position in `tensors` of the tensor that a chunk lies in; those without elements hold none."""
        return bisect_right(self._firsts, number) - 1

    def chunk_of(self, state: StateArrays, number: int) -> Floats:
        """The elements of one chunk of a whole state; a view."""
        tensor, chunk = self.place(number)
        return tensor.elements(state[tensor.name], chunk)

    def require(self, state: StateArrays) -> None:
        """Are these the layout's tensors? Errors: ValueError naming one that is missing, too many, or of another form."""
        for tensor in self.tensors:
            if tensor.name not in state:
                raise ValueError(f"{tensor.name}: the tensor is missing")
            tensor.flat(state[tensor.name])
        if len(state) != len(self.tensors):
            known = {tensor.name for tensor in self.tensors}
            raise ValueError(f"{next(name for name in state if name not in known)[:120]!r}: no tensor of this checkpoint")
