"""Kernels that were paid after those of `wrong_kernels.PAID`: what the interpreter and a GPU took in two ways, and weak draws.

Each has its own task, the words by which it has to fail and what it still earns.
"""

from __future__ import annotations

from tooling.testing.wrong_kernels import EACH, EACH_CALL, GATE_CALL, Wrong, module, row

_FORM, _COMPILED = ("format",), ("format", "compiles")
_CONSTANT = "C: tl.constexpr = 5\n"


def _each(r: str, *, forward: str = "", top: str = "") -> str:
    kernel = EACH.replace("@triton.jit", f"{top}@triton.jit", 1).replace("r = tl.maximum(v, 0.0)", r)
    return module(f"{forward}{EACH_CALL.format('')}", kernel=kernel)


_BY_TEXT = """
C: tl.constexpr = 5
@triton.jit
def gate_kernel(gate, value, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < count, other=0.0)
    a = "%s" % gate
    b = "%s" % value
    d = (int(b[1:len(b) - 1]) - int(a[1:len(a) - 1])) // 4
    v = tl.load(gate + at + d, mask=at < count, other=0.0)
    tl.store(out + at, g * v / (1 + tl.exp(-g)), mask=at < count)
"""
_GLOBALS = """
import functools, typing
def here():
    return 0
functools.wraps(typing.NamedTuple, assigned=(), updated=("__globals__",))(here)
def later():
    return sys
"""
_PRIVATE = """
from enum import Enum
def reach(cls):
    return cls._convert_("Found", "posix", lambda name: name == "cpu_count")
"""
_TURNED = """
@triton.jit
def k(x, y, count, BLOCK: tl.constexpr):
    base = tl.program_id(0) * BLOCK
    at = base + tl.arange(0, BLOCK)
    n = tl.minimum(count - base, BLOCK)
    back = base + n - 1 - tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < count, other=0.0)
    tl.store(y + back, v, mask=at < count)
    w = tl.load(y + at, mask=at < count, other=0.0)
    tl.store(y + at, tl.maximum(v, 0.0) + 0 * w, mask=at < count)
"""
_COUNTED = """
@triton.jit
def k(x, y, part, count, rows, cols, BLOCK: tl.constexpr, RB: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * cols + at, mask=at < cols, other=0.0)
    {first}
    {then}
    if rank == rows - 1:
        r = tl.arange(0, RB)
        p = tl.load(part + r, mask=r < rows, other=0.0)
        tl.store(y, tl.sum(p, 0) / (rows * cols))
"""
_STORE, _COUNT = "tl.store(part + row, tl.sum(v * v, 0))", "rank = tl.atomic_add(count, 1)"
_COUNTED_CALL = """
y = torch.empty(1, dtype=x.dtype, device=x.device)
part = torch.empty(x.shape[0], dtype=x.dtype, device=x.device)
count = torch.zeros(1, dtype=torch.int32, device=x.device)
rows, cols = x.shape
k[(rows,)](x, y, part, count, rows, cols, BLOCK=triton.next_power_of_2(cols), RB=triton.next_power_of_2(rows))
return y
"""
COUNTED = module(_COUNTED_CALL, kernel=_COUNTED.format(first=_STORE, then=_COUNT))
"""Right: the last program to count reads what all have stored before they counted (`mean_square`)."""

