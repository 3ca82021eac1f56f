"""What may stand in an answer beside its kernels: the part of Python that plans launches, as a closed list of forms and names.

Its verdict may not depend on the machine that runs it, so nothing here leads to one: no name of a module as a value, no
attribute that begins with _ (but on `self`), no frame, no `id`, `hash`, `getattr`, `open`, no `try`, no set that is walked.
`tracing` runs what is left with builtins of its own. Standard library only.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable
from typing import Final

from grail_envs.kernels.kernel_language import LanguageError

_BUILTINS = """
ArithmeticError AssertionError AttributeError Ellipsis Exception False IndexError KeyError None NotImplementedError
RuntimeError True TypeError ValueError ZeroDivisionError abs all any bool callable classmethod dict divmod enumerate
filter float int isinstance issubclass len list map max min next object pow print property range reversed round slice
sorted staticmethod str sum super tuple zip
"""
HOST_BUILTINS: Final = frozenset(_BUILTINS.split())
"""Left out: what tells where an object lies (`id`, `hash`, `repr`), what finds by text (`getattr`), files, code, sets."""

_TORCH = """
empty empty_like empty_strided zeros zeros_like ones ones_like full full_like no_grad inference_mode enable_grad device
dtype Size Tensor float16 bfloat16 float32 float64 half float double int8 int16 int32 int64 uint8 bool long int
contiguous_format channels_last channels_last_3d is_tensor reshape transpose permute broadcast_shapes finfo iinfo
unsqueeze squeeze
"""
TORCH_NAMES: Final = frozenset(_TORCH.split())
"""What `forward` may take from `torch`: memory, shapes, types."""

_COMPUTING = """
abs add addmm all allclose amax amin any arange argmax argmin baddbmm bmm cat chunk clamp concat cos cross cumprod
cumsum diag div dot einsum erf exp eye flatten gelu log logsumexp manual_seed masked_fill matmul max maximum mean min
minimum mm mul mv norm ones_like pow prod rand rand_like randint randn randn_like relu rsqrt sigmoid sin softmax sort
split sqrt square squeeze stack std sub sum tanh tensor tril triu unsqueeze var where
"""
_FUNCTIONAL = """
adaptive_avg_pool2d avg_pool1d avg_pool2d batch_norm binary_cross_entropy conv1d conv2d conv3d conv_transpose1d
conv_transpose2d cosine_similarity cross_entropy dropout elu embedding gelu group_norm hardsigmoid hardswish hardtanh
hinge_embedding_loss huber_loss instance_norm interpolate kl_div l1_loss layer_norm leaky_relu linear log_softmax
logsigmoid max_pool1d max_pool2d mish mse_loss nll_loss normalize one_hot pad prelu relu relu6 rms_norm
scaled_dot_product_attention selu sigmoid silu smooth_l1_loss softmax softplus softsign tanh triplet_margin_loss
"""
_CUDA = "current_device device device_count get_device_capability get_device_properties is_available synchronize"
_INIT = """
" _calculate_fan_in_and_fan_out calculate_gain constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_
orthogonal_ sparse_ trunc_normal_ uniform_ xavier_normal_ xavier_uniform_ zeros_
"""
_LAYERS = """
AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool2d AvgPool1d AvgPool2d AvgPool3d BCELoss
BCEWithLogitsLoss BatchNorm1d BatchNorm2d BatchNorm3d Bilinear CELU Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d
ConvTranspose3d CosineEmbeddingLoss CrossEntropyLoss Dropout Dropout1d Dropout2d ELU Embedding Flatten GELU GLU GRU GRUCell
GroupNorm Hardshrink Hardsigmoid Hardswish Hardtanh HingeEmbeddingLoss HuberLoss Identity InstanceNorm1d InstanceNorm2d
InstanceNorm3d KLDivLoss L1Loss LSTM LSTMCell LayerNorm LeakyReLU Linear LogSigmoid LogSoftmax MSELoss MaxPool1d MaxPool2d
MaxPool3d Mish Module ModuleDict ModuleList MultiheadAttention NLLLoss PReLU Parameter ParameterList PixelShuffle RMSNorm RNN
RNNCell ReLU ReLU6 SELU Sequential SiLU Sigmoid SmoothL1Loss Softmax Softmin Softplus Softshrink Softsign Tanh Threshold
TransformerEncoderLayer TripletMarginLoss Unflatten Upsample ZeroPad2d
"""
_TYPING = """
Any Callable ClassVar Dict Final Iterable Iterator List Literal Mapping NamedTuple Optional Sequence TYPE_CHECKING Tuple
Type Union cast
"""
_KINDS = "bfloat16 constexpr dtype float16 float32 float64 int1 int16 int32 int64 int8 tensor uint16 uint32 uint64 uint8"
NESTED: Final = frozenset({
    "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.nn.parameter", "torch.cuda", "torch.autograd", "triton.language",
    "triton.language.math",
})  # fmt: skip
"""Modules within modules, none of which is a value."""

_LEAVES: Final[dict[str, frozenset[str]]] = {
    "torch": TORCH_NAMES | frozenset(_COMPUTING.split()),
    "torch.cuda": frozenset(_CUDA.split()),
    "torch.autograd": frozenset({"Function"}),
    "torch.nn": frozenset(_LAYERS.split()),
    "torch.nn.functional": frozenset(_FUNCTIONAL.split()),
    "torch.nn.init": frozenset(_INIT.split()),
    "torch.nn.parameter": frozenset({"Parameter"}),
    "triton": frozenset({"Config", "autotune", "cdiv", "heuristics", "jit", "next_power_of_2"}),
    "triton.language": frozenset(_KINDS.split()),
    "typing": frozenset(_TYPING.split()),
    "dataclasses": frozenset({"dataclass", "field"}),
    "functools": frozenset({"cache", "lru_cache", "partial", "reduce"}),
    "collections": frozenset({"OrderedDict", "defaultdict", "deque", "namedtuple"}),
    "enum": frozenset({"Enum", "IntEnum", "auto"}),
    "__future__": frozenset({"annotations"}),
}
_FRAMES = """
gi_frame gi_code cr_frame ag_frame tb_frame f_back f_builtins f_code f_globals f_locals co_consts mro format format_map
data_ptr storage untyped_storage storage_type numpy with_traceback func_globals compile share_memory share_memory_ rewriter
get_parameter get_submodule get_buffer
"""
_CLOSED: Final = frozenset(_FRAMES.split())
"""Attributes that lead out of the list, or to where something lies."""

INSTEAD: Final = {
    "functools.wraps": "a decorator without it",
    "triton.language.cdiv": "triton.cdiv",
    "triton.set_allocator": "pointers in the place of descriptors",
    "triton.language.make_tensor_descriptor": "pointers in the place of descriptors",
    "typing.Text": "str",
}
"""What to write in the place of a name that is not to be had."""

_METHODS: Final = frozenset({"__init__", "__call__", "__post_init__"})
_FORBIDDEN = (ast.Try, ast.TryStar, ast.Match, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await, ast.Yield,
              ast.YieldFrom, ast.SetComp)  # fmt: skip
GUARDED: Final = (ast.Mod, ast.BitOr, ast.BitAnd, ast.BitXor, ast.Sub)
"""Operators that make texts of objects, or sets of dictionaries' views: `tracing` looks at their operands first."""


