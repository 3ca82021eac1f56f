"""Sums, maxima, scans, softmax, norms with and without what is fused to them, and losses."""

from __future__ import annotations

from typing import Final

from grail_envs.kernels.tasks.form import OwnTask, model

_ROWS: Final = {"ROWS": (1, 3, 11, 16), "COLS": (1, 30, 64, 77, 130)}
_X: Final = "torch.randn(ROWS, COLS)"
_X4: Final = f"4 * {_X}"
_LARGE: Final = (50.0,)
_NEGATIVE: Final = (-9.0,)
_FAR_BELOW: Final = (-300.0,)
_NEAR_ZERO: Final = (1e-3,)
_WEIGHT: Final = "self.weight = nn.Parameter(torch.randn(cols))"

TASKS: Final = (
    OwnTask("row_sum", model("x):\nreturn x.sum(dim=1)", inputs=_X), _ROWS),
    OwnTask("row_max", model("x):\nreturn x.max(dim=1).values", inputs=_X), _ROWS, (), _NEGATIVE),
    OwnTask("row_argmax", model("x):\nreturn x.argmax(dim=1).to(torch.int32)", inputs=_X), _ROWS, (), _NEGATIVE),
    OwnTask("column_mean", model("x):\nreturn x.mean(dim=0)", inputs=_X), _ROWS),
    OwnTask("mean_square", model("x):\nreturn (x * x).mean().reshape(1)", inputs=_X), _ROWS, (30.0,)),
    OwnTask("row_cumsum", model("x):\nreturn x.cumsum(dim=1)", inputs=_X), _ROWS),
    OwnTask("l2_normalize", model("x):\nreturn x / (x.norm(dim=1, keepdim=True) + 1e-6)", inputs=_X), _ROWS, (1e-7,)),
    OwnTask("softmax", model("x):\nreturn torch.softmax(x, dim=-1)", inputs=_X4), _ROWS, _LARGE, _FAR_BELOW),
    OwnTask("log_softmax", model("x):\nreturn torch.log_softmax(x, dim=-1)", inputs=_X4), _ROWS, _LARGE, _FAR_BELOW),
    OwnTask("logsumexp", model("x):\nreturn torch.logsumexp(x, dim=-1)", inputs=_X4), _ROWS, _LARGE, _FAR_BELOW),
    OwnTask(
        "causal_softmax",
        model(
            "x):\nhidden = torch.ones(SIDE, SIDE, dtype=torch.bool).triu(1)\n"
            "return torch.softmax(x.masked_fill(hidden, float('-inf')), dim=-1)",
            inputs="torch.randn(SIDE, SIDE)",
        ),
        {"SIDE": (1, 6, 17, 40)},
        (200.0,),
        _FAR_BELOW,
    ),
    OwnTask(
        "layer_norm",
        model(
            "x):\nreturn self.norm(x)",
            init="self.norm = nn.LayerNorm(cols)\nnn.init.normal_(self.norm.weight)\nnn.init.normal_(self.norm.bias)",
            given="cols",
            init_inputs="COLS",
            inputs=_X,
        ),
        {"ROWS": (1, 3, 11), "COLS": (8, 30, 64, 130)},
        _NEAR_ZERO,
    ),
    OwnTask(
        "rms_norm",
        model(
            "x):\nreturn x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6) * self.weight",
            init=_WEIGHT,
            given="cols",
            init_inputs="COLS",
            inputs=_X,
        ),
        _ROWS,
        _NEAR_ZERO,
    ),
    OwnTask(
        "rms_norm_fp16",
        model(
            "x):\nwide = x.float()\nreturn (wide * torch.rsqrt((wide * wide).mean(dim=-1, keepdim=True) + 1e-6)).to(x.dtype)",
            inputs=f"{_X}.to(torch.float16)",
        ),
        _ROWS,
        _NEAR_ZERO,
    ),
    OwnTask(
        "add_rms_norm",
        model(
            "x, residual):\nadded = x + residual\n"
            "return added * torch.rsqrt((added * added).mean(dim=-1, keepdim=True) + 1e-6) * self.weight, added",
            init=_WEIGHT,
            given="cols",
            init_inputs="COLS",
            inputs=f"{_X}, {_X}",
        ),
        _ROWS,
        _NEAR_ZERO,
    ),
    OwnTask(
        "batch_norm_inference",
        model(
            "x):\nreturn torch.relu((x - self.mean) * torch.rsqrt(self.variance + 1e-5))",
            init='self.register_buffer("mean", torch.randn(cols))\nself.register_buffer("variance", torch.rand(cols) ** 6)',
            given="cols",
            init_inputs="COLS",
            inputs=_X,
        ),
        _ROWS,
    ),
    OwnTask("mse_loss", model("x, y):\nreturn ((x - y) ** 2).mean().reshape(1)", inputs=f"{_X}, {_X}"), _ROWS, (30.0,)),
    OwnTask(
        "cross_entropy",
        model(
            "logits, target):\nreturn F.cross_entropy(logits, target.long(), reduction='none')",
            inputs="3 * torch.randn(ROWS, COLS), torch.randint(0, COLS, (ROWS,), dtype=torch.int32)",
        ),
        _ROWS,
        _LARGE,
        _FAR_BELOW,
    ),
)
