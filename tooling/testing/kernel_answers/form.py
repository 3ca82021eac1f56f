"""How the right answers are written down: a kernel, what its module is given, and how it is launched."""

from __future__ import annotations

_TOP = "import torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n"


def indented(text: str, by: int) -> str:
    """Every line of `text` but empty ones, `by` columns further right."""
    return "\n".join(" " * by + line if line.strip() else line for line in text.strip("\n").splitlines())


def answer(kernel: str, forward: str, *, init: str = "", given: str = "") -> str:
    """A module: `kernel` is the text of its kernels, `forward` that behind `def forward(self, `."""
    head, _, rest = forward.strip("\n").partition("\n")
    lines = [_TOP, "", kernel.strip("\n"), "", "", "class ModelNew(nn.Module):"]
    lines += [f"    def __init__(self{', ' + given if given else ''}):", "        super().__init__()"]
    lines += [indented(init, 8)] if init else []
    lines += ["", f"    def forward(self, {head}", indented(rest, 8)]
    return "\n".join(lines) + "\n"


def row_wise(
    compute: str,
    *,
    result: str = "tl.store(out + row * cols + at, y, mask=at < cols)",
    shape: str = "x.shape",
    fill: str = "0.0",
    dtype: str = "x.dtype",
) -> str:
    """One program a row: `compute` makes y of v (the row in float32) and, where it needs it, `inside`."""
    kernel = f"""
@triton.jit
def row_kernel(x, out, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < cols
    v = tl.load(x + row * cols + at, mask=inside, other={fill}).to(tl.float32)
{indented(compute, 4)}
    {result}
"""
    forward = f"""x):
x = x.contiguous()
rows, cols = x.shape
out = torch.empty({shape}, dtype={dtype}, device=x.device)
row_kernel[(rows,)](x, out, cols, BLOCK=triton.next_power_of_2(cols))
return out"""
    return answer(kernel, forward)


def element_wise(compute: str) -> str:
    """One program a block of 64 elements: `compute` makes y of x (float32)."""
    kernel = f"""
@triton.jit
def element_kernel(source, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(source + at, mask=at < count, other=0.0)
{indented(compute, 4)}
    tl.store(out + at, y, mask=at < count)
"""
    forward = """x):
x = x.contiguous()
out = torch.empty_like(x)
count = x.numel()
element_kernel[lambda meta: (triton.cdiv(count, meta["BLOCK"]),)](x, out, count, BLOCK=512)
return out"""
    return answer(kernel, forward)
