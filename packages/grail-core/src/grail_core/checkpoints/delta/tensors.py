"""Tensors as bits: name, dtype, shape and a flat array of unsigned integers, never numbers.

Checkpoints are compared, coded and hashed as bit patterns, so that NaN payloads and −0.0 survive. A `RawTensor` is a view
of memory that somebody else owns (a torch CPU tensor, a numpy array, a mapped file): nothing is copied on the way in or out.
Tensors that share all their memory are one `RawTensor` under several names; sharing a part of it is refused.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from grail_core.errors import CheckpointError

if TYPE_CHECKING:
    import torch

Bits = npt.NDArray[Any]  # one-dimensional, of an unsigned integer type

MAX_NAME_LENGTH = 512
MAX_DIMENSIONS = 16
MAX_TENSORS = 1 << 20
MAX_ELEMENTS = 1 << 40
MAX_TENSOR_TOKENS = 1 << 23  # of JSON that describes a model's tensors (`parse_json`): twenty each, of 400,000

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/]*")


@dataclass(frozen=True)
class DType:
    """A safetensors dtype. `exponent_shift`, `exponent_mask` cut the exponent out of the bits (mask 0: not a float)."""

    name: str
    itemsize: int  # bytes
    code: int  # in frames
    exponent_shift: int = 0
    exponent_mask: int = 0

    @property
    def bits(self) -> np.dtype[Any]:
        return np.dtype(f"<u{self.itemsize}")


DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("BF16", 2, 1, 7, 0xFF),
        DType("F16", 2, 2, 10, 0x1F),
        DType("F32", 4, 3, 23, 0xFF),
        DType("F64", 8, 4),
        DType("F8_E4M3", 1, 5),
        DType("F8_E5M2", 1, 6),
        DType("BOOL", 1, 7),
        DType("U8", 1, 8),
        DType("I8", 1, 9),
        DType("U16", 2, 10),
        DType("I16", 2, 11),
        DType("U32", 4, 12),
        DType("I32", 4, 13),
        DType("U64", 8, 14),
        DType("I64", 8, 15),
    )
}
DTYPES_BY_CODE = {dtype.code: dtype for dtype in DTYPES.values()}

_TORCH = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("U", "uint"), ("I", "int")) for bits in (8, 16, 32, 64)},
}
_FROM_TORCH = {f"torch.{name}": DTYPES[dtype] for dtype, name in _TORCH.items()}
_FROM_NUMPY = {np.dtype(name): DTYPES[dtype] for dtype, name in _TORCH.items() if not name.startswith(("bfloat", "float8"))}


@dataclass(frozen=True)
class Layout:
    """What a tensor is, without its bytes."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class RawTensor:
    """`bits` is flat, C order, little-endian, of `layout.elements` unsigned integers of the dtype's size."""

    layout: Layout
    bits: Bits

    def __post_init__(self) -> None:
        if self.bits.shape != (self.layout.elements,) or self.bits.dtype != self.layout.dtype.bits:
            raise ValueError(f"{self.bits.dtype}{self.bits.shape} is not the flat form of {self.layout}")

    @classmethod
    def empty(cls, layout: Layout) -> RawTensor:
        """New, zeroed memory."""
        return cls(layout, np.zeros(layout.elements, layout.dtype.bits))

    @property
    def address(self) -> int:
        return int(self.bits.ctypes.data)


RawState = Mapping[str, RawTensor]


def raw_state(state: Mapping[str, Any]) -> dict[str, RawTensor]:
    """Views of torch or numpy tensors, in name order. Tensors with the same memory and layout become the same object.

    Raises:
        CheckpointError: a tensor is not on the CPU, not contiguous, of an unknown dtype, shares part of its memory with
            another, or has a name that is no plain name.
    """
    seen: dict[tuple[int, Layout], RawTensor] = {}
    raw: dict[str, RawTensor] = {}
    for name in sorted(state, key=name_order):
        check_name(name)
        tensor = state[name]
        view = tensor if isinstance(tensor, RawTensor) else _view(name, tensor)
        raw[name] = seen.setdefault((view.address, view.layout), view) if view.bits.size else view
    _refuse_overlaps(raw)
    return raw


def to_torch(tensor: RawTensor) -> torch.Tensor:
    """A torch tensor over the same memory (which must be writable)."""
    import torch

    dtype = getattr(torch, _TORCH[tensor.layout.dtype.name])
    if not tensor.bits.size:
        return torch.empty(tensor.layout.shape, dtype=dtype)
    return torch.from_numpy(tensor.bits.view(np.uint8)).view(dtype).view(tensor.layout.shape)


def name_order(name: str) -> bytes:
    """Tensors are ordered by the UTF-8 bytes of their names."""
    return name.encode("utf-8", "surrogatepass")


def check_name(name: str) -> None:
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise CheckpointError("a tensor's name has letters, digits and . _ - / only", where=repr(name)[:120])


def check_layout(name: str, dtype: str, shape: Iterable[int]) -> Layout:
    """The layout somebody else claims, checked.

    Raises:
        ValueError: unknown dtype, too many dimensions, or a size out of bounds.
    """
    dimensions = tuple(shape)
    if dtype not in DTYPES:
        raise ValueError(f"{name}: dtype {dtype[:16]!r} is not known")
    if len(dimensions) > MAX_DIMENSIONS or any(not 0 <= d <= MAX_ELEMENTS for d in dimensions):
        raise ValueError(f"{name}: the shape is out of bounds")
    layout = Layout(DTYPES[dtype], dimensions)
    if layout.elements > MAX_ELEMENTS:
        raise ValueError(f"{name}: {layout.elements} elements are too many")
    return layout


def _view(name: str, tensor: Any) -> RawTensor:
    if isinstance(tensor, np.ndarray):
        dtype = _FROM_NUMPY.get(tensor.dtype)
        if dtype is None or not tensor.flags.c_contiguous:
            raise CheckpointError(f"an array of {tensor.dtype}, or one that is not contiguous, has no raw form", where=name)
        return RawTensor(Layout(dtype, tensor.shape), tensor.reshape(-1).view(dtype.bits))
    dtype = _FROM_TORCH.get(str(tensor.dtype))
    if dtype is None or tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.is_sparse:
        raise CheckpointError(
            f"a tensor of {tensor.dtype} on {tensor.device} has no raw form",
            where=name,
            hint="pass dense, contiguous CPU tensors: tensor.detach().cpu().contiguous()",
        )
    import torch

    layout = Layout(dtype, tuple(tensor.shape))
    if not layout.elements:
        return RawTensor.empty(layout)
    flat = tensor.detach().view(-1).view(torch.uint8).numpy()
    return RawTensor(layout, flat.view(dtype.bits))


def _refuse_overlaps(raw: Mapping[str, RawTensor]) -> None:
    distinct = {id(t): (t.address, t.address + t.bits.nbytes, name) for name, t in raw.items() if t.bits.size}
    spans = sorted(distinct.values())
    for (_, end, name), (start, _, other) in itertools.pairwise(spans):
        if start < end:
            raise CheckpointError("two tensors share a part of their memory", where=f"{name}, {other}", hint="clone one")
