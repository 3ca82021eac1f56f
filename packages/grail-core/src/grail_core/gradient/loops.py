"""Which inner loops run: the compiled ones where numba is installed (the extra `model`), else those in NumPy. Equal bytes."""

from __future__ import annotations

try:
    from grail_core.gradient.kernels import FEWER, INSIDE, MORE, TRAILING, add, gather, pack_gaps, select, unpack_gaps
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("numba"):
        raise
    from grail_core.gradient.arrays import FEWER, INSIDE, MORE, TRAILING, add, gather, pack_gaps, select, unpack_gaps

__all__ = ["FEWER", "INSIDE", "MORE", "TRAILING", "add", "gather", "pack_gaps", "select", "unpack_gaps"]