def is_allowed(path: str) -> bool:
    """Whether this name of a module, dotted from its root, may be taken: `torch.empty`, `torch.nn.Linear`, `math.sqrt`."""
    module, _, name = path.rpartition(".")
    return not name.startswith("_") if module == "math" else name in _LEAVES.get(module, ())


def instead_of(path: str) -> str:
    """What to say of a name that may not be taken: what to write in its place, where there is something."""
    return f" (write {INSTEAD[path]})" if path in INSTEAD else ""


def check_host(tree: ast.Module, kernels: Iterable[ast.FunctionDef], aliases: dict[str, str]) -> None:
    """Hold all of an answer but the bodies of its kernels to the list; `aliases` are its names of modules, by what they name.

    Raises:
        LanguageError: something else stands in it.
    """
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    closed = {name for name in dir(builtins) if "__" not in name} - HOST_BUILTINS - bound
    _Host({id(kernel) for kernel in kernels}, aliases, closed).visit(tree)


class _Host(ast.NodeVisitor):
    def __init__(self, kernels: set[int], aliases: dict[str, str], closed: set[str]) -> None:
        self._kernels = kernels
        self._aliases = aliases
        self._closed = closed

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, _FORBIDDEN):
            raise _no(node, f"{type(node).__name__} beside a kernel")
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._named(node, node.name, _METHODS)
        if id(node) in self._kernels:  # its body is held to `kernel_language`
            returns = [node.returns] if node.returns else []
            for part in (*node.decorator_list, node.args, *returns, *getattr(node, "type_params", [])):
                self.visit(part)
        else:
            self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._named(node, node.name)
        if node.keywords:
            raise _no(node, "a class with keywords")
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self._named(node, node.arg)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        self._named(node, node.asname or "")

    def visit_Name(self, node: ast.Name) -> None:
        self._named(node, node.id, frozenset({"__name__"} if isinstance(node.ctx, ast.Load) else {"__all__"}))
        if node.id in self._aliases:
            raise _no(node, f"the module {node.id} as a value, or another meaning of its name")
        if node.id in self._closed:
            raise _no(node, f"{node.id}, which is not to be had beside a kernel")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        parts: list[ast.Attribute] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            parts.append(base)
            base = base.value
        parts.reverse()
        if isinstance(base, ast.Name) and base.id in self._aliases:
            parts = self._behind_module(base.id, parts)
        else:
            self.visit(base)
        own = isinstance(base, ast.Name) and base.id in ("self", "cls")
        for number, part in enumerate(parts):
            private = part.attr.startswith("__") or (part.attr.startswith("_") and not (own and number == 0))
            is_made = part.attr == "__init__" and isinstance(base, ast.Call) and number == 0  # super().__init__
            if part.attr in _CLOSED or part.attr == "_cdata" or (private and not is_made):
                raise _no(part, f"the attribute {part.attr[:40]!r} beside a kernel")

    def _behind_module(self, name: str, parts: list[ast.Attribute]) -> list[ast.Attribute]:
        """The attributes behind the first name that is a value."""
        path = self._aliases[name]
        for number, part in enumerate(parts):
            path = f"{path}.{part.attr}"
            if not isinstance(part.ctx, ast.Load):
                raise _no(part, f"{path[:60]} is set")
            if path not in NESTED:
                if not is_allowed(path):
                    raise _no(part, f"{path[:60]} is not to be had beside a kernel{instead_of(path)}")
                return parts[number + 1 :]
        raise _no(parts[-1], f"the module {path} as a value")

    def visit_Compare(self, node: ast.Compare) -> None:
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(right, ast.Set) and isinstance(operator, ast.In | ast.NotIn):
                for element in right.elts:
                    self.visit(element)
            else:
                self.visit(right)
        self.visit(node.left)

    def visit_Set(self, node: ast.Set) -> None:
        raise _no(node, "a set that is more than looked into")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, GUARDED) and not isinstance(node.target, ast.Name):
            raise _no(node, f"{type(node.op).__name__} in place of an attribute or an element")
        self.generic_visit(node)

    def _named(self, node: ast.AST, name: str, besides: frozenset[str] = frozenset()) -> None:
        if "__" in name and name not in besides:
            raise _no(node, f"the name {name[:40]!r}")


def _no(node: ast.AST, what: str) -> LanguageError:
    return LanguageError(f"line {getattr(node, 'lineno', 0)}: {what}")
