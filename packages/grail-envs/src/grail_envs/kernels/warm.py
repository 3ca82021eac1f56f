"""What a judgement does, done once in the zygote before it forks.

PyTorch and Triton load much at first use, and the processes of every judgement would each pay for it. No answer and no task of
a data set is in this: the kernel below is ours.
"""

from __future__ import annotations

import base64
import os

from grail_envs.kernels import compiling, interpreter, reference, tracing
from grail_envs.kernels.plan import Plan
from grail_envs.kernels.reading import read_answer
from grail_envs.kernels.running import POISONS, Kernels, Memory

_TASK = """
import torch
import torch.nn as nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
    def forward(self, x):
        return torch.softmax(self.linear(x), dim=-1)
def get_inputs():
    return [torch.randn(2, 8)]
def get_init_inputs():
    return []
"""
_ANSWER = """
import torch
import torch.nn as nn
import triton
import triton.language as tl

@triton.jit
def near(x, w, b, y, N: tl.constexpr):
    at = tl.arange(0, N)
    row = tl.load(x + tl.program_id(0) * N + at, mask=at < N, other=0.0)
    w = tl.load(w + at[:, None] * N + at[None, :])
    row = tl.exp(tl.sum(w * row[None, :], 1) + tl.load(b + at))
    tl.store(y + tl.program_id(0) * N + at, row / tl.max(row, 0), mask=at < N)

class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
    def forward(self, x):
        y = torch.empty_like(x)
        near[(x.shape[0],)](x, self.linear.weight, self.linear.bias, y, N=triton.next_power_of_2(8), num_warps=1)
        return y.contiguous()
"""


def warm_up() -> None:
    """One small judgement in this process, compared with nothing."""
    draw = reference.draw({"source": _TASK, "seed": 1})
    call = {"init": [], "inputs": [one[:3] for one in draw["inputs"]], "weights": [one[:3] for one in draw["weights"]]}
    plan = Plan.read(tracing.trace(_ANSWER, [call])["plans"][0])
    if os.environ.get("TRITON_INTERPRET") != "1":
        compiling.compile_launches(Kernels(read_answer(_ANSWER).module), plan.launches)
        return
    kernels = interpreter.kernels_of(read_answer(_ANSWER).module)
    contents = {f"input:{name}": base64.b64decode(raw) for name, _, _, raw in draw["inputs"]}
    contents |= {f"weight:{name}": base64.b64decode(raw) for name, _, _, raw in draw["weights"]}
    memory = Memory(plan, contents, "cpu", POISONS[0])
    watch = interpreter.Watch(memory, reverse=False)
    watch.carry_out(plan, kernels)
    for view in plan.outputs:
        watch.writers(view)
        memory.bytes_of(view)
