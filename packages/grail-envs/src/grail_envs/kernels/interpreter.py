"""Triton's interpreter, watched and mended: where kernels read and write, and arithmetic in bfloat16 as a GPU does it.

Interpreted kernels reach memory by plain addresses. Here every address is looked up first, so a kernel that leaves its tensors
fails, on every machine alike; and what kernels store is remembered byte by byte, since an output has to be theirs. The
interpreter holds bfloat16 as integers of 16 bits, on which its arithmetic is nonsense and its rounding cuts off: operands
are widened to float32 here, and results are rounded to the nearest, ties to even.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from grail_envs.kernels import addresses
from grail_envs.kernels.agreement import AccessError, module_for_interpreter, names
from grail_envs.kernels.plan import ITEM_BYTES, Copy, Fill, Launch, Plan, View
from grail_envs.kernels.races import Access, RaceError, Races, one_value_each
from grail_envs.kernels.running import GUARD, Kernels, Memory, launch

BY_FILL: Final = 1
BY_KERNEL: Final = 2


class Watch:
    """Follows the accesses of kernels to the buffers of one run, and who has written each byte."""

    current: Watch | None = None

    def __init__(self, memory: Memory, *, reverse: bool) -> None:
        self._memory = memory
        sizes = [buffer.numel() for buffer in memory.buffers]
        self._written = [np.zeros(size, dtype=np.uint8) for size in sizes]
        starts = np.array([buffer.data_ptr() for buffer in memory.buffers], dtype=np.uint64)
        self._order = np.argsort(starts)
        self._starts = starts[self._order]
        self._ends = self._starts + np.array(sizes, dtype=np.uint64)[self._order]
        self._reverse = reverse
        self.races = Races(sizes)
        self._kernel = "a kernel"
        self._place = (0, 0, 0)
        Watch.current = self

    def reached(self, pointers: Any, mask: Any, size: int, *, how: str, sem: Any = None) -> None:
        """Look up the addresses of one access of `size` bytes each; `how` is load, store or update.

        Raises:
            AccessError: one lies in no buffer, is written and belongs to an input, or is another program's in this launch.
        """
        shape = np.broadcast_shapes(pointers.shape, mask.shape)
        reached = np.broadcast_to(pointers, shape)[np.broadcast_to(mask, shape).astype(bool)].astype(np.uint64)
        if reached.size == 0:
            return
        places = np.searchsorted(self._starts, reached, side="right").astype(np.int64) - 1
        inside = (places >= 0) & (reached + np.uint64(size) <= self._ends[places])
        if not inside.all():
            verb = "reads" if how == "load" else "writes"
            raise self.refused(f"{verb} outside of its tensors{self._beyond(reached[~inside])}")
        lanes = np.flatnonzero(np.broadcast_to(mask, shape))
        whole = math.prod(shape)
        for place in np.unique(places):
            buffer = int(self._order[place])
            here = places == place
            own = (reached[here] - self._starts[place]).astype(np.int64)
            access = Access(buffer, (own[:, None] + np.arange(size)).reshape(-1), np.repeat(lanes[here], size), whole)
            try:
                match how:
                    case "load":
                        self.races.load(access)
                    case "store":
                        self.races.store(access)
                    case _:
                        self.races.update(access, *_order_of(sem))
            except RaceError as error:
                raise self.refused(str(error)) from None
            if how != "load":
                source = self._memory.plan.buffers[buffer].source
                if source:
                    raise self.refused(f"writes to {source.replace(':', ' ')[:60]}")
                self._written[buffer][access.places] = BY_KERNEL

    def refused(self, what: str) -> AccessError:
        """What is raised of the kernel and program that run."""
        return AccessError(f"{self._kernel[:60]} {what}, in program {self._place}")

    def _beyond(self, addresses: Any) -> str:
        """How far behind a buffer's end, or before its start, the first address is; nothing where it is near none."""
        distances = []
        for number, start, end in zip(self._order, self._starts, self._ends, strict=True):
            name = self._memory.plan.buffers[number].source.replace(":", " ")[:60] or "memory it allocated"
            behind, before = int(addresses[0]) - int(end), int(start) - int(addresses[0])
            distances += [(behind, f": {behind} bytes behind the end of {name}")] if behind >= 0 else []
            distances += [(before, f": {before} bytes before {name}")] if before > 0 else []
        near = min(distances, default=(GUARD, ""))
        return near[1] if near[0] < GUARD else ""

    def begin_launch(self, programs: int) -> None:
        """So many programs of another launch follow."""
        self.races.begin_launch(programs)

    def program(self, x: int, y: int, z: int, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        """The program that runs next: in one of the runs the last one first."""
        self.races.begin_program()
        self._place = (grid[0] - 1 - x, grid[1] - 1 - y, grid[2] - 1 - z) if self._reverse else (x, y, z)
        return self._place

    def carry_out(self, plan: Plan, kernels: Kernels) -> None:
        """As `running.carry_out`, with every byte's writer remembered."""
        for step in plan.steps:
            match step:
                case Fill():
                    self._memory.tensor(step.view).fill_(step.value)
                    self._marks(step.view).fill_(BY_FILL)
                case Copy():
                    _copy(self._memory.tensor(step.to), self._memory.tensor(step.source))
                    self._marks(step.to).copy_(self._marks(step.source).amin(-1, keepdim=True))
                case Launch():
                    self._kernel = step.kernel
                    launch(step, kernels, self._memory)

    def writers(self, view: View) -> tuple[bool, bool]:
        """Whether a kernel has written any of the elements, and whether all the others were filled with a constant."""
        marks = self._marks(view)
        return bool((marks == BY_KERNEL).any()), bool((marks != 0).all())

    def _marks(self, view: View) -> torch.Tensor:
        """The writers of a view's elements: shape (…, bytes of an element)."""
        size = ITEM_BYTES[view.dtype]
        marks = torch.from_numpy(self._written[view.buffer])
        strides = (*(step * size for step in view.stride), 1)
        return marks.as_strided((*view.shape, size), strides, view.offset * size)


def _copy(to: torch.Tensor, source: torch.Tensor) -> None:
    """As PyTorch does it on a GPU: numbers beyond an integer type become its bounds."""
    if source.is_floating_point() and not to.is_floating_point() and to.dtype != torch.bool:
        kind = np.dtype(str(to.dtype).removeprefix("torch."))
        source = torch.from_numpy(whole_numbers(source.double().numpy(), kind))
    to.copy_(source)


def install() -> None:
    """Put the watched and mended operations in place of the interpreter's; once in a process."""
    kind = interpreter.InterpreterBuilder
    _watch_memory(kind)
    for name in (
        "binary_op",
        "unary_op",
        "ternary_op",
        "create_fma",
        "create_fabs",
        "create_rsqrt",
        "create_erf",
        "create_dot",
    ):
        setattr(kind, name, _widened(getattr(kind, name)))
    kind.binary_op = _with_truth_values(kind.binary_op)
    kind.cast_impl = _rounding(kind.cast_impl)
    kind.create_fp_to_fp = _rounding(kind.create_fp_to_fp)
    kind.get_bf16 = lambda self, value: interpreter.TensorHandle(
        _narrow(np.array([value], np.float32)), tl.bfloat16
    )  # 3.7 has none
    real_grid = kind.set_grid_idx

    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        watch = Watch.current
        real_grid(self, *(watch.program(x, y, z, self.grid_dim) if watch else (x, y, z)))

    kind.set_grid_idx = set_grid_idx
    real_dim = kind.set_grid_dim

    def set_grid_dim(self: Any, *sizes: int) -> None:
        if Watch.current is not None:
            Watch.current.begin_launch(sizes[0] * sizes[1] * sizes[2])
        real_dim(self, *sizes)

    kind.set_grid_dim = set_grid_dim

    def barrier(self: Any) -> None:
        if Watch.current is not None:
            Watch.current.races.barrier()

    kind.create_barrier = barrier
    addresses.close(kind)


def kernels_of(module: str) -> Kernels:
    """The kernels of a module as the interpreter runs them: by forms that it takes as the compiler does."""
    return Kernels(module_for_interpreter(module), names=names())


def _watch_memory(kind: Any) -> None:
    def watched(name: str, how: str, mask_at: int | None) -> None:
        real = getattr(kind, name)

        def access(self: Any, *args: Any, **kwargs: Any) -> Any:
            pointer = _pointer(args)
            mask = args[mask_at].data if mask_at is not None else np.ones_like(pointer.data, dtype=bool)
            if Watch.current is None:
                raise AccessError("memory is reached outside of a run")
            sem = args[-2] if how == "update" else None
            if how == "store" and not one_value_each(pointer.data, args[1].data, mask):
                raise Watch.current.refused("writes several values to one place at once")
            Watch.current.reached(
                pointer.data, mask, max(1, pointer.get_element_ty().primitive_bitwidth // 8), how=how, sem=sem
            )
            return real(self, *args, **kwargs)

        setattr(kind, name, access)

    watched("create_masked_load", "load", 1)
    watched("create_masked_store", "store", 2)
    watched("create_atomic_cas", "update", None)
    watched("create_atomic_rmw", "update", 3)


def _order_of(sem: Any) -> tuple[bool, bool]:
    """Whether an atomic waits for what others released, and releases itself."""
    kinds = interpreter._ir.MEM_SEMANTIC
    return sem in (kinds.ACQUIRE, kinds.ACQUIRE_RELEASE), sem in (kinds.RELEASE, kinds.ACQUIRE_RELEASE)


def _pointer(args: tuple[Any, ...]) -> Any:
    return next(one for one in args if isinstance(getattr(one, "dtype", None), tl.pointer_type))


def _is_bfloat16(handle: Any) -> bool:
    if not isinstance(handle, interpreter.TensorHandle) or handle.data.dtype != np.uint16:
        return False
    return bool(handle.dtype.scalar == tl.bfloat16)


def _widen(handle: Any) -> Any:
    if not _is_bfloat16(handle):
        return handle
    wide = (handle.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return interpreter.TensorHandle(wide, tl.float32)


def _narrow(values: Any) -> Any:
    """float32 to the bits of bfloat16: nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def _widened(real: Callable[..., Any]) -> Callable[..., Any]:
    """An operation that computes in float32 where an operand is bfloat16, and gives bfloat16 where it did so before."""

    def operation(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(_is_bfloat16(one) for one in args):
            return real(self, *args, **kwargs)
        result = real(self, *(_widen(one) for one in args), **kwargs)
        if result.data.dtype == np.float32 and not _gives_float32(args):
            return interpreter.TensorHandle(_narrow(result.data), tl.bfloat16)
        return result

    return operation


def _gives_float32(args: tuple[Any, ...]) -> bool:
    """Whether the last operand (what is added to a product, what a choice falls back to) is itself float32."""
    handles = [one for one in args if isinstance(one, interpreter.TensorHandle)]
    return bool(handles[-1].dtype.scalar == tl.float32)


def _with_truth_values(real: Callable[..., Any]) -> Callable[..., Any]:
    """Comparisons say int1: the interpreter says the type of what was compared, and then refuses a scalar one as a mask."""

    def operation(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        return interpreter.TensorHandle(result.data, tl.int1) if result.data.dtype == np.bool_ else result

    return operation


def _rounding(real: Callable[..., Any]) -> Callable[..., Any]:
    """Casts as a GPU does them: bfloat16 rounded; integers by `whole_numbers`, where NumPy leaves it to the processor."""

    def cast(self: Any, src: Any, dst_type: Any, *rest: Any) -> Any:
        if dst_type.scalar == tl.bfloat16 and src.dtype.scalar == tl.float32:
            return interpreter.TensorHandle(_narrow(src.data), tl.bfloat16)
        if dst_type.scalar == tl.float32 and _is_bfloat16(src):
            return _widen(src)
        if src.data.dtype.kind == "f" and dst_type.scalar.is_int() and dst_type.scalar.primitive_bitwidth >= 8:
            kind = interpreter._get_np_dtype(dst_type)
            return interpreter.TensorHandle(whole_numbers(src.data, kind), dst_type.scalar)
        return real(self, src, dst_type, *rest)

    return cast


def whole_numbers(values: Any, kind: Any) -> Any:
    """Floating numbers cut off to integers of a NumPy type: its bounds where they are beyond, 0 where they are NaN."""
    bounds = np.iinfo(kind)
    wide = np.asarray(values, dtype=np.float64)
    above, below = wide >= float(bounds.max), wide <= float(bounds.min)
    inside = np.where(above | below | np.isnan(wide), 0.0, wide).astype(kind)
    return np.where(above, bounds.max, np.where(below, bounds.min, inside)).astype(kind)
