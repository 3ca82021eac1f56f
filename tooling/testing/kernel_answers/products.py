"""Right answers to the products of matrices, attention, and convolutions."""

from __future__ import annotations

from tooling.testing.kernel_answers.form import answer


def _matmul(load_b: str = "b + k[:, None] * sbk + n[None, :] * sbn", finish: str = "", extra: str = "") -> str:
    return f"""
@triton.jit
def matmul_kernel(a, b, c, M, N, K, sam, sak, sbk, sbn, {extra}BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(a + m[:, None] * sam + k[None, :] * sak, mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        right = tl.load({load_b}, mask=(k[:, None] < K) & (n[None, :] < N), other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
{finish}
    tl.store(c + m[:, None] * N + n[None, :], total.to(c.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))
"""


_TWO = """a, b):
M, K = a.shape
N = b.shape[1]
c = torch.empty((M, N), dtype=a.dtype, device=a.device)
matmul_kernel[(triton.cdiv(M, 16), triton.cdiv(N, 32))](
    a, b, c, M, N, K, a.stride(0), a.stride(1), b.stride(0), b.stride(1), BM=16, BN=32, BK=32, num_warps=4, num_stages=2
)
return c"""

_ATTENTION = """
@triton.jit
def attention_kernel(q, k, v, out, tokens, scale, WIDTH: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr):
    base = tl.program_id(1) * tokens * WIDTH
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, WIDTH)
    query = tl.load(q + base + row[:, None] * WIDTH + d[None, :], mask=row[:, None] < tokens, other=0.0) * scale
    high = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
    weight = tl.zeros((BLOCK,), dtype=tl.float32)
    total = tl.zeros((BLOCK, WIDTH), dtype=tl.float32)
    for start in range(0, tokens, BLOCK):
        col = start + tl.arange(0, BLOCK)
        key = tl.load(k + base + col[:, None] * WIDTH + d[None, :], mask=col[:, None] < tokens, other=0.0)
        value = tl.load(v + base + col[:, None] * WIDTH + d[None, :], mask=col[:, None] < tokens, other=0.0)
        seen = col[None, :] < tokens
        if CAUSAL:
            seen = seen & (col[None, :] <= row[:, None])
        score = tl.where(seen, tl.dot(query, tl.trans(key), input_precision="ieee"), -1e30)
        new = tl.maximum(high, tl.max(score, 1))
        part = tl.where(seen, tl.exp(score - new[:, None]), 0.0)
        shrink = tl.exp(high - new)
        weight = weight * shrink + tl.sum(part, 1)
        total = total * shrink[:, None] + tl.dot(part, value, input_precision="ieee")
        high = new
    tl.store(out + base + row[:, None] * WIDTH + d[None, :], total / weight[:, None], mask=row[:, None] < tokens)
"""


def _attention(causal: bool) -> str:
    return answer(
        _ATTENTION,
        f"""q, k, v):
heads, tokens, width = q.shape
out = torch.empty_like(q)
grid = (triton.cdiv(tokens, 16), heads)
attention_kernel[grid](q, k, v, out, tokens, width**-0.5, WIDTH=width, BLOCK=16, CAUSAL={causal})
return out""",
    )


