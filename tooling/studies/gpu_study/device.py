"""The device that is measured: its facts, its clock, its memory, and which attention kernel it computes with.

On a GPU work is queued, so every time is taken between two points at which the queue is empty. TF32 is off throughout, and
switched on by name where its effect is the figure.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

KERNELS: Final = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Kernels of torch's scaled dot products by the name that figures have them under."""


@dataclass(frozen=True)
class Cost:
    """What an action took: the median time, and the most memory that was in use beyond what was when it began."""

    seconds: float
    peak_bytes: int | None  # None: a CPU, of which torch does not say

    def to_json(self, tokens: int) -> dict[str, float | None]:
        gib = None if self.peak_bytes is None else round(self.peak_bytes / 2**30, 3)
        return {"seconds": self.seconds, "tokens_per_s": tokens / self.seconds, "peak_gib": gib}


def facts(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    known: dict[str, Any] = {
        "device": str(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        known |= {
            "gpu": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return known


def synchronise(device: torch.device) -> None:
    """Wait until everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cost_of(device: torch.device, action: Callable[[], object], repeats: int) -> Cost:
    """Median over `repeats` after one run that is not counted: it compiles, loads kernels and takes memory from the driver."""
    action()
    synchronise(device)
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        synchronise(device)
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None
    return Cost(statistics.median(times), peak)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Whether float32 products on a GPU may round their factors to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Scaled dot products by this kernel alone; whatever cannot take it raises RuntimeError.

    The memory-efficient one knows no grouped keys: Transformers repeats them for it, as it does where there is a mask.
    """
    import transformers.integrations.sdpa_attention as integration

    grouped = integration.use_gqa_in_sdpa
    if name == "memory-efficient":
        integration.use_gqa_in_sdpa = lambda *_: False
    try:
        with sdpa_kernel([KERNELS[name]]):
            yield
    finally:
        integration.use_gqa_in_sdpa = grouped
