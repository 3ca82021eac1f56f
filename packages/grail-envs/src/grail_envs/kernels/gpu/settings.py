"""How kernels are timed on this machine: four variables, read from the environment alone.

None of them changes a grade. `GRAIL_GPU_EVAL` has to say so before a kernel of an answer touches a GPU: a process that uses one
cannot be confined as the others are (docs/kernels.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from grail_core.errors import ConfigurationError

BACKEND, GPU_IDS, TIMEOUT, ALLOWED = "KERNEL_EVAL_BACKEND", "KERNEL_EVAL_GPU_IDS", "KERNEL_EVAL_TIMEOUT", "GRAIL_GPU_EVAL"
BACKENDS: Final = ("interpreter", "persistent", "subprocess")
RECYCLE_AFTER: Final = 200
"""Jobs of a persistent worker before it is replaced; a fresh process has one."""


@dataclass(frozen=True)
class TimingSettings:
    """`gpus` are device numbers, `timeout_s` seconds of one job, `recycle_after` jobs of one process."""

    gpus: tuple[int, ...]
    timeout_s: float
    recycle_after: int

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> TimingSettings:
        """What the variables say.

        Raises:
            ConfigurationError: a value that none of them has, or kernels are not timed here at all.
        """
        backend = environment.get(BACKEND) or "interpreter"
        if backend not in BACKENDS:
            raise ConfigurationError(f"there is no back-end {backend[:40]!r}", where=BACKEND, hint=", ".join(BACKENDS))
        if backend == "interpreter":
            raise ConfigurationError(
                "nothing is timed in the interpreter", where=BACKEND, hint=f"on a machine with a GPU: {BACKEND}=persistent"
            )
        if environment.get(ALLOWED) != "1":
            raise ConfigurationError(
                "kernels of answers may not run on this machine's GPUs",
                where=ALLOWED,
                hint=f"{ALLOWED}=1 allows it; such a process is not confined, so use a machine that holds no key",
            )
        gpus = _numbers(environment.get(GPU_IDS) or "0")
        return cls(gpus, _seconds(environment.get(TIMEOUT) or "60"), RECYCLE_AFTER if backend == "persistent" else 1)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts) or len({*parts}) != len(parts):
        raise ConfigurationError(f"{text[:40]!r} names no GPUs", where=GPU_IDS, hint="numbers with commas: 0,1")
    return tuple(int(part) for part in parts)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.0 <= value <= 3600.0:
        raise ConfigurationError(f"{text[:40]!r} is no time limit", where=TIMEOUT, hint="seconds, from 1 to 3600")
    return value
