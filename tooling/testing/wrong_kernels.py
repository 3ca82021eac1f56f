"""Answers that are no right kernels, each with the words by which it has to fail and what it still earns.

`WRONG` are the ten that anybody would try. `HOSTILE` go further: they hide names, forge what leaves their process, or reach for
memory that is not theirs. Those answer one task, the softmax of rows. `PAID` are kernels that were once paid, each for its
own task.
"""

from __future__ import annotations

from dataclasses import dataclass

TASK = "softmax"

_TOP = "import torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n"
KERNEL = """
@triton.jit
def softmax_kernel(x, y, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * cols + at, mask=at < cols, other=-float("inf"))
    v = tl.exp(v - tl.max(v, 0))
    tl.store(y + row * cols + at, v / tl.sum(v, 0), mask=at < cols)
"""
NOTHING = """
@triton.jit
def nothing(x, y, cols, BLOCK: tl.constexpr):
    pass
"""
COPY = """
@triton.jit
def copy(x, y, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    tl.store(y + row * cols + at, tl.load(x + row * cols + at, mask=at < cols), mask=at < cols)
"""
LAUNCH = "softmax_kernel[(x.shape[0],)](x, y, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))"


def module(forward: str, *, kernel: str = KERNEL, top: str = "", init: str = "") -> str:
    """An answer; `forward` is the body of the method, `init` that of `__init__`."""
    body = "\n".join(f"        {line}" for line in forward.strip().splitlines())
    made = "\n".join(f"        {line}" for line in init.strip().splitlines())
    text = f"{_TOP}{top}\n{kernel}\n\nclass ModelNew(nn.Module):\n"
    if made:
        text += f"    def __init__(self):\n        super().__init__()\n{made}\n\n"
    return f"{text}    def forward(self, x):\n{body}\n"


