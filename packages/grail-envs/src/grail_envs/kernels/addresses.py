"""Where tensors lie is nothing that a kernel computes with: a closed list of the interpreter's operations that take pointers.

Besides, what a kernel only claims is looked at: hints (`tl.multiple_of`, `max_contiguous`, `max_constancy`), by which the
compiler joins accesses, hold of the very values; what is put together is of one type. Anything else would be one thing in the
interpreter and another on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import triton.language as tl
from triton.runtime import interpreter

from grail_envs.kernels.agreement import AccessError, argument, loop

_FIRST: Final = frozenset({
    "create_load", "create_store", "create_masked_load", "create_masked_store", "create_addptr", "create_atomic_cas",
    "create_atomic_rmw",
})  # fmt: skip
"""Operations whose first operand is a pointer, and no other."""
_SHAPING: Final = frozenset({
    "create_splat", "create_unsplat", "create_broadcast", "create_expand_dims", "create_reshape", "create_trans",
})  # fmt: skip
"""Operations that give a pointer another shape."""
_MOST_HINTED: Final = 256
"""Bytes to which every buffer is aligned (`running.ALIGNMENT`): what lies beyond follows from no plan."""


def close(kind: Any) -> None:
    """Put the list in the place of the operations of the interpreter's builder `kind`; once in a process."""
    for name in dir(kind):
        if name.startswith("create_"):
            setattr(kind, name, _closed(name, getattr(kind, name)))
    real_tensor, real_core, real_check = (
        interpreter._patch_lang_tensor,
        interpreter._patch_lang_core,
        interpreter.ReduceScanOpInterface.check_tensor,
    )

    def patch_tensor(tensor: Any, scope: Any) -> None:
        real_tensor(tensor, scope)
        for name in ("__index__", "__bool__", "__repr__", "__str__"):  # put back with the rest when the launch is over
            setattr(tensor, name, _of_numbers(getattr(tensor, name)))

    def patch_core(language: Any, scope: Any) -> None:
        real_core(language, scope)
        scope.set_attr(language, "range", loop)
        for name, holds in (("multiple_of", _divides), ("max_contiguous", _follows), ("max_constancy", _stays)):
            scope.set_attr(language, name, partial(_hinted, name, holds))

    def check_tensor(self: Any, given: Any) -> None:
        real_check(self, given)
        if any(_is_pointer(one.handle) for one in given):
            raise AccessError("a pointer is made a number: it is reduced")

    interpreter._patch_lang_tensor = patch_tensor
    interpreter._patch_lang_core = patch_core
    interpreter.ReduceScanOpInterface.check_tensor = check_tensor
    interpreter._implicit_cvt = partial(argument, real=interpreter._implicit_cvt)


def _is_pointer(handle: Any) -> bool:
    return isinstance(getattr(getattr(handle, "dtype", None), "scalar", None), tl.pointer_type)


def _closed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def operation(self: Any, *args: Any, **kwargs: Any) -> Any:
        handles = [one for one in (*args, *kwargs.values()) if isinstance(one, interpreter.TensorHandle)]
        pointers = [one for one in handles if _is_pointer(one)]
        if pointers and not _may(name, handles, pointers):
            raise AccessError("a pointer is made a number: it may be loaded from, stored to, shaped and moved by whole numbers")
        if name in ("create_join", "create_cat") and len({str(one.dtype.scalar) for one in handles}) > 1:
            raise AccessError("tensors of two types are put together")
        return real(self, *args, **kwargs)

    return operation


def _may(name: str, handles: list[Any], pointers: list[Any]) -> bool:
    if name in _FIRST:
        return len(pointers) == 1 and handles[0] is pointers[0]
    if name == "create_select":
        return len(pointers) == 2 and pointers == handles[1:] and pointers[0].dtype.scalar == pointers[1].dtype.scalar
    return name in _SHAPING


def _of_numbers(real: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read(self: Any) -> Any:
        if _is_pointer(self.handle):
            raise AccessError("a pointer is read as a number")
        return real(self)

    return read


def _hinted(name: str, holds: Callable[[npt.NDArray[Any], int, int], bool], value: Any, hints: Any) -> Any:
    """The tensor that a hint is given of, if the hint holds of its values along each dimension."""
    if not isinstance(value, tl.tensor):
        return value
    hints = [
        one.value if isinstance(one, tl.constexpr) else one for one in (hints if isinstance(hints, tuple | list) else [hints])
    ]
    data, unit = value.handle.data, 1
    if _is_pointer(value.handle):
        unit = max(1, value.handle.get_element_ty().primitive_bitwidth // 8)
        if any(int(one) > _MOST_HINTED for one in hints):
            raise AccessError(f"tl.{name} of a pointer by more than {_MOST_HINTED}, which no launch promises")
    for axis, hint in enumerate(hints):
        if int(hint) < 1 or (axis >= data.ndim and hint != 1):
            raise AccessError(f"tl.{name} by {hint}")
        lines = np.moveaxis(data, axis, -1).reshape(-1, data.shape[axis])
        if not holds(lines, int(hint), unit):
            raise AccessError(f"tl.{name} by {hint} does not hold of the values")
    return value


def _groups(lines: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    size = min(size, lines.shape[-1])
    return lines[..., : lines.shape[-1] // size * size].reshape(-1, size)


def _divides(lines: npt.NDArray[Any], hint: int, unit: int) -> bool:
    """Whether every group of neighbours that follow each other begins at a multiple, for some size of groups."""
    size = 1
    while size <= lines.shape[-1]:
        starts = _groups(lines, size)[:, 0]
        if not (starts % np.asarray(hint).astype(starts.dtype)).any() and _follows(lines, size, unit):
            return True
        size *= 2
    return False


def _follows(lines: npt.NDArray[Any], hint: int, unit: int) -> bool:
    groups = _groups(lines, hint)
    return bool((groups[:, 1:] == groups[:, :-1] + np.asarray(unit).astype(groups.dtype)).all())


def _stays(lines: npt.NDArray[Any], hint: int, unit: int) -> bool:
    groups = _groups(lines, hint)
    return bool((groups == groups[:, :1]).all())
