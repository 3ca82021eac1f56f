"""How many compiled kernels PyTorch keeps of shapes that never come again. Read by the libraries when they are loaded.

On a processor PyTorch compiles its bf16 products for every new shape and keeps 1,024 of them in each of two caches (oneDNN's
and ideep's, 0.3 MB a piece). Rollouts make new shapes in every window: a trainer grew by 2 MiB a window for some two hundred
windows, validators and miners for eighty. 64 of each are a model's products of the shape in hand; no pass became slower by it.
What somebody has set stays.
"""

from __future__ import annotations

import os
from typing import Final

KEPT: Final = "64"
VARIABLES: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_kernel_caches() -> None:
    """For this process, where PyTorch is not loaded yet, and those that it starts."""
    for name in VARIABLES:
        os.environ.setdefault(name, KEPT)
