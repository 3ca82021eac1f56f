"""A process that times kernels on the CPU and breaks its context as CUDA would, a given number of times in all processes.

The device stands for `cpu`; the file that the variable below names holds how many jobs break, one byte each, and every job
takes one. Everything else is the real child.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from grail_envs.kernels.gpu import child

BREAKS = "TORCH_TEST_BREAKS"
"""A folder with a file for each job that is to break; the child's environment passes variables that begin with TORCH."""


def main() -> None:
    """The child, with jobs that break."""
    folder = Path(os.environ[BREAKS])
    real = child.run_kernels

    def run_kernels(message: dict[str, Any], device: str) -> dict[str, Any]:
        for kind in sorted(folder.iterdir()):
            name = kind.name
            kind.unlink()
            if name.startswith("sticky"):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if name.startswith("end"):
                os._exit(134)
            if name.startswith("silent"):
                sys.stdin.read()
        return real(message, device)

    child.run_kernels = run_kernels
    child.main()
