"""Carry out a plan with the kernels of an answer, on tensors of one device.

The kernels come as the module that `reading` made of the answer's text, so nothing else of it is here. The same code runs in
the interpreter (device `cpu`; `interpreter.Watch` then follows every access) and on a GPU. Memory that nobody has written holds
a pattern, never zeros: NaN, or large numbers in one of the runs.
"""

from __future__ import annotations

import linecache
import random
from collections.abc import Mapping
from typing import Any, Final

import torch
import triton
import triton.language as tl

from grail_envs.kernels.plan import ITEM_BYTES, Copy, Fill, Kind, Launch, Plan, PlanError, View

POISONS: Final = (0xFF, 0x7B)
"""Bytes of memory that nobody has written: NaN in every floating type, then about 10³⁶ (float32) and 6·10⁴ (float16)."""

ALIGNMENT: Final = 256
GUARD: Final = 512
"""Bytes on both sides of a buffer that belong to none."""

SPREAD: Final = 256
"""Most steps of `ALIGNMENT` between two buffers beyond that: how far one lies from another follows from no plan."""


class Kernels:
    """The functions of a module of kernels, by name."""

    def __init__(self, module: str, name: str = "<kernels>", names: Mapping[str, Any] | None = None) -> None:
        """`names` are what the module may call beside what it defines."""
        linecache.cache[name] = (len(module), None, module.splitlines(keepends=True), name)
        self._space: dict[str, Any] = {"__name__": "kernels", **(names or {})}
        exec(compile(module, name, "exec", dont_inherit=True), self._space)

    def get(self, name: str) -> Any:
        """The kernel.

        Raises:
            PlanError: the module has none of this name.
        """
        found = self._space.get(name)
        if not isinstance(found, triton.runtime.jit.KernelInterface):
            raise PlanError(f"there is no kernel {name[:60]!r}")
        return found

    def parameters(self, name: str) -> list[str]:
        """The names of its parameters, in order."""
        return list(self.get(name).arg_names)


class Memory:
    """The buffers of a plan as tensors of bytes on a device."""

    def __init__(self, plan: Plan, contents: Mapping[str, bytes], device: str, poison: int, place: int = 0) -> None:
        """`place` decides how the buffers lie in one piece of memory, the same on every machine."""
        self.plan = plan
        self.device = device
        starts, size = _places([buffer.size for buffer in plan.buffers], place)
        room = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
        base = -room.data_ptr() % ALIGNMENT
        self.buffers = [room[base + at : base + at + buffer.size] for at, buffer in zip(starts, plan.buffers, strict=True)]
        for buffer, memory in zip(plan.buffers, self.buffers, strict=True):
            memory.fill_(poison)
            if buffer.source:
                raw = contents.get(buffer.source)
                if raw is None or len(raw) != buffer.size:
                    raise PlanError(f"the plan has another {buffer.source[:60]} than there is")
                if raw:
                    memory.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))

    def tensor(self, view: View) -> torch.Tensor:
        """The elements of a view, sharing the buffer's memory."""
        whole = self.buffers[view.buffer]
        usable = whole[: whole.numel() // ITEM_BYTES[view.dtype] * ITEM_BYTES[view.dtype]]
        typed = usable.view(getattr(torch, view.dtype))
        return typed.as_strided(view.shape, view.stride, typed.storage_offset() + view.offset)

    def bytes_of(self, view: View) -> bytes:
        """The elements in row-major order."""
        flat = self.tensor(view).contiguous().cpu().reshape(-1)
        return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def _places(sizes: list[int], place: int) -> tuple[list[int], int]:
    """Where each buffer starts, and the size of all: their order and the gaps between them drawn from `place`."""
    drawn = random.Random(place)
    order = list(range(len(sizes)))
    drawn.shuffle(order)
    starts, end = [0] * len(sizes), 0
    for number in order:
        start = end + GUARD + ALIGNMENT * drawn.randrange(SPREAD)
        starts[number] = start + -start % ALIGNMENT
        end = starts[number] + sizes[number] + GUARD
    return starts, end


def carry_out(plan: Plan, kernels: Kernels, memory: Memory) -> None:
    """Every step in order.

    Raises:
        PlanError: a step names what is not there.
        Exception: whatever a kernel raises.
    """
    for step in plan.steps:
        match step:
            case Fill():
                memory.tensor(step.view).fill_(step.value)
            case Copy():
                memory.tensor(step.to).copy_(memory.tensor(step.source))
            case Launch():
                launch(step, kernels, memory)


def launch(step: Launch, kernels: Kernels, memory: Memory) -> None:
    """One kernel over its grid."""
    parameters = kernels.parameters(step.kernel)
    if set(parameters) != set(step.arguments):
        raise PlanError(f"{step.kernel[:60]} is launched with other arguments than it has")
    values = [_value(step.arguments[name], memory) for name in parameters]
    if 0 not in step.grid:
        kernels.get(step.kernel)[step.grid](*values, **step.options)


def _value(argument: Any, memory: Memory) -> Any:
    if isinstance(argument, View):
        return memory.tensor(argument)
    if isinstance(argument, Kind):
        return getattr(tl, argument.name)
    return argument