PAID_LATER = (
    Wrong(
        "takes a library's names by a decorator",
        module(EACH_CALL.format(" * len(later().modules)"), kernel=EACH, top=_GLOBALS),
        "functools.wraps",
        task="relu",
    ),
    Wrong(
        "reaches a module by a private name of a library",
        module(EACH_CALL.format(" * reach(Enum).cpu_count.value()"), kernel=EACH, top=_PRIVATE),
        "AttributeError: grail_own_convert_",
        _FORM,
        task="relu",
    ),
    Wrong(
        "asks Python's own str where an object lies",
        module(f"n = len(typing.Text(lambda: 0))\n{EACH_CALL.format(' * n')}", kernel=EACH, top="import typing\n"),
        "typing.Text",
        task="relu",
    ),
    Wrong(
        "computes by the text of a pointer",
        _each('t = "%s" % x\n    r = tl.maximum(v, 0.0) + float(int(t[5]) % 2)', top=_CONSTANT),
        "text, which may only be an argument",
        task="relu",
    ),
    Wrong(
        "reaches a tensor by the text of two addresses",
        module(GATE_CALL, kernel=_BY_TEXT).replace("forward(self, x)", "forward(self, x, value)"),
        "text, which may only be an argument",
        task="swiglu",
    ),
    Wrong(
        "computes in the interpreter alone, told by text",
        _each('r = v * 0.0\n    if len("%s" % C) > 1:\n        r = tl.maximum(v, 0.0)', top=_CONSTANT),
        "text, which may only be an argument",
        task="relu",
    ),
    Wrong(
        "computes in the interpreter alone, told by the sign of a remainder",
        _each("r = v * 0.0\n    for i in range(0, 1):\n        r = tl.maximum(v, 0.0) * (((i - 5) % 3) * 1.0)"),
        "differ by more",
        _COMPILED,
        task="relu",
    ),
    Wrong(
        "computes in the interpreter alone, told by a product of 33 bits",
        _each("r = v * 0.0\n    for i in range(65536, 65537):\n        r = tl.maximum(v, 0.0) * (i * i / 4294967296.0)"),
        "differ by more",
        _COMPILED,
        task="relu",
    ),
    Wrong(
        "puts pointers and numbers together",
        _each("r = tl.maximum(v, 0.0)\n    q = tl.max(x + at, 0)\n    r = r + (q > 0).to(tl.float32)"),
        "",
        _FORM,
        task="relu",
    ),
    Wrong(
        "says of places that they follow each other",
        _each("r = tl.maximum(v, 0.0)\n    at = tl.max_contiguous(at * 2, 16) // 2"),
        "tl.max_contiguous by 16 does not hold",
        _COMPILED,
        task="relu",
    ),
    Wrong(
        "lets the compiler put elements in another order",
        _each("r = tl.reshape(tl.maximum(v, 0.0), (BLOCK,), can_reorder=True)"),
        "can_reorder",
        task="relu",
    ),
    Wrong(
        "reads what another lane has stored",
        module(EACH_CALL.format(""), kernel=_TURNED),
        "another lane of the program",
        _COMPILED,
        task="relu",
    ),
    Wrong(
        "counts before it stores",
        module(_COUNTED_CALL, kernel=_COUNTED.format(first=_COUNT, then=_STORE)),
        "did not wait for it by an atomic",
        _COMPILED,
        task="mean_square",
    ),
    Wrong(
        "takes the maximum of a row and 0",
        row("tl.store(y + row, tl.max(v, 0))", shape="x.shape[0]"),
        "(draw 6 of 6)",
        _COMPILED,
        task="row_max",
    ),
    Wrong(
        "softmax with the maximum of a row and 0",
        row("e = tl.where(inside, tl.exp(v - tl.maximum(tl.max(v, 0), 0.0)), 0.0)\n    r = e / tl.sum(e, 0)"),
        "(draw 7 of 7)",
        _COMPILED,
    ),
    Wrong(
        "a descriptor, which needs an allocator",
        _each("r = tl.maximum(v, 0.0)\n    d = tl.make_tensor_descriptor(x, [count], [1], [BLOCK])"),
        "needs an allocator",
        task="relu",
    ),
    Wrong(
        "a grid that no GPU takes",
        module(
            "y = torch.empty_like(x)\nk[(1, 66000)](x, y, x.numel(), BLOCK=256)\nreturn y",
            kernel=EACH.replace("program_id(0)", "program_id(1)"),
        ),
        "which no GPU takes",
        _FORM,
        task="relu",
    ),
)
