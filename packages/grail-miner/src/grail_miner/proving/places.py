"""Where proof workers run: which GPU each sees, which processors it may use, how many threads it computes with.

Workers that share processors wait for each other's threads, so each gets its own part of those that this process may use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from grail_core.errors import ConfigurationError


@dataclass(frozen=True)
class WorkerPlace:
    """One worker's.

    Attributes:
        gpu: what `CUDA_VISIBLE_DEVICES` says in the worker; None: the processor alone, no GPU is seen.
        cpus: numbers of the processors that it is bound to; none: wherever the system puts it.
        threads: of one forward pass on the processor.
    """

    gpu: str | None = None
    cpus: tuple[int, ...] = ()
    threads: int = 1

    @property
    def device(self) -> str:
        """As torch names it in the worker, which sees one GPU at most."""
        return "cpu" if self.gpu is None else "cuda"

    @property
    def environment(self) -> dict[str, str]:
        threads = str(self.threads)
        return {"CUDA_VISIBLE_DEVICES": self.gpu or "", "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> WorkerPlace:
        told = json.loads(text)
        return cls(told["gpu"], tuple(told["cpus"]), told["threads"])


def on_processors(workers: int) -> tuple[WorkerPlace, ...]:
    """So many workers on the processor, each with its part of what this process may use."""
    return tuple(WorkerPlace(None, cpus, threads) for cpus, threads in _parts(workers))


def on_gpus(gpus: Sequence[int], visible: str | None) -> tuple[WorkerPlace, ...]:
    """One worker a GPU.

    Args:
        gpus: indices into the devices that this process sees. visible: its own `CUDA_VISIBLE_DEVICES`, None where it is unset.

    Raises:
        ConfigurationError: an index that `visible` does not have.
    """
    names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    for gpu in gpus:
        if gpu < 0 or (names is not None and gpu >= len(names)):
            raise ConfigurationError(
                f"there is no GPU {gpu} to prove on",
                where=f"CUDA_VISIBLE_DEVICES={visible or ''}",
                hint="indices count the devices that CUDA_VISIBLE_DEVICES leaves, from 0",
            )
    chosen = [str(gpu) if names is None else names[gpu] for gpu in gpus]
    return tuple(WorkerPlace(name, *part) for name, part in zip(chosen, _parts(len(chosen)), strict=True))


def _parts(workers: int) -> list[tuple[tuple[int, ...], int]]:
    """Processors and threads of each: neighbours together; more workers than processors share one each."""
    if not hasattr(os, "sched_getaffinity"):  # macOS binds nothing
        return [((), max(1, (os.cpu_count() or 1) // max(1, workers)))] * workers
    cpus = sorted(os.sched_getaffinity(0))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    most = int(asked) if asked.isdecimal() and int(asked) > 0 else len(cpus)
    parts = []
    for worker in range(workers):
        first, end = worker * len(cpus) // workers, (worker + 1) * len(cpus) // workers
        mine = tuple(cpus[first : max(end, first + 1)])
        parts.append((mine, min(most, len(mine))))
    return parts
