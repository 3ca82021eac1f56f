"""Right answers to the softmax of rows in the many ways in which people write them: what may not be refused by mistake."""

from __future__ import annotations

from tooling.testing.wrong_kernels import KERNEL, LAUNCH, module

_TWO_PARTS = """
NEGATIVE = float("-inf")
WIDTH: tl.constexpr = 128

@triton.jit
def power(v, high):
    return tl.exp(v - high)

@triton.jit
def added(a, b):
    return a + b

@triton.jit
def softmax_kernel(x, y, cols, BLOCK: tl.constexpr, eps: tl.constexpr = 0.0):
    \"\"\"One row.\"\"\"
    row = tl.program_id(axis=0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = (at < cols) & (row >= 0)
    v = tl.load(x + row * cols + at, mask=inside, other=NEGATIVE)
    v = power(v, tl.max(v, axis=0))
    total = tl.reduce(v, 0, added)
    if eps > 0:
        total += eps
    else:
        total = total
    tl.static_assert(BLOCK <= WIDTH * 8)
    tl.store(y + row * cols + at, v / total, mask=inside)
"""
_ONLINE = """
@triton.autotune(configs=[triton.Config({"BLOCK": 32}, num_warps=2), triton.Config({"BLOCK": 64})], key=["cols"])
@triton.jit
def softmax_kernel(x_ptr, y_ptr, stride, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    high = -float("inf")
    total = 0.0
    for start in tl.range(0, cols, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.load(x_ptr + row * stride + at, mask=at < cols, other=-float("inf"))
        new = tl.maximum(high, tl.max(v, 0))
        total = total * tl.exp(high - new) + tl.sum(tl.exp(v - new), 0)
        high = new
    for start in range(0, cols, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.load(x_ptr + row * stride + at, mask=at < cols, other=-float("inf"))
        tl.store(y_ptr + row * stride + at, tl.exp(v - high) / total, mask=at < cols)
"""
_TWO_DIMENSIONS = """
@triton.heuristics({"BLOCK": lambda args: triton.next_power_of_2(args["cols"])})
@triton.jit
def softmax_kernel(x, y, rows, cols, BLOCK: tl.constexpr, HEIGHT: tl.constexpr):
    row = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)
    at = tl.arange(0, BLOCK)
    inside = (row[:, None] < rows) & (at[None, :] < cols)
    v = tl.where(inside, tl.load(x + row[:, None] * cols + at[None, :], mask=inside), -1e30)
    e = tl.exp2((v - tl.max(v, 1, keep_dims=True)) * 1.4426950408889634)
    tl.store(y + row[:, None] * cols + at[None, :], e / tl.sum(e, 1)[:, None], mask=inside)
"""

_ANNOTATED = """
@jit
def softmax_kernel(x: torch.Tensor, y, cols: int, BLOCK: "tl.constexpr") -> None:
    tl.static_assert(BLOCK >= 1, f"no block: {BLOCK}")
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < cols
    v = tl.load(x + row * cols + at, mask=inside, other=-float("inf"))
    largest = v if BLOCK ** 0 == 2 else tl.max(v, 0)
    v = tl.exp(v - largest)
    total = 0.0
    for i in range(0, 3):
        if i == 2 and cols > 0:
            total += tl.sum(v, 0) / max(i - 1, 1)
    tl.store(y + row * cols + at, v / total, mask=inside)
"""
_DERIVED = """
class Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.empty_like(x)
        {launch}
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return torch.where(y > 0, y * (gradient - (gradient * y).sum(-1, keepdim=True)), 0)
"""

HONEST = {
    "jit by its name, annotations, a message, a power of nothing": module(
        f"y = torch.unsqueeze(torch.empty_like(x), 0).squeeze(0)\n{LAUNCH}\nreturn y",
        kernel=_ANNOTATED,
        top="from triton import jit\n__all__ = ['ModelNew']\n",
    ),
    "a function of autograd with its derivative": module("return Softmax.apply(x)", top=_DERIVED.format(launch=LAUNCH)),
    "device by its name": module(
        f"assert x.is_cuda\ny = torch.empty(x.shape, dtype=x.dtype, device='cuda')\n{LAUNCH}\nreturn y"
    ),
    "a helper, a lambda for the grid, a guard": module(
        "return launch(x.contiguous())",
        top="""
def launch(x):
    rows, cols = x.shape
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    grid = lambda meta: (triton.cdiv(rows, 1),)
    with torch.cuda.device(x.device):
        block = max(16, triton.next_power_of_2(cols))
        softmax_kernel[grid](x, y, cols, BLOCK=block, num_warps=8 if cols > 64 else 4, num_stages=2)
    return y
""",
    ),
    "two kernels that call others, constants, defaults": module(
        "y = torch.zeros(x.size(0), x.size(1), device=x.device)\n" + LAUNCH + "\nreturn y", kernel=_TWO_PARTS
    ),
    "online, with configurations": module(
        "y = x.new_empty(x.shape)\nsoftmax_kernel[(x.shape[0],)](x, y, x.stride(0), x.shape[1])\nreturn y", kernel=_ONLINE
    ),
    "rows by fours, heuristics": module(
        "y = torch.empty_like(x)\nsoftmax_kernel[(triton.cdiv(x.shape[0], 4), 1, 1)](x, y, *x.shape, HEIGHT=4)\nreturn y",
        kernel=_TWO_DIMENSIONS,
    ),
    "a function of autograd": module(
        "return Softmax.apply(x)",
        top=f"""
class Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.empty_like(x)
        {LAUNCH}
        return y
""",
    ),
    "in the middle of a larger tensor": module(
        "whole = torch.full((x.shape[0] + 2, x.shape[1]), float('-inf'), device=x.device)\n"
        "y = whole[1:-1]\n" + LAUNCH + "\nreturn y.view(x.shape)"
    ),
    "in half precision between": module(
        "y = torch.empty_like(x)\n" + LAUNCH + "\nreturn y.to(torch.float64).to(torch.float32)"
    ),
    "a class beside it": module(
        "return self.inner(x)",
        init="self.inner = Inner()",
        top=f"""
class Inner(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        {LAUNCH}
        return y
""",
    ),
    "text of an older kind": module(
        f"if not x.is_contiguous():\n    x = x.contiguous()\ny = torch.empty_like(x).cuda()\n{LAUNCH}\nreturn y",
        kernel=KERNEL,
        top="from typing import Optional\nimport math\nimport torch.nn.functional as F\n",
    ),
    "a program too, with texts and guards": module(
        "if x.dtype not in {torch.float32, torch.float16}:\n    raise TypeError(f'{x.dtype} of {x.shape!r} is not supported')\n"
        "return self._launch(x)",
        init="self._block = 16",
        top="""
def blocks(n, size):
    n -= n % size
    return n | size
""",
    )
    + f"""
    def _launch(self, x):
        assert blocks(x.numel(), 16) > 0, f"no elements: {{x.shape}}"
        y = torch.empty_like(x)
        {LAUNCH}
        return y

if __name__ == "__main__":
    import time
    time.sleep(1)
""",
}
