"""What may stand in a kernel: the part of Python that Triton compiles, as a closed list of forms and names.

A kernel's text is run by Triton's interpreter as Python, on the very data. So it is held to this list first, by whoever is to
run or to compile it: no import, no attribute but of `triton.language` or of a tensor, no call but of those, of other kernels
and of a few builtins. What Triton itself makes of it, its compiler says afterwards. Standard library only.
"""

from __future__ import annotations

import ast
import math as _math
import operator
from collections.abc import Callable
from typing import Any, Final

_LANGUAGE_NAMES = """
abs add arange argmax argmin associative_scan assume atomic_add atomic_and atomic_cas atomic_max atomic_min atomic_or
atomic_xchg atomic_xor bfloat16 broadcast broadcast_to cast cat cdiv ceil clamp constexpr cos cumprod cumsum
debug_barrier div_rn dot erf exp exp2 expand_dims fdiv flip float16 float32 float64 floor fma full gather histogram int1
int16 int32 int64 int8 interleave join load log log2 max max_constancy max_contiguous maximum min minimum mul multiple_of
num_programs permute philox program_id rand randint randn range ravel reduce reshape rsqrt sigmoid sin softmax sort
split sqrt sqrt_rn squeeze static_assert static_range store sub sum swizzle2d topk trans uint16 uint32 uint64 uint8
umulhi unsqueeze where xor_sum zeros zeros_like
"""
LANGUAGE_NAMES: Final = frozenset(_LANGUAGE_NAMES.split())
"""Of `triton.language`. Left out: assembly, printing, polling, the types of its own implementation, 8-bit floats."""

_MATH_NAMES = """
abs ceil cos div_rn erf exp exp2 fdiv floor fma log log2 rsqrt sin sqrt sqrt_rn umulhi
"""
MATH_NAMES: Final = frozenset(_MATH_NAMES.split())
"""Of `triton.language.math`."""

_TENSOR_NAMES = """
T abs argmax argmin associative_scan broadcast_to cast cdiv ceil cos cumprod cumsum dtype element_ty erf exp
exp2 expand_dims flip floor gather histogram log log2 logical_and logical_or max min numel permute
primitive_bitwidth ravel reduce reshape rsqrt shape sigmoid sin softmax sort split sqrt sqrt_rn sum to trans type
value xor_sum
"""
TENSOR_NAMES: Final = frozenset(_TENSOR_NAMES.split())
"""Of a tensor, a pointer, a descriptor, a type or a constant."""

BUILTINS: Final = frozenset({"range", "min", "max", "float", "int", "len"})
INSTEAD: Final = {
    "view": "tl.reshape", "make_tensor_descriptor": "pointers: a descriptor needs an allocator, which no launch has here",
    "load_tensor_descriptor": "tl.load", "store_tensor_descriptor": "tl.store", "device_print": "the kernel without it",
    "abs": "tl.abs", "bool": "x != 0", "str": "the kernel without it",
}  # fmt: skip
"""What to write in the place of a name that no kernel has here."""
MOST_POWER: Final = 8
CONSTANT_FUNCTIONS: Final = frozenset({"sqrt", "log", "log2", "exp", "pi", "e"})
"""Of `math`, in the value of a constant at the top of the module."""

MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 60

