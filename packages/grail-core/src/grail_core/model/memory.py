"""Running out of memory is this machine's fault: one more try with everything freed that can be, then one typed error.

A forward pass needs what the longest rows need, and who sent them cannot be blamed for the machine that they were sent to.
Proof batches have the protocol's sizes, since the shapes of matrix products are part of what both sides must agree on: who goes
on in parts of one (`in_parts`) has to say so. What else a device can break of (a lost driver, a fault of the hardware) ends in
an error of this machine's too.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch

from grail_core.errors import MachineFaultError, is_out_of_memory

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

# oneDNN tells no reason: a product that it made before is not made any more when memory has run out.
_EXHAUSTED = ("ALLOC_FAILED", "could not create a primitive", "could not execute a primitive", "could not create a memory")
_BROKEN = ("CUDA error", "CUDA driver", "HIP error", "CUBLAS_STATUS", "CUDNN_STATUS")


class MemoryUsedUpError(MachineFaultError):
    """Memory ran out twice, the second time with everything freed that can be. Less work at a time may fit."""


def on_this_machine(work: Callable[P, T]) -> Callable[P, T]:
    """`work`, which can be run again, with memory and device faults as MachineFaultError.

    Raises:
        MemoryUsedUpError: out of memory twice.
        MachineFaultError: the device failed.
    """

    @functools.wraps(work)
    def guarded(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return work(*arguments, **named)
        except (MemoryError, RuntimeError) as error:
            if not is_exhausted(error):
                _raise_if_broken(error)
                raise
        # Outside of the handler: its error held every frame of the first try, and with them their tensors.
        free_memory()
        try:
            return work(*arguments, **named)
        except (MemoryError, RuntimeError) as error:
            if not is_exhausted(error):
                _raise_if_broken(error)
                raise
            raise MemoryUsedUpError(
                f"this machine ran out of memory, twice: {_first_line(error)}",
                where=work.__qualname__,
                hint="leave the model more memory: no other program on the device, or one with more of it",
            ) from error

    return guarded


def in_parts(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> tuple[list[R], int]:
    """`work` on all items at once; where memory does not do, on either half of them, and on halves of that.

    Returns:
        One result an item, in their order, and the most items that were worked on at once since memory ran out (all of them
        where it did not): what the results were computed in.

    Raises:
        MemoryUsedUpError: one item alone does not fit.
    """
    try:
        return list(work(items)), len(items)
    except MemoryUsedUpError:
        if len(items) < 2:
            raise
    free_memory()  # outside of the handler, as above
    middle = (len(items) + 1) // 2
    first, most = in_parts(items[:middle], work)
    rest, most_of_rest = in_parts(items[middle:], work)
    return first + rest, max(most, most_of_rest)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the device or of the machine; cuBLAS and oneDNN have words of their own."""
    if is_out_of_memory(error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED)


def free_memory() -> None:
    """Give back what nobody uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _raise_if_broken(error: MemoryError | RuntimeError) -> None:
    if any(part in str(error) for part in _BROKEN):
        raise MachineFaultError(
            f"the device failed: {_first_line(error)}",
            hint="start this program anew; if it happens again, see what the driver logged",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