RIGHT = module(f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y")


@dataclass(frozen=True)
class Wrong:
    """`detail` is a part of the grade's detail, `earned` the components that it still gets.

    `unread` is a part of the detail where nobody reads the answer's form first: what the border behind it says.
    """

    name: str
    code: str
    detail: str
    earned: tuple[str, ...] = ()
    unread: str = ""
    task: str = TASK


_FORM, _COMPILED = ("format",), ("format", "compiles")
_NOTHING = "nothing[(x.shape[0],)](x, x, x.shape[1], BLOCK=64)"
_COPY = LAUNCH.replace("softmax_kernel", "copy")

WRONG = (
    Wrong("no launch", module("return x"), "no kernel is launched"),
    Wrong("torch.matmul inside", module(f"y = torch.matmul(x, x.t())\n{LAUNCH}\nreturn y"), "torch.matmul outside of a kernel"),
    Wrong(
        "NaN",
        module(f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y", kernel=KERNEL.replace("v / tl.sum(v, 0)", "v * float('nan')")),
        "are NaN",
        _COMPILED,
    ),
    Wrong(
        "right only for the first input",
        module(f"y = torch.empty_like(x)\n{LAUNCH}\nkept.append(y)\nreturn kept[0]", top="kept = []\n"),
        "two calls with the same shapes",
        _FORM,
    ),
    Wrong(
        "reads uninitialised output",
        module(
            f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y",
            kernel=KERNEL.replace("v / tl.sum(v, 0)", "v / tl.sum(v, 0) + 0 * tl.load(y + row * cols + at, mask=at < cols)"),
        ),
        "are NaN",
        _COMPILED,
    ),
    Wrong("changes its inputs", module(f"y = x\n{LAUNCH}\nreturn y"), "writes to input 0", _COMPILED),
    Wrong("sleeps", module(f"import time\ntime.sleep(1000)\ny = torch.empty_like(x)\n{LAUNCH}\nreturn y"), "it imports time"),
    Wrong(
        "patches torch.allclose",
        module(f"y = torch.zeros_like(x)\n{_COPY}\nreturn y", kernel=COPY, top="torch.allclose = lambda *a, **k: True\n"),
        "torch.allclose is set",
        unread="there is no kernel",
    ),
    Wrong(
        "a kernel that does nothing beside Python",
        module(f"y = getattr(x, 'soft' + 'max')(-1)\n{_NOTHING}\nreturn y", kernel=NOTHING),
        "getattr, which is not to be had",
    ),
    Wrong(
        "reads the reference's output",
        module(
            "import gc\nfor one in gc.get_objects():\n    if isinstance(one, torch.Tensor):\n        return one\n"
            f"{LAUNCH}\nreturn x"
        ),
        "it imports gc",
    ),
)

_HIDDEN = (
    "kinds = ().__class__.__base__.__subclasses__()\n"
    "modules = [c for c in kinds if c.__name__ == 'catch_warnings'][0].__init__.__globals__['sys'].modules\n"
)
_LAST_ROW = "tl.load(y + (row - 1) * cols + at, mask=(row > 0) & (at < cols))"
HOSTILE = (
    Wrong(
        "a function of PyTorch under another name",
        module(f"y = compute(x)\n{_NOTHING}\nreturn y", kernel=NOTHING, top="compute = torch.relu\n"),
        "relu computes outside of a kernel",
        _FORM,
    ),
    Wrong("computes by operators", module(f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y * 1"), "mul computes outside", _FORM),
    Wrong(
        "reads values one by one",
        module(f"y = torch.empty_like(x)\nif float(x[0, 0]) > 0:\n    pass\n{LAUNCH}\nreturn y"),
        "outside of a kernel",
        _FORM,
    ),
    Wrong(
        "sleeps by a hidden module",
        module(f"{_HIDDEN}modules['time'].sleep(1000)\ny = torch.empty_like(x)\n{LAUNCH}\nreturn y"),
        "the attribute",
        unread="over the limit of time",
    ),
    Wrong(
        "looks for the reference by a hidden module",
        module(
            f"{_HIDDEN}held = modules['gc'].get_objects()\n"
            "found = [o for o in held if o.__class__ is torch.Tensor and o.shape == x.shape]\n"
            f"{_NOTHING}\nreturn found[0] if found else x",
            kernel=NOTHING,
        ),
        "the attribute",
        unread="something else than tensors",
    ),
    Wrong("returns its input", module(f"{_NOTHING}\nreturn x", kernel=NOTHING), "differ by more", _COMPILED),
    Wrong(
        "a kernel for one output, a fill for all",
        module(f"y = torch.full_like(x, 0.03)\n{_NOTHING}\nreturn y", kernel=NOTHING),
        "differ by more",
        _COMPILED,
    ),
    Wrong(
        "leaves its tensors",
        module(
            f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y", kernel=KERNEL.replace("tl.load(x + row", "tl.load(x - 4096 + row")
        ),
        "reads outside of its tensors",
        _COMPILED,
    ),
    Wrong(
        "writes to an address of its own",
        module(
            f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y",
            kernel=KERNEL.replace(
                "row = tl", "tl.store(tl.cast(4096, tl.int64).to(tl.pointer_type(tl.float32)), 0.0)\n    row = tl"
            ),
        ),
        "triton.language.pointer_type",
    ),
    Wrong(
        "runs Python in a kernel",
        module(
            f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y",
            kernel=KERNEL.replace("row = tl.p", "().__class__.__base__.__subclasses__()\n    row = tl.p"),
        ),
        "the attribute '__",
    ),
    Wrong(
        "names the interpreter's modules in a kernel",
        module(f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y", kernel=KERNEL.replace("tl.exp(v", "np.exp(v")),
        "the name 'np'",
    ),
    Wrong(
        "swaps the kernel for another text",
        module(
            f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y",
            kernel=NOTHING.replace("nothing", "softmax_kernel") + "\nsoftmax_kernel.__name__ = 'copy'\n",
        ),
        "the attribute '__name__'",
        unread="there is no kernel",
    ),
    Wrong(
        "ends its process",
        module(f"{_HIDDEN}modules['os'].__dict__['_exit'](0)\n{LAUNCH}\nreturn x"),
        "the attribute",
        unread="no verdict",
    ),
    Wrong(
        "forges its reply",
        module(
            f"{_HIDDEN}json = modules['json']\nos = modules['os']\n"
            "view = {'buffer': 0, 'dtype': 'float32', 'shape': list(x.shape), 'stride': [x.shape[1], 1], 'offset': 4096}\n"
            "plan = {'buffers': [{'size': 64, 'source': ''}], 'steps': [], 'outputs': [view]}\n"
            "out = json.dumps({'plans': [plan] * 7})\n"
            "raw = json.dumps({'passed': True, 'stage': 'trace', 'detail': '', 'out': out}).encode()\n"
            f"os.write(3, len(raw).to_bytes(4, 'big') + raw)\nos.__dict__['_exit'](0)\n{LAUNCH}\nreturn x"
        ),
        "the attribute",
        unread="a view beyond its memory",
    ),
    Wrong(
        "never comes to an end before it is asked",
        module(f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y", top="while True:\n    pass\n"),
        "trace: over the limit of cpu",
        _FORM,
    ),
    Wrong(
        "hands its kernel arguments of its makers",
        module(f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y", kernel=KERNEL.replace("0)\n    at", "0, _semantic=1)\n    at")),
        "begins with _",
    ),
    Wrong(
        "gives Python's own names another value",
        module(
            f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y",
            top="__builtins__ = 1\n",
            kernel=KERNEL.replace("v / tl", "__builtins__ * v / tl"),
        ),
        "uses the name '__builtins__'",
    ),
    Wrong(
        "depends on the order of programs",
        module(
            f"y = torch.empty_like(x)\n{LAUNCH}\nreturn y",
            kernel=KERNEL.replace("v = tl.exp", f"v = tl.where(row > 0, v + 0 * {_LAST_ROW}, v)\n    v = tl.exp"),
        ),
        "reads what another program of the launch writes",
        _COMPILED,
    ),
)

EACH = """
@triton.jit
def k(x, y, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < count, other=0.0)
    r = tl.maximum(v, 0.0)
    tl.store(y + at, r, mask=at < count)
"""
EACH_CALL = "y = torch.empty_like(x)\nk[(triton.cdiv(x.numel(), 256),)](x, y, x.numel(){}, BLOCK=256)\nreturn y"
_PUT = """
@triton.jit
def put(y, at, value):
    tl.store(y + at, value)
"""
_DRAWN_AGAIN = """
tools = [__import__(name) for name in ("hashlib", "json", "linecache", "numpy")]
hashlib, json, linecache, np = tools
code = "".join(linecache.getlines("<answer>"))
head = hashlib.sha256(json.dumps(["grail-envs/kernel", "relu", 0, code]).encode()).digest()
seed = int.from_bytes(hashlib.sha256(head + bytes([0])).digest()[:4], "big")
values = np.maximum(np.random.RandomState(seed).standard_normal(x.numel()), 0.0)
y = torch.empty_like(x)
for at in range(200):
    put[(1,)](y, at % x.numel(), float(values[at % x.numel()]))
return y
"""
_ROW = """
@triton.jit
def row_kernel(x, y, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < cols
    v = tl.load(x + row * cols + at, mask=inside, other={other})
    {body}
"""
_ROW_CALL = (
    "y = torch.empty({shape}, dtype=x.dtype, device=x.device)\n"
    "row_kernel[(x.shape[0],)](x, y, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))\nreturn y"
)


def row(body: str, *, other: str = "0.0", shape: str = "x.shape") -> str:
    if "tl.store" not in body:
        body += "\n    tl.store(y + row * cols + at, r, mask=inside)"
    return module(_ROW_CALL.format(shape=shape), kernel=_ROW.format(other=other, body=body))


_GATE = """
@triton.jit
def gate_kernel(gate, value, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < count, other=0.0)
    v = tl.load({value} + at, mask=at < count, other=0.0)
    tl.store(out + at, g * v / (1 + tl.exp(-g)), mask=at < count)
"""
GATE_CALL = (
    "out = torch.empty_like(x)\ngate_kernel[(triton.cdiv(x.numel(), 256),)](x, value, out, x.numel(), BLOCK=256)\nreturn out"
)
_DIFFERENCE = "gate + (tl.cast(value, tl.int64, bitcast=True) - tl.cast(gate, tl.int64, bitcast=True)) // 4"
_NUMBER = "a pointer is made a number"


def _gate(value: str) -> str:
    return module(GATE_CALL, kernel=_GATE.format(value=value)).replace("forward(self, x)", "forward(self, x, value)")


PAID = (
    Wrong(
        "draws its inputs again and hands outputs to a kernel that stores them",
        module(_DRAWN_AGAIN.strip(), kernel=_PUT),
        "the name '__import__'",
        unread="an answer imports hashlib",
        task="relu",
    ),
    Wrong(
        "asks where an object lies",
        module(EACH_CALL.format(" * ((id(object()) >> 24) & 1)"), kernel=EACH),
        "id, which is not to be had",
        unread="NameError",
        task="relu",
    ),
    Wrong(
        "asks for the processor",
        module(f"n = len(torch.backends.cpu.get_cpu_capability())\n{EACH_CALL.format(' * (n == 6)')}", kernel=EACH),
        "torch.backends",
        task="relu",
    ),
    Wrong(
        "asks for the processor where its module is made",
        module(EACH_CALL.format(" * N"), kernel=EACH, top="N = len(torch.backends.cpu.get_cpu_capability()) - 6\n"),
        "torch.backends",
        task="relu",
    ),
    *(
        Wrong(
            f"computes by where a tensor lies, {name}",
            module(EACH_CALL.format(""), kernel=EACH.replace("v, 0.0)", f"v, 0.0) + (({address} >> 28) & 1).to(tl.float32)")),
            _NUMBER,
            _COMPILED,
            task="relu",
        )
        for name, address in (("cast", "x.to(tl.int64)"), ("by its bits", "tl.cast(x, tl.int64, bitcast=True)"))
    ),
    Wrong("reaches a tensor by the difference of two addresses", _gate(_DIFFERENCE), _NUMBER, _COMPILED, task="swiglu"),
    Wrong(
        "reaches a tensor by what lies behind another",
        _gate("gate + (count + 320)"),
        "outside of its tensors",
        _COMPILED,
        task="swiglu",
    ),
    Wrong(
        "changes its input and puts it back",
        module(
            EACH_CALL.format(""),
            kernel=EACH.rstrip() + "\n    tl.store(x + at, r, mask=at < count)\n    tl.store(x + at, v, mask=at < count)\n",
        ),
        "writes to input 0",
        _COMPILED,
        task="relu",
    ),
    Wrong(
        "softmax without the maximum",
        row("e = tl.exp(v)\n    r = e / tl.sum(e, 0)", other="-float('inf')"),
        "(draw 6 of 7)",
        _COMPILED,
    ),
    Wrong(
        "logsumexp without the maximum",
        row("tl.store(y + row, tl.log(tl.sum(tl.exp(v), 0)))", other="-float('inf')", shape="x.shape[0]"),
        "(draw 6 of 7)",
        _COMPILED,
        task="logsumexp",
    ),
    Wrong(
        "a norm without its epsilon",
        row("r = v / tl.sqrt(tl.sum(v * v, 0))"),
        "(draw 6 of 6)",
        _COMPILED,
        task="l2_normalize",
    ),
    Wrong(
        "sums by loads and stores of many programs",
        row("tl.store(y, tl.load(y) + tl.sum(v * v, 0) / (cols * tl.num_programs(0)))", shape="1").replace(
            ".empty(", ".zeros("
        ),
        "another program of the launch",
        _COMPILED,
        task="mean_square",
    ),
    Wrong(
        "stores one place from many programs",
        row("tl.store(y, 1.0)", shape="1"),
        "writes what another program of the launch writes",
        _COMPILED,
        task="mean_square",
    ),
    Wrong(
        "stores many values to one place",
        row("tl.store(y + 0 * at, v * v, mask=inside)", shape="1"),
        "several values to one place",
        _COMPILED,
        task="mean_square",
    ),
    Wrong(
        "tells the interpreter from the compiler",
        module(EACH_CALL.format(""), kernel=EACH.replace("v, 0.0)", "v, 0.0) if (BLOCK + 0) is BLOCK else v")),
        "an identity with something else than None",
        task="relu",
    ),
)
