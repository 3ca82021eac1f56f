"""Kernels as the compiler understands them: what Python and Triton's interpreter take in another way, done as on a GPU.

The interpreter runs a kernel as Python, where loops count without end, `and` gives an operand, `min` a number of Python's,
and text is made of anything. `module_for_interpreter` puts calls in the place of those forms, and `names` are what they call:
a loop's variable and a launch's numbers have Triton's types, constants are numbers, truth is taken of one value alone,
and an operator takes numbers, not text and not where a tensor lies. What remains is held to `interpreter`.
"""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_MOST_BITS: Final = 64
_FORM, _COMPARE, _JOINED, _CHOOSE = "__grail_operate__", "__grail_compare__", "__grail_join__", "__grail_choose__"
_TRUTH, _PLAIN, _RESULT, _SEEN = "__grail_truth__", "__grail_plain__", "__grail_result__", "__grail_seen__"
_SINGLE: Final = "__grail_single__"

_OPERATIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "Add": operator.add, "Sub": operator.sub, "Mult": operator.mul, "Div": operator.truediv, "FloorDiv": operator.floordiv,
    "Mod": operator.mod, "Pow": operator.pow, "LShift": operator.lshift, "RShift": operator.rshift,
    "BitAnd": operator.and_, "BitOr": operator.or_, "BitXor": operator.xor, "MatMult": operator.matmul,
    "Eq": operator.eq, "NotEq": operator.ne, "Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt, "GtE": operator.ge,
}  # fmt: skip
_SINGLES: Final[dict[str, Callable[[Any], Any]]] = {"USub": operator.neg, "UAdd": operator.pos, "Invert": operator.invert}


class AccessError(Exception):
    """A kernel does what no GPU would do, or asks where a tensor lies; the text says how."""


def module_for_interpreter(module: str) -> str:
    """The text of a module of kernels, with calls in the place of the forms that Python understands in another way."""
    return ast.unparse(ast.fix_missing_locations(_Agreeing().visit(ast.parse(module))))


def names() -> dict[str, Any]:
    """What such a module calls by name."""
    return {
        _FORM: operate, _COMPARE: compare, _JOINED: joined, _CHOOSE: choose, _TRUTH: truth, _PLAIN: plain, _RESULT: result,
        _SINGLE: single, "range": loop, "min": _extreme("min"), "max": _extreme("max"), "int": _static(int),
        "float": _static(float), "len": _static(len),
    }  # fmt: skip


def is_pointer(value: Any) -> bool:
    """Whether a tensor of a kernel holds addresses."""
    return isinstance(value, tl.tensor) and isinstance(value.dtype.scalar, tl.pointer_type)


def plain(value: Any) -> Any:
    """A constant as Python has it, anything else as it is."""
    return value.value if isinstance(value, tl.constexpr) else value


def operate(name: str, left: Any, right: Any) -> Any:
    """`left name right`.

    Raises:
        AccessError: an operand is text or an address where none may be, or the number is larger than a GPU has.
    """
    left, right = plain(left), plain(right)
    pointers = is_pointer(left), is_pointer(right)
    if any(pointers) and not (name == "Add" and pointers != (True, True)) and not (name == "Sub" and pointers == (True, False)):
        raise AccessError("a pointer is made a number: only a whole number may be added to it or taken from it")
    if isinstance(left, tl.tensor) or isinstance(right, tl.tensor):
        other = right if isinstance(left, tl.tensor) else left
        if not isinstance(other, tl.tensor | int | float):
            raise AccessError(f"an operator on a {type(other).__name__} in a kernel")
        return _OPERATIONS[name](left, right)
    if isinstance(left, tuple) and isinstance(right, tuple) and name == "Add":
        return left + right
    if not (isinstance(left, int | float) and isinstance(right, int | float)):
        raise AccessError(f"an operator on a {type(left).__name__} and a {type(right).__name__} in a kernel")
    if name in ("LShift", "Pow") and abs(right) > _MOST_BITS:
        raise AccessError("a constant of more than 64 bits")
    value = _OPERATIONS[name](left, right)
    if isinstance(value, complex) or (isinstance(value, int) and abs(value) >= 2**_MOST_BITS):
        raise AccessError("a constant of more than 64 bits")
    return value


