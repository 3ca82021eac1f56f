"""One output for one place of the inputs: activations, gates, scaling, masks, rotations; and a gather, which only moves."""

from __future__ import annotations

from typing import Final

from grail_envs.kernels.tasks.form import OwnTask, model

_PLANE: Final = {"ROWS": (1, 5, 17, 33), "COLS": (1, 31, 64, 100, 129)}
_X: Final = "torch.randn(ROWS, COLS)"

TASKS: Final = (
    OwnTask("relu", model("x):\nreturn torch.relu(x)", inputs=_X), _PLANE),
    OwnTask("gelu_tanh", model('x):\nreturn F.gelu(x, approximate="tanh")', inputs=_X), _PLANE, (30.0,)),
    OwnTask("gelu_erf", model("x):\nreturn F.gelu(x)", inputs=_X), _PLANE),
    OwnTask(
        "hardswish_clamped",
        model("x):\nreturn torch.clamp(F.hardswish(x), max=2.0)", inputs="3 * torch.randn(ROWS, COLS)"),
        _PLANE,
    ),
    OwnTask("swiglu", model("gate, value):\nreturn F.silu(gate) * value", inputs=f"{_X}, {_X}"), _PLANE, (100.0,)),
    OwnTask(
        "affine_leaky",
        model(
            "x):\nreturn F.leaky_relu(x * self.scale + self.shift, self.slope)",
            init="self.slope = slope\n"
            "self.scale = nn.Parameter(torch.randn(cols))\nself.shift = nn.Parameter(torch.randn(cols))",
            given="slope, cols",
            inputs=_X,
            init_inputs="0.1, COLS",
        ),
        _PLANE,
    ),
    OwnTask("add_bf16", model("x, y):\nreturn x + 0.5 * y", inputs=", ".join([f"{_X}.to(torch.bfloat16)"] * 2)), _PLANE),
    OwnTask(
        "masked_fill",
        model(
            "x, keep):\nreturn torch.where(keep > 0, x, -1.0)",
            inputs=f"{_X}, torch.randint(-2, 4, (ROWS, COLS), dtype=torch.int32)",
        ),
        _PLANE,
    ),
    OwnTask(
        "outer_difference",
        model("x, y):\nreturn (x[:, None] - y[None, :]).abs()", inputs="torch.randn(ROWS), torch.randn(COLS)"),
        _PLANE,
    ),
    OwnTask("transpose_scaled", model("x):\nreturn (2.0 * x).t().contiguous()", inputs=_X), _PLANE),
    OwnTask(
        "rotary",
        model(
            "x, angle):\na, b = x[..., :HALF], x[..., HALF:]\ncos, sin = torch.cos(angle), torch.sin(angle)\n"
            "return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)",
            inputs="torch.randn(TOKENS, 2 * HALF), 3 * torch.randn(TOKENS, HALF)",
        ),
        {"TOKENS": (1, 7, 19), "HALF": (4, 8, 24, 32)},
    ),
    OwnTask(
        "embedding_scaled",
        model(
            "tokens):\nreturn self.table[tokens] * 0.5",
            init="self.table = nn.Parameter(torch.randn(vocabulary, width))",
            given="vocabulary, width",
            init_inputs="VOCABULARY, WIDTH",
            inputs="torch.randint(0, VOCABULARY, (TOKENS,), dtype=torch.int32)",
        ),
        {"VOCABULARY": (11, 50), "WIDTH": (16, 33, 70), "TOKENS": (1, 9, 24)},
    ),
)
