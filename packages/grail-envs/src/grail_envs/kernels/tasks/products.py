"""Products of matrices, what is fused to them, attention, and convolutions."""

from __future__ import annotations

from typing import Final

from grail_envs.kernels.tasks.form import OwnTask, model

_SIDES: Final = {"M": (1, 17, 40), "N": (5, 32, 48), "K": (3, 32, 50)}
_HEADS: Final = {"HEADS": (1, 2), "TOKENS": (1, 13, 32, 37), "WIDTH": (16, 32)}
_QKV: Final = ", ".join(["torch.randn(HEADS, TOKENS, WIDTH)"] * 3)

TASKS: Final = (
    OwnTask("matmul", model("a, b):\nreturn a @ b", inputs="torch.randn(M, K), torch.randn(K, N)"), _SIDES),
    OwnTask("matmul_transposed", model("a, b):\nreturn a @ b.t()", inputs="torch.randn(M, K), torch.randn(N, K)"), _SIDES),
    OwnTask("matmul_fp16", model("a, b):\nreturn a @ b", inputs="torch.randn(M, K).half(), torch.randn(K, N).half()"), _SIDES),
    OwnTask(
        "matmul_bf16",
        model("a, b):\nreturn a @ b", inputs="torch.randn(M, K).to(torch.bfloat16), torch.randn(K, N).to(torch.bfloat16)"),
        _SIDES,
    ),
    OwnTask(
        "linear_relu",
        model(
            "x):\nreturn torch.relu(self.linear(x))",
            init="self.linear = nn.Linear(k, n)",
            given="k, n",
            init_inputs="K, N",
            inputs="torch.randn(M, K)",
        ),
        _SIDES,
    ),
    OwnTask(
        "batched_matmul",
        model("a, b):\nreturn torch.bmm(a, b)", inputs="torch.randn(BATCH, M, K), torch.randn(BATCH, K, N)"),
        {"BATCH": (1, 3), "M": (5, 20), "N": (7, 32), "K": (16, 21)},
    ),
    OwnTask("matrix_vector", model("a, x):\nreturn a @ x", inputs="torch.randn(M, K), torch.randn(K)"), _SIDES),
    OwnTask(
        "attention",
        model(
            "q, k, v):\nweights = torch.softmax(q @ k.transpose(-1, -2) * WIDTH**-0.5, dim=-1)\nreturn weights @ v", inputs=_QKV
        ),
        _HEADS,
    ),
    OwnTask(
        "causal_attention",
        model(
            "q, k, v):\nscores = q @ k.transpose(-1, -2) * WIDTH**-0.5\n"
            "hidden = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)\n"
            "return torch.softmax(scores.masked_fill(hidden, float('-inf')), dim=-1) @ v",
            inputs=_QKV,
        ),
        _HEADS,
    ),
    OwnTask(
        "depthwise_conv1d",
        model(
            "x):\nreturn F.conv1d(x, self.weight, groups=x.shape[1])",
            init="self.weight = nn.Parameter(torch.randn(channels, 1, 3))",
            given="channels",
            init_inputs="CHANNELS",
            inputs="torch.randn(BATCH, CHANNELS, LENGTH)",
        ),
        {"BATCH": (1, 2), "CHANNELS": (3, 8), "LENGTH": (5, 33, 70)},
    ),
    OwnTask(
        "conv2d",
        model(
            "x):\nreturn F.conv2d(x, self.weight)",
            init="self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))",
            given="inputs, outputs",
            init_inputs="IN, OUT",
            inputs="torch.randn(1, IN, SIDE, SIDE)",
        ),
        {"IN": (1, 3), "OUT": (2, 5), "SIDE": (5, 9, 12)},
    ),
    OwnTask(
        "max_pool2d",
        model("x):\nreturn F.max_pool2d(x, 2)", inputs="torch.randn(1, CHANNELS, 2 * H, 2 * W)"),
        {"CHANNELS": (1, 3), "H": (3, 7), "W": (4, 9)},
        (),
        (-9.0,),
    ),
)