def single(name: str, value: Any) -> Any:
    """`name value`; `not` of a tensor is one of its elements."""
    value = plain(value)
    if is_pointer(value):
        raise AccessError("a pointer is made a number")
    if name == "Not":
        return value.__not__() if isinstance(value, tl.tensor) else not value
    return _SINGLES[name](value)


def compare(kinds: tuple[str, ...], *parts: Callable[[], Any]) -> Any:
    """One comparison or a chain of them, each part looked at once and in order."""
    left = plain(parts[0]())

    def found() -> Iterator[Any]:
        nonlocal left
        for kind, part in zip(kinds, parts[1:], strict=True):
            right = plain(part())
            yield _compared(kind, left, right)
            left = right

    values = found()
    return next(values) if len(kinds) == 1 else _joined("And", values)


def _compared(kind: str, left: Any, right: Any) -> Any:
    if is_pointer(left) or is_pointer(right):
        raise AccessError("a pointer is compared, as if it were a number")
    if isinstance(left, tl.tensor) != isinstance(right, tl.tensor):
        other = right if isinstance(left, tl.tensor) else left
        if not isinstance(other, int | float):
            raise AccessError(f"a comparison with a {type(other).__name__} in a kernel")
    return _OPERATIONS[kind](left, right)


def joined(name: str, *parts: Callable[[], Any]) -> Any:
    """`and` and `or` as the compiler takes them: a constant that decides ends them, tensors are joined element by element."""
    return _joined(name, (part() for part in parts))


def _joined(name: str, values: Iterator[Any]) -> Any:
    tensors = []
    value: Any = None
    for one in values:
        value = plain(one)
        if isinstance(value, tl.tensor):
            tensors.append(value)
        elif bool(value) is (name == "Or"):
            return value
    if not tensors:
        return value
    last = tensors.pop()
    while tensors:
        first = tensors.pop()
        last = first.logical_and(last) if name == "And" else first.logical_or(last)
    return last


def truth(value: Any, seen: list[bool] | None = None) -> bool:
    """What a branch is taken by; `seen` learns whether it is known only when the kernel runs."""
    value = plain(value)
    if isinstance(value, tl.tensor):
        if value.type.is_block():
            raise AccessError("a branch by many values")
        if seen is not None:
            seen[0] = True
    return bool(value)


