"""Which GPUs there are, asked of the driver itself: without PyTorch, in milliseconds, and without a context on any of them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

from grail_core.errors import EnvironmentUnavailableError
from grail_envs.kernels.gpu.settings import GPU_IDS

_DRIVER: Final = "libcuda.so.1"


def gpu_count() -> int:
    """How many the driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def need_gpus(wanted: Sequence[int]) -> None:
    """Refuse before anything large is loaded.

    Raises:
        EnvironmentUnavailableError: one of these GPUs is not there.
    """
    count = gpu_count()
    missing = [number for number in wanted if number >= count]
    if missing:
        found = "the driver shows no GPU here" if count == 0 else f"there are {count} GPUs here, 0 to {count - 1}"
        raise EnvironmentUnavailableError(
            f"kernels cannot be timed on GPU {missing[0]}: {found}",
            where=GPU_IDS,
            hint="`grail-envs grade` judges a kernel without one; nothing but times needs a GPU",
        )
