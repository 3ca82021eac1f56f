"""Right answers to the reductions, norms and losses."""

from __future__ import annotations

from tooling.testing.kernel_answers.form import answer, row_wise

_ONE = "tl.store(out + row, y)"
_NORM_KERNEL = """
@triton.jit
def norm_kernel(x, weight, out, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < cols
    v = tl.load(x + row * cols + at, mask=inside, other=0.0)
    y = v * tl.rsqrt(tl.sum(v * v, 0) / cols + 1e-6) * tl.load(weight + at, mask=inside)
    tl.store(out + row * cols + at, y, mask=inside)
"""
_WHOLE_KERNEL = """
@triton.jit
def whole_kernel(x, y, out, count, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, count, BLOCK):
        inside = start + at < count
        d = tl.load(x + start + at, mask=inside, other=0.0) - tl.load(y + start + at, mask=inside, other=0.0)
        total += d * d
    tl.store(out, tl.sum(total, 0) / count)
"""

ANSWERS: dict[str, str] = {
    "row_sum": row_wise("y = tl.sum(v, 0)", result=_ONE, shape="(x.shape[0],)"),
    "row_max": row_wise("y = tl.max(v, 0)", result=_ONE, shape="(x.shape[0],)", fill="-float('inf')"),
    "row_argmax": row_wise(
        "y = tl.argmax(v, 0)", result=_ONE, shape="(x.shape[0],)", fill="-float('inf')", dtype="torch.int32"
    ),
    "column_mean": answer(
        """
@triton.jit
def column_kernel(x, out, rows, cols, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for row in range(rows):
        total += tl.load(x + row * cols + at, mask=at < cols, other=0.0)
    tl.store(out + at, total / rows, mask=at < cols)
""",
        """x):
rows, cols = x.shape
out = torch.empty((cols,), dtype=x.dtype, device=x.device)
column_kernel[(triton.cdiv(cols, 64),)](x, out, rows, cols, BLOCK=64)
return out""",
    ),
    "mean_square": answer(
        """
@triton.jit
def square_kernel(x, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < count, other=0.0)
    tl.atomic_add(out, tl.sum(v * v, 0) / count)
""",
        """x):
out = torch.zeros(1, dtype=x.dtype, device=x.device)
square_kernel[(triton.cdiv(x.numel(), 512),)](x, out, x.numel(), BLOCK=512)
return out""",
    ),
    "row_cumsum": row_wise("y = tl.cumsum(v, 0)"),
    "l2_normalize": row_wise("y = v / (tl.sqrt(tl.sum(v * v, 0)) + 1e-6)"),
    "softmax": row_wise("e = tl.exp(v - tl.max(v, 0))\ny = e / tl.sum(e, 0)", fill="-float('inf')"),
    "log_softmax": row_wise("high = tl.max(v, 0)\ny = v - high - tl.log(tl.sum(tl.exp(v - high), 0))", fill="-float('inf')"),
    "logsumexp": row_wise(
        "high = tl.max(v, 0)\ny = high + tl.log(tl.sum(tl.exp(v - high), 0))",
        result=_ONE,
        shape="(x.shape[0],)",
        fill="-float('inf')",
    ),
    "causal_softmax": row_wise(
        "v = tl.where(at <= row, v, -float('inf'))\ne = tl.exp(v - tl.max(v, 0))\ny = e / tl.sum(e, 0)", fill="-float('inf')"
    ),
    "layer_norm": answer(
        """
@triton.jit
def layer_norm_kernel(x, weight, bias, out, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < cols
    v = tl.load(x + row * cols + at, mask=inside, other=0.0)
    centred = tl.where(inside, v - tl.sum(v, 0) / cols, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / cols + 1e-5)
    y = centred * scale * tl.load(weight + at, mask=inside) + tl.load(bias + at, mask=inside)
    tl.store(out + row * cols + at, y, mask=inside)
""",
        """x):
out = torch.empty_like(x)
rows, cols = x.shape
layer_norm_kernel[(rows,)](x, self.norm.weight, self.norm.bias, out, cols, BLOCK=triton.next_power_of_2(cols), num_warps=4)
return out""",
        init="self.norm = nn.LayerNorm(cols)",
        given="cols",
    ),
    "rms_norm": answer(
        _NORM_KERNEL,
        """x):
out = torch.empty_like(x)
rows, cols = x.shape
norm_kernel[(rows,)](x, self.weight, out, cols, BLOCK=triton.next_power_of_2(cols))
return out""",
        init="self.weight = nn.Parameter(torch.ones(cols))",
        given="cols",
    ),
    "rms_norm_fp16": row_wise("y = (v * tl.rsqrt(tl.sum(v * v, 0) / cols + 1e-6)).to(tl.float16)"),
    "add_rms_norm": answer(
        """
@triton.jit
def add_norm_kernel(x, residual, weight, out, added, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < cols
    v = tl.load(x + row * cols + at, mask=inside, other=0.0) + tl.load(residual + row * cols + at, mask=inside, other=0.0)
    tl.store(added + row * cols + at, v, mask=inside)
    y = v * tl.rsqrt(tl.sum(v * v, 0) / cols + 1e-6) * tl.load(weight + at, mask=inside)
    tl.store(out + row * cols + at, y, mask=inside)
""",
        """x, residual):
out, added = torch.empty_like(x), torch.empty_like(x)
rows, cols = x.shape
add_norm_kernel[(rows,)](x, residual, self.weight, out, added, cols, BLOCK=triton.next_power_of_2(cols))
return out, added""",
        init="self.weight = nn.Parameter(torch.ones(cols))",
        given="cols",
    ),
    "batch_norm_inference": answer(
        """
@triton.jit
def batch_norm_kernel(x, mean, variance, out, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < cols
    v = tl.load(x + row * cols + at, mask=inside) - tl.load(mean + at, mask=inside)
    y = v * tl.rsqrt(tl.load(variance + at, mask=inside, other=1.0) + 1e-5)
    tl.store(out + row * cols + at, tl.maximum(y, 0.0), mask=inside)
""",
        """x):
out = torch.empty_like(x)
rows, cols = x.shape
batch_norm_kernel[(rows,)](x, self.mean, self.variance, out, cols, BLOCK=triton.next_power_of_2(cols))
return out""",
        init='self.register_buffer("mean", torch.zeros(cols))\nself.register_buffer("variance", torch.ones(cols))',
        given="cols",
    ),
    "mse_loss": answer(
        _WHOLE_KERNEL,
        """x, y):
out = torch.empty(1, dtype=x.dtype, device=x.device)
whole_kernel[(1,)](x, y, out, x.numel(), BLOCK=256)
return out""",
    ),
    "cross_entropy": answer(
        """
@triton.jit
def loss_kernel(logits, target, out, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    v = tl.load(logits + row * cols + at, mask=at < cols, other=-float("inf"))
    high = tl.max(v, 0)
    right = tl.load(logits + row * cols + tl.load(target + row))
    tl.store(out + row, high + tl.log(tl.sum(tl.exp(v - high), 0)) - right)
""",
        """logits, target):
rows, cols = logits.shape
out = torch.empty((rows,), dtype=logits.dtype, device=logits.device)
loss_kernel[(rows,)](logits, target, out, cols, BLOCK=triton.next_power_of_2(cols))
return out""",
    ),
}
