"""Running out of memory is this machine's fault: one more try with everything freed that can be, then one typed error.

A forward pass needs what the longest rows need, and who sent them cannot be blamed for the machine that they were sent to.
Proof batches have the protocol's sizes, since the shapes of matrix products are part of what both sides must agree on, so a
smaller batch is no way out. What else a device can break of (a lost driver, a fault of the hardware) ends in the same error.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from grail_core.errors import MachineFaultError, is_out_of_memory

P = ParamSpec("P")
T = TypeVar("T")

_BROKEN = ("CUDA error", "CUDA driver", "HIP error", "CUBLAS_STATUS", "CUDNN_STATUS")


def on_this_machine(work: Callable[P, T]) -> Callable[P, T]:
    """`work`, which can be run again, with memory and device faults as MachineFaultError.

    Raises:
        MachineFaultError: out of memory twice, or the device failed.
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
            raise MachineFaultError(
                f"this machine ran out of memory, twice: {_first_line(error)}",
                where=work.__qualname__,
                hint="leave the model more memory: no other program on the device, or one with more of it",
            ) from error

    return guarded


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the device or of the machine; cuBLAS has words of its own for it."""
    return is_out_of_memory(error) or (isinstance(error, RuntimeError) and "ALLOC_FAILED" in str(error))


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
