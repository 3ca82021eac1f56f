"""Right answers to the element-wise tasks."""

from __future__ import annotations

from tooling.testing.kernel_answers.form import answer, element_wise

_SIGMOID = "1 / (1 + tl.exp(-g))"

ANSWERS: dict[str, str] = {
    "relu": element_wise("y = tl.maximum(x, 0.0)"),
    "gelu_tanh": element_wise(
        "inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)\ny = x * (1 - 1 / (tl.exp(2 * inner) + 1))"
    ),
    "gelu_erf": element_wise("y = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))"),
    "hardswish_clamped": element_wise("y = tl.minimum(x * tl.minimum(tl.maximum(x + 3, 0.0), 6.0) / 6, 2.0)"),
    "swiglu": answer(
        f"""
@triton.jit
def gate_kernel(gate, value, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < count, other=0.0)
    v = tl.load(value + at, mask=at < count, other=0.0)
    tl.store(out + at, g * v * {_SIGMOID}, mask=at < count)
""",
        """gate, value):
out = torch.empty_like(gate)
gate_kernel[(triton.cdiv(gate.numel(), 256),)](gate, value, out, gate.numel(), BLOCK=256)
return out""",
    ),
    "affine_leaky": answer(
        """
@triton.jit
def affine_kernel(x, scale, shift, out, cols, slope, BLOCK: tl.constexpr):
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(0)
    inside = at < cols
    y = tl.load(x + row * cols + at, mask=inside) * tl.load(scale + at, mask=inside) + tl.load(shift + at, mask=inside)
    tl.store(out + row * cols + at, tl.where(y > 0, y, slope * y), mask=inside)
""",
        """x):
out = torch.empty_like(x)
rows, cols = x.shape
affine_kernel[(rows, triton.cdiv(cols, 64))](x, self.scale, self.shift, out, cols, self.slope, BLOCK=64)
return out""",
        given="slope, cols",
        init="self.slope = slope\nself.scale = nn.Parameter(torch.zeros(cols))\nself.shift = nn.Parameter(torch.zeros(cols))",
    ),
    "add_bf16": answer(
        """
@triton.jit
def add_kernel(x, y, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + at, mask=at < count)
    b = tl.load(y + at, mask=at < count)
    tl.store(out + at, a + 0.5 * b, mask=at < count)
""",
        """x, y):
out = torch.empty_like(x)
add_kernel[(triton.cdiv(x.numel(), 256),)](x, y, out, x.numel(), BLOCK=256)
return out""",
    ),
    "masked_fill": answer(
        """
@triton.jit
def fill_kernel(x, keep, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    kept = tl.load(keep + at, mask=at < count, other=0) > 0
    tl.store(out + at, tl.where(kept, tl.load(x + at, mask=at < count), -1.0), mask=at < count)
""",
        """x, keep):
out = torch.empty_like(x)
fill_kernel[(triton.cdiv(x.numel(), 256),)](x, keep, out, x.numel(), BLOCK=256)
return out""",
    ),
    "outer_difference": answer(
        """
@triton.jit
def outer_kernel(x, y, out, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    tl.store(out + row * cols + at, tl.abs(tl.load(x + row) - tl.load(y + at, mask=at < cols)), mask=at < cols)
""",
        """x, y):
out = torch.empty((x.shape[0], y.shape[0]), dtype=x.dtype, device=x.device)
outer_kernel[(x.shape[0],)](x, y, out, y.shape[0], BLOCK=triton.next_power_of_2(y.shape[0]))
return out""",
    ),
    "transpose_scaled": answer(
        """
@triton.jit
def transpose_kernel(x, out, rows, cols, SIDE: tl.constexpr):
    r = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    c = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    v = tl.load(x + r[:, None] * cols + c[None, :], mask=(r[:, None] < rows) & (c[None, :] < cols))
    tl.store(out + c[:, None] * rows + r[None, :], 2.0 * tl.trans(v), mask=(c[:, None] < cols) & (r[None, :] < rows))
""",
        """x):
rows, cols = x.shape
out = x.new_empty(cols, rows)
transpose_kernel[(triton.cdiv(rows, 32), triton.cdiv(cols, 32))](x, out, rows, cols, SIDE=32)
return out""",
    ),
    "rotary": answer(
        """
@triton.jit
def rotary_kernel(x, angle, out, half, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < half
    a = tl.load(x + row * 2 * half + at, mask=inside)
    b = tl.load(x + row * 2 * half + half + at, mask=inside)
    t = tl.load(angle + row * half + at, mask=inside)
    tl.store(out + row * 2 * half + at, a * tl.cos(t) - b * tl.sin(t), mask=inside)
    tl.store(out + row * 2 * half + half + at, a * tl.sin(t) + b * tl.cos(t), mask=inside)
""",
        """x, angle):
out = torch.empty_like(x)
half = angle.shape[1]
rotary_kernel[(x.shape[0],)](x, angle, out, half, BLOCK=triton.next_power_of_2(half))
return out""",
    ),
    "embedding_scaled": answer(
        """
@triton.jit
def gather_kernel(tokens, table, out, width, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    token = tl.load(tokens + tl.program_id(0))
    v = tl.load(table + token * width + at, mask=at < width)
    tl.store(out + tl.program_id(0) * width + at, v * 0.5, mask=at < width)
""",
        """tokens):
width = self.table.shape[1]
out = torch.empty((tokens.shape[0], width), dtype=self.table.dtype, device=tokens.device)
gather_kernel[(tokens.shape[0],)](tokens, self.table, out, width, BLOCK=triton.next_power_of_2(width))
return out""",
        init="self.table = nn.Parameter(torch.zeros(vocabulary, width))",
        given="vocabulary, width",
    ),
}