_STATEMENTS = (
    ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.Expr, ast.Pass, ast.Assert,
)  # fmt: skip
_EXPRESSIONS = (
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.Call, ast.Constant, ast.Attribute, ast.Subscript, ast.Slice,
    ast.Name, ast.Tuple, ast.List,
)  # fmt: skip
_OPERATIONS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_PARTS = (ast.keyword, ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


class LanguageError(Exception):
    """What stands in a kernel, or beside one, that is no part of the language; its text is for a person."""


class Modules:
    """The names under which a module knows `triton`, `triton.language` and `math`."""

    def __init__(self, triton: set[str], language: set[str], mathematics: set[str]) -> None:
        self.triton = triton
        self.language = language
        self.mathematics = mathematics
        self.jit: set[str] = set()
        """Names of `triton.jit` itself."""

    def language_name(self, node: ast.expr) -> str | None:
        """`load` of `tl.load` and of `triton.language.load`, `math.exp` of `tl.math.exp`; None for anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        parts.reverse()
        if node.id in self.triton:
            if parts[:1] == ["language"]:
                return ".".join(parts[1:])
            return parts[0] if parts in (["cdiv"], ["next_power_of_2"]) else None
        return ".".join(parts) if node.id in self.language and parts else None


def check_kernel(kernel: ast.FunctionDef, known: set[str], modules: Modules) -> None:
    """Hold one function to the list. `known` are the kernels and constants of its module.

    Raises:
        LanguageError: something else stands in it.
    """
    arguments = kernel.args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        raise LanguageError(f"the kernel {kernel.name} takes * or positional-only parameters")
    own = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
    for argument in (*arguments.args, *arguments.kwonlyargs):
        if argument.annotation is not None and not _is_annotation(argument.annotation, modules):
            raise LanguageError(
                f"the parameter {argument.arg} of {kernel.name} is annotated by something else than tl.constexpr or a type"
            )
    for default in (*arguments.defaults, *(one for one in arguments.kw_defaults if one is not None)):
        constant_value(default, {}, modules)
    stored = {node.id for node in ast.walk(kernel) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names = {*own, *stored}
    for name in (kernel.name, *names):
        check_name(name, f"the kernel {kernel.name}")
    taken = names & (modules.triton | modules.language | modules.mathematics | known)
    if taken:
        raise LanguageError(f"the kernel {kernel.name} gives another meaning to {min(taken)}")
    check = _Body(kernel.name, names | known | BUILTINS, known, modules)
    for statement in kernel.body:
        check.statement(statement)


class _Body:
    """The statements of one kernel."""

    def __init__(self, kernel: str, names: set[str], known: set[str], modules: Modules) -> None:
        self._kernel = kernel
        self._names = names
        self._known = known
        self._modules = modules

    def statement(self, node: ast.stmt) -> None:
        if not isinstance(node, _STATEMENTS):
            raise self._no(node, "no statement of a kernel")
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not all(target is None or _is_target(target) for target in targets):
            raise self._no(node, "something else than a name that is set")
        if isinstance(node, ast.For) and not self._is_counted(node.iter):
            raise self._no(node, "a loop over something else than range, tl.range or tl.static_range")
        if not isinstance(node, ast.Expr | ast.AnnAssign) and any(_is_text(one) for one in ast.iter_child_nodes(node)):
            raise self._no(node, _TEXT)
        if (isinstance(node, ast.For) and node.orelse) or (isinstance(node, ast.While) and node.orelse):
            raise self._no(node, "a loop with else")
        for field, value in ast.iter_fields(node):
            if field == "annotation":
                if not _is_annotation(value, self._modules):
                    raise self._no(node, "another annotation than tl.constexpr")
                continue
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.stmt):
                    self.statement(part)
                elif isinstance(part, ast.expr):
                    self.expression(part)

    def expression(self, node: ast.AST) -> None:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not _is_small(node.right):
            raise self._no(node, f"a power by ** with another exponent than a number from 0 to {MOST_POWER}")
        if not isinstance(node, ast.Call | ast.keyword | ast.Compare) and any(
            _is_text(one) for one in ast.iter_child_nodes(node)
        ):
            raise self._no(node, _TEXT)
        if isinstance(node, _PARTS):
            if isinstance(node, ast.keyword):
                if node.arg is None or node.arg.startswith("_"):
                    raise self._no(node.value, "arguments by ** or with a name that begins with _")
                self.expression(node.value)
            return
        if not isinstance(node, _EXPRESSIONS):
            raise self._no(node, "no expression of a kernel")
        if isinstance(node, ast.Compare) and not _compares_values(node):
            raise self._no(node, "an identity with something else than None, or `in`")
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes | complex):
            raise self._no(node, "a constant of another kind")
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load) and node.id not in self._names:
                raise self._no(node, f"the name {node.id[:40]!r}, which no kernel knows{_instead(node.id)}")
            return
        if isinstance(node, ast.Attribute):
            self._attribute(node)
            return
        if isinstance(node, ast.Call):
            self._callee(node)
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.Call) and child is node.func):
                self.expression(child)

    def _attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store | ast.Del):
            raise self._no(node, "an attribute that is set")
        said = self._modules.language_name(node)
        if said is not None:
            first, _, rest = said.partition(".")
            if first == "math" and rest in MATH_NAMES:
                return
            if said in ("cdiv", "next_power_of_2") or (first in LANGUAGE_NAMES and not rest):
                return
            if first in LANGUAGE_NAMES and rest in ("primitive_bitwidth",):
                return
            raise self._no(node, f"triton.language.{said[:60]}, which is not allowed here{_instead(said)}")
        if node.attr not in TENSOR_NAMES:
            raise self._no(node, f"the attribute {node.attr[:40]!r}{_instead(node.attr)}")
        self.expression(node.value)

    def _callee(self, node: ast.Call) -> None:
        func = node.func
        if isinstance(func, ast.Name):
            if func.id not in self._known and func.id not in BUILTINS:
                raise self._no(node, f"a call of {func.id[:40]!r}, which is no kernel{_instead(func.id)}")
        elif isinstance(func, ast.Attribute):
            self._attribute(func)
        else:
            raise self._no(node, "a call of what is no name")
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            raise self._no(node, "arguments by *")
        if _reorders(node):
            raise self._no(node, "can_reorder: in which order, only a compiler knows")

    def _is_counted(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Call):
            return False
        said = self._modules.language_name(node.func)
        return said in ("range", "static_range") or (isinstance(node.func, ast.Name) and node.func.id == "range")

    def _no(self, node: ast.AST, what: str) -> LanguageError:
        return LanguageError(f"in the kernel {self._kernel}, line {getattr(node, 'lineno', 0)}: {what} ({type(node).__name__})")


def constant_value(node: ast.expr, known: dict[str, object], modules: Modules) -> object:
    """The value of a constant beside the kernels: numbers, texts, earlier constants, sums and products of them.

    Raises:
        LanguageError: it is something else.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _number(lambda: -constant_value(node.operand, known, modules))  # type: ignore[operator]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv):
        left, right = (constant_value(side, known, modules) for side in (node.left, node.right))
        if not all(isinstance(side, int | float) for side in (left, right)):
            raise LanguageError("a constant is made of something else than numbers")
        return _number(lambda: _OPERATIONS[type(node.op)](left, right))
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        if modules.language_name(node.func) == "constexpr":
            return constant_value(node.args[0], known, modules)
        if isinstance(node.func, ast.Name) and node.func.id == "float":
            text = constant_value(node.args[0], known, modules)
            return _number(lambda: float(str(text)[:40]))
        name = _mathematics(node.func, modules)
        if name in CONSTANT_FUNCTIONS - {"pi", "e"}:
            value = constant_value(node.args[0], known, modules)
            return _number(lambda: getattr(_math, str(name))(value))
    if _mathematics(node, modules) in ("pi", "e"):
        return getattr(_math, str(_mathematics(node, modules)))
    said = modules.language_name(node)
    if said in ("float16", "bfloat16", "float32", "float64", "int32", "int64"):
        return node  # a type: whoever runs the module evaluates it
    raise LanguageError("a constant that is no number")


def _number(compute: Callable[[], object]) -> object:
    try:
        value = compute()
    except (ArithmeticError, ValueError, TypeError) as error:
        raise LanguageError(f"a constant cannot be computed: {type(error).__name__}") from None
    if not isinstance(value, int | float) or (isinstance(value, int) and abs(value) >= 2**64):
        raise LanguageError("a constant is no number of 64 bits")
    return value


def _mathematics(node: ast.expr, modules: Modules) -> str | None:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules.mathematics:
        return node.attr
    return None


def _compares_values(node: ast.Compare) -> bool:
    """Whether nothing is asked of objects: `is` tells the interpreter from the compiler, but for None."""
    if any(isinstance(operator, ast.In | ast.NotIn) for operator in node.ops):
        return False
    if not any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
        return True
    return len(node.ops) == 1 and isinstance(node.comparators[0], ast.Constant) and node.comparators[0].value is None


_TEXT: Final = "text, which may only be an argument or be compared"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_small(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= MOST_POWER


def _is_target(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return all(isinstance(one, ast.Name) for one in node.elts)
    return isinstance(node, ast.Name)


def _reorders(node: ast.Call) -> bool:
    """Whether a call lets the compiler put elements in another order: `tl.cat` does unless it is told not to."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    said = [one.value for one in node.keywords if one.arg == "can_reorder"]
    if any(not (isinstance(one, ast.Constant) and one.value is False) for one in said):
        return True
    return (name == "cat" and len(node.args) > 2) or (name == "ravel" and len(node.args) > 1)


def _instead(name: str) -> str:
    return f" (write {INSTEAD[name]})" if name in INSTEAD else ""


def is_constant_annotation(node: ast.expr, modules: Modules) -> bool:
    """Whether a parameter so annotated is a constant: `tl.constexpr`, or that as text."""
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return modules.language_name(node) == "constexpr" or text in {
        "constexpr",
        *(f"{one}.constexpr" for one in modules.language),
    }


def _is_annotation(node: ast.expr, modules: Modules) -> bool:
    """Also those that say nothing to Triton, for a reader: they are left out of what is compiled."""
    is_said = ast.unparse(node) in ("int", "float", "bool", "torch.Tensor", "'int'", "'float'", "'bool'", "'torch.Tensor'")
    return is_said or modules.language_name(node) == "tensor" or is_constant_annotation(node, modules)


def check_name(name: str, where: str) -> None:
    """Refuse a name that Python gives a meaning of its own.

    Raises:
        LanguageError: it is one.
    """
    if "__" in name:
        raise LanguageError(f"{where[:60]} uses the name {name[:40]!r}")
