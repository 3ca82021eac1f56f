"""Kernels of shapes that never come again do not fill a role's memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from grail_core.kernel_caches import KEPT, VARIABLES

SHAPES = 150
GROWTH = f"""
import ctypes
import {{first}}
import torch

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks used free top".split()]

libc = ctypes.CDLL("libc.so.6")
libc.mallinfo2.restype = Heap
torch.set_num_threads(1)
layers = [torch.nn.Linear(64, width, dtype=torch.bfloat16) for width in (64, 96, 128, 160)]
with torch.inference_mode():
    for length in range(16, 16 + {SHAPES}):
        for layer in layers:
            layer(torch.ones(length, 64, dtype=torch.bfloat16))
        if length == 32:
            before = libc.mallinfo2().used
print(libc.mallinfo2().used - before)
"""


def grown(first: str) -> int:
    """Bytes that products of many shapes leave behind in a process that imports `first` first."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    ran = subprocess.run(
        [sys.executable, "-c", GROWTH.format(first=first)], env=environment, capture_output=True, text=True, check=True
    )
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
def test_products_of_many_shapes_leave_a_fraction_behind_of_what_pytorch_keeps_by_itself() -> None:
    ours, theirs = grown("grail_core"), grown("os")
    assert theirs > 8 << 20, "PyTorch keeps nothing here, and there is nothing to bound"
    assert ours < theirs / 3


def test_what_an_operator_has_set_stays() -> None:
    code = f"import os, grail_core; print([os.environ[name] for name in {VARIABLES!r}])"
    environment = {**{n: v for n, v in os.environ.items() if n not in VARIABLES}, VARIABLES[0]: "7"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(["7", KEPT])