def choose(test: Any, first: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """`first if test else other`: a tensor where the test is one."""
    value = first() if truth(test) else other()
    return interpreter.interpreter_semantic.to_tensor(value) if isinstance(plain(test), tl.tensor) else value


def result(value: Any, seen: list[bool]) -> Any:
    """What a function of several returns gives: no constant where a branch by a tensor came before."""
    value = plain(value)
    if seen[0] and isinstance(value, int | float):
        return interpreter.interpreter_semantic.to_tensor(value)
    return value


def loop(first: Any, end: Any = None, step: Any = None, **_: Any) -> Iterator[Any]:
    """`range` and `tl.range`: whole numbers of the type that Triton gives the variable.

    Raises:
        AccessError: a step that is zero, or that is negative and no constant.
    """
    start, end, step = (0, plain(first), plain(step)) if end is None else (plain(first), plain(end), plain(step))
    step = 1 if step is None else step
    bounds = [interpreter.interpreter_semantic.to_tensor(one) for one in (start, end, step)]
    if any(is_pointer(one) or not one.dtype.is_int() or one.type.is_block() for one in bounds):
        raise AccessError("a loop over something else than whole numbers")
    semantic = interpreter.interpreter_semantic
    kind = semantic.integer_promote_impl(semantic.integer_promote_impl(bounds[0].dtype, bounds[1].dtype), bounds[2].dtype)
    numbers = [int(one.handle.data.item()) for one in bounds]
    if numbers[2] == 0 or (numbers[2] < 0 and isinstance(step, tl.tensor)):
        raise AccessError("a loop whose step is not positive, and no constant")
    for number in builtins.range(*numbers):
        yield number_of(number, kind)


def number_of(value: int | float, kind: Any) -> Any:
    """A scalar of a kernel."""
    data = np.array([value]).astype(interpreter._get_np_dtype(kind))
    return tl.tensor(interpreter.TensorHandle(data, kind), kind)


def argument(value: Any, real: Callable[[Any], Any]) -> Any:
    """A launch's argument with the type that a launch gives it: int32 or int64, float32."""
    if isinstance(value, int) and not isinstance(value, bool):
        return number_of(value, tl.int32 if -(2**31) <= value < 2**31 else tl.int64)
    return number_of(value, tl.float32) if isinstance(value, float) else real(value)


def _extreme(name: str) -> Callable[..., Any]:
    def found(*values: Any) -> Any:
        given = [plain(one) for one in values]
        if not any(isinstance(one, tl.tensor) for one in given):
            return getattr(builtins, name)(*given)
        value = given[0]
        for one in given[1:]:
            if (
                not all(isinstance(side, tl.tensor | int | float) for side in (value, one))
                or is_pointer(value)
                or is_pointer(one)
            ):
                raise AccessError(f"{name} of something else than numbers")
            value = (tl.minimum if name == "min" else tl.maximum)(value, one)
        return value

    return found


def _static(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def made(value: Any) -> Any:
        if isinstance(plain(value), tl.tensor):
            raise AccessError("a value of a tensor is taken for a constant")
        return kind(plain(value))

    return made


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _later(node: ast.expr) -> ast.Lambda:
    return ast.Lambda(ast.arguments([], [], None, [], [], None, []), node)


class _Agreeing(ast.NodeTransformer):
    """Calls in the place of forms; within one function `_returns` says whether it returns in more than one place."""

    _returns = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._returns = sum(isinstance(one, ast.Return) and one.value is not None for one in ast.walk(node)) > 1
        node.body = [self.visit(one) for one in node.body]
        if self._returns:
            nothing = ast.List([ast.Constant(False)], ast.Load())  # with an annotation: the interpreter makes others tensors
            node.body.insert(0, ast.AnnAssign(ast.Name(_SEEN, ast.Store()), ast.Constant("constexpr"), nothing, 1))
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return _call(_FORM, ast.Constant(type(node.op).__name__), node.left, node.right)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        assert isinstance(node.target, ast.Name)
        value = _call(_FORM, ast.Constant(type(node.op).__name__), ast.Name(node.target.id, ast.Load()), node.value)
        return ast.Assign([node.target], value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None or "constexpr" in ast.unparse(node.annotation):
            return node
        return ast.Assign([node.target], node.value)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return _call(_SINGLE, ast.Constant(type(node.op).__name__), node.operand)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(one, ast.Is | ast.IsNot) for one in node.ops):
            return node
        kinds = ast.Tuple([ast.Constant(type(one).__name__) for one in node.ops], ast.Load())
        return _call(_COMPARE, kinds, *(_later(one) for one in (node.left, *node.comparators)))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        return _call(_JOINED, ast.Constant(type(node.op).__name__), *(_later(one) for one in node.values))

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return _call(_CHOOSE, node.test, _later(node.body), _later(node.orelse))

    def visit_If(self, node: ast.If | ast.While) -> ast.AST:
        self.generic_visit(node)
        seen = [ast.Name(_SEEN, ast.Load())] if self._returns else []
        node.test = _call(_TRUTH, node.test, *seen)
        return node

    visit_While = visit_If  # noqa: N815 - as `ast` calls them

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if self._returns and node.value is not None:
            node.value = _call(_RESULT, node.value, ast.Name(_SEEN, ast.Load()))
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        return _call(_PLAIN, node.value) if node.attr == "value" else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "constexpr" and len(node.args) == 1:
            return _call(_PLAIN, node.args[0])
        return node