ANSWERS: dict[str, str] = {
    "matmul": answer(_matmul(), _TWO),
    "matmul_fp16": answer(_matmul(), _TWO),
    "matmul_bf16": answer(_matmul(), _TWO),
    "matmul_transposed": answer(_matmul(), _TWO.replace("N = b.shape[1]", "b = b.t()\nN = b.shape[1]")),
    "linear_relu": answer(
        _matmul(
            finish="    total = tl.maximum(total + tl.load(bias + n, mask=n < N, other=0.0)[None, :], 0.0)", extra="bias, "
        ),
        """x):
w = self.linear.weight
M, K = x.shape
N = w.shape[0]
c = torch.empty((M, N), dtype=x.dtype, device=x.device)
matmul_kernel[(triton.cdiv(M, 16), triton.cdiv(N, 32))](
    x, w, c, M, N, K, x.stride(0), x.stride(1), w.stride(1), w.stride(0), self.linear.bias, BM=16, BN=32, BK=32
)
return c""",
        init="self.linear = nn.Linear(k, n)",
        given="k, n",
    ),
    "batched_matmul": answer(
        """
@triton.jit
def batched_kernel(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    batch = tl.program_id(2)
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(a + batch * M * K + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        right = tl.load(b + batch * K * N + k[:, None] * N + n[None, :], mask=(k[:, None] < K) & (n[None, :] < N), other=0.0)
        total += tl.dot(left, right, input_precision="ieee")
    tl.store(c + batch * M * N + m[:, None] * N + n[None, :], total, mask=(m[:, None] < M) & (n[None, :] < N))
""",
        """a, b):
batch, M, K = a.shape
N = b.shape[2]
c = torch.empty((batch, M, N), dtype=a.dtype, device=a.device)
batched_kernel[(triton.cdiv(M, 16), triton.cdiv(N, 16), batch)](a, b, c, M, N, K, BM=16, BN=16, BK=16)
return c""",
    ),
    "matrix_vector": answer(
        """
@triton.jit
def vector_kernel(a, x, y, K, BLOCK: tl.constexpr):
    k = tl.arange(0, BLOCK)
    row = tl.load(a + tl.program_id(0) * K + k, mask=k < K, other=0.0)
    tl.store(y + tl.program_id(0), tl.sum(row * tl.load(x + k, mask=k < K, other=0.0), 0))
""",
        """a, x):
M, K = a.shape
y = torch.empty((M,), dtype=a.dtype, device=a.device)
vector_kernel[(M,)](a, x, y, K, BLOCK=triton.next_power_of_2(K))
return y""",
    ),
    "attention": _attention(causal=False),
    "causal_attention": _attention(causal=True),
    "depthwise_conv1d": answer(
        """
@triton.jit
def conv_kernel(x, weight, out, channels, length, BLOCK: tl.constexpr):
    channel = tl.program_id(0) % channels
    at = tl.arange(0, BLOCK)
    inside = at < length - 2
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for tap in tl.static_range(3):
        total += tl.load(x + tl.program_id(0) * length + at + tap, mask=inside, other=0.0) * tl.load(weight + channel * 3 + tap)
    tl.store(out + tl.program_id(0) * (length - 2) + at, total, mask=inside)
""",
        """x):
batch, channels, length = x.shape
out = torch.empty((batch, channels, length - 2), dtype=x.dtype, device=x.device)
conv_kernel[(batch * channels,)](x, self.weight, out, channels, length, BLOCK=triton.next_power_of_2(length))
return out""",
        init="self.weight = nn.Parameter(torch.zeros(channels, 1, 3))",
        given="channels",
    ),
    "conv2d": answer(
        """
@triton.jit
def conv_kernel(x, weight, out, inputs, side, BLOCK: tl.constexpr):
    made = side - 2
    filter = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < made * made
    row = at // made
    col = at % made
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for channel in range(inputs):
        for dy in tl.static_range(3):
            for dx in tl.static_range(3):
                v = tl.load(x + channel * side * side + (row + dy) * side + col + dx, mask=inside, other=0.0)
                total += v * tl.load(weight + (filter * inputs + channel) * 9 + dy * 3 + dx)
    tl.store(out + filter * made * made + at, total, mask=inside)
""",
        """x):
_, inputs, side, _ = x.shape
filters = self.weight.shape[0]
out = torch.empty((1, filters, side - 2, side - 2), dtype=x.dtype, device=x.device)
conv_kernel[(filters,)](x, self.weight, out, inputs, side, BLOCK=triton.next_power_of_2((side - 2) * (side - 2)))
return out""",
        init="self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3, 3))",
        given="inputs, outputs",
    ),
    "max_pool2d": answer(
        """
@triton.jit
def pool_kernel(x, out, height, width, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    inside = at < height * width
    corner = tl.program_id(0) * 4 * height * width + (at // width) * 4 * width + (at % width) * 2
    high = tl.load(x + corner, mask=inside, other=0.0)
    high = tl.maximum(high, tl.load(x + corner + 1, mask=inside, other=0.0))
    high = tl.maximum(high, tl.load(x + corner + 2 * width, mask=inside, other=0.0))
    high = tl.maximum(high, tl.load(x + corner + 2 * width + 1, mask=inside, other=0.0))
    tl.store(out + tl.program_id(0) * height * width + at, high, mask=inside)
""",
        """x):
_, channels, h, w = x.shape
out = torch.empty((1, channels, h // 2, w // 2), dtype=x.dtype, device=x.device)
pool_kernel[(channels,)](x, out, h // 2, w // 2, BLOCK=triton.next_power_of_2((h // 2) * (w // 2)))
return out""",
    ),
}
