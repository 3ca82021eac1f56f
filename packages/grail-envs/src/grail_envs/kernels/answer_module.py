"""Make the module of an answer in the process that traces it: with builtins of its own, and without a view of the machine.

`host_language` says what may stand in it, by form. Here is what form cannot tell: the text of an object is that of a number, a
type or its kind, never where it lies; operators that make texts or sets of something else are refused; builtins are those of
the list; and what PyTorch and the standard library say of processors, names and the environment is the same everywhere.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import operator
import os
import platform
import sys
import types
from typing import Any, Final

import torch

from grail_envs.kernels.host_language import GUARDED, HOST_BUILTINS
from grail_envs.kernels.reading import ALLOWED_IMPORTS

_TEXT, _OPERATE = "__grail_text__", "__grail_operate__"
_PLAIN: Final = (int, float, bool, str, type(None), torch.dtype, torch.device)
_VIEWS: Final[tuple[type, ...]] = (str, bytes, set, frozenset, type({}.keys()), type({}.items()))


class OperandError(TypeError):
    """An operator is given what it would make a text or a set of."""


def module_of(code: str) -> types.ModuleType:
    """The answer's module, run. Raises whatever it raises."""
    code = code.removeprefix("\ufeff")
    tree = ast.fix_missing_locations(_Guarded().visit(ast.parse(code)))
    module = types.ModuleType("answer")
    module.__dict__.update({"__builtins__": _builtins(), _TEXT: text_of, _OPERATE: _operate})
    sys.modules["answer"] = sys.modules["__main__"] = module
    linecache.cache["<answer>"] = (len(code), None, code.splitlines(keepends=True), "<answer>")
    exec(compile(tree, "<answer>", "exec", dont_inherit=True), module.__dict__)
    return module


def hide_machine() -> None:
    """Make what this process is told of its machine the same on all of them; there is no way back."""
    os.environ.clear()
    os.cpu_count = lambda: 1
    os.uname = lambda: os.uname_result(("Linux", "", "", "", "x86_64"))
    if hasattr(os, "sched_getaffinity"):
        os.sched_getaffinity = lambda pid: {0}
    os.getpid = os.getppid = lambda: 1
    platform.uname = platform.processor = platform.machine = platform.node = lambda: ""  # type: ignore[assignment]
    torch.backends.cpu.get_cpu_capability = lambda: "DEFAULT"
    torch.get_num_threads = lambda: 1


def text_of(value: Any, conversion: int = -1, form: str = "") -> str:
    """What an f-string writes in the place of a value."""
    if isinstance(value, tuple | list):
        text = "(" + ", ".join(text_of(one) for one in value) + ")"
    else:
        text = str(value) if type(value) in _PLAIN else type(value).__name__
    plain = value if type(value) in (int, float, str) and conversion == -1 else text
    return format(plain, form)


def _operate(name: str, left: Any, right: Any) -> Any:
    for value in (left, right):
        if isinstance(value, _VIEWS):
            raise OperandError(f"an operator on a {type(value).__name__} outside of a kernel")
    return _OPERATIONS[name](left, right)


_OPERATIONS: Final = {
    "Mod": operator.mod, "BitOr": operator.or_, "BitAnd": operator.and_, "BitXor": operator.xor, "Sub": operator.sub,
}  # fmt: skip


class _Text(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, str)

    def __call__(cls, value: Any = "") -> str:
        return text_of(value)


def _builtins() -> dict[str, Any]:
    found = {name: getattr(builtins, name) for name in HOST_BUILTINS}
    found["str"] = _Text("str", (), {})
    found["print"] = lambda *_, **__: None
    found["__build_class__"] = builtins.__build_class__
    found["__name__"] = "answer"
    found["__import__"] = _import
    return found


_ROOTS: Final = {name.partition(".")[0] for name in ALLOWED_IMPORTS}


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """Also for PyTorch, which imports parts of itself by the builtins of whoever calls it."""
    if level or name.partition(".")[0] not in _ROOTS:
        raise ImportError(f"an answer imports {name[:60]}")
    return __import__(name, globals, locals, fromlist, 0)


OWN: Final = "grail_own"
"""What private names of an answer begin with: `_launch` is `grail_own_launch`, so no library's `_convert_` is reached by it."""


def _own(name: str, behind: str = "") -> str:
    is_private = name.startswith("_") and not name.startswith("__") and name.strip("_") and behind not in _LIBRARIES
    return OWN + name if is_private else name


def as_written(name: str) -> str:
    """A name of the answer as it stands in its text."""
    return name.removeprefix(OWN)


_LIBRARIES: Final = ("init", "torch.nn.init", "nn.init")


class _Guarded(ast.NodeTransformer):
    """Texts and operators by way of `text_of` and `_operate`; private names by `_own`."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        behind = ast.unparse(node.value) if isinstance(node.value, ast.Name | ast.Attribute) else ""
        node.attr = _own(node.attr, behind)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = _own(node.id)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.name = _own(node.name)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.name = _own(node.name)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        self.generic_visit(node)
        node.arg = _own(node.arg)
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        self.generic_visit(node)
        node.arg = node.arg and _own(node.arg)
        return node

    def visit_alias(self, node: ast.alias) -> ast.AST:
        bound = node.asname or node.name
        node.asname = _own(bound) if _own(bound) != bound else node.asname
        return node

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> ast.AST:
        node.names = [_own(name) for name in node.names]
        return node

    visit_Nonlocal = visit_Global  # noqa: N815 - as `ast` calls them

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        self.generic_visit(node)
        form = node.format_spec or ast.Constant("")
        call = ast.Call(ast.Name(_TEXT, ast.Load()), [node.value, ast.Constant(node.conversion), form], [])
        return ast.copy_location(ast.FormattedValue(call, -1, None), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(_operation(node.op, node.left, node.right), node) if type(node.op) in GUARDED else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if type(node.op) not in GUARDED or not isinstance(node.target, ast.Name):
            return node
        value = _operation(node.op, ast.Name(node.target.id, ast.Load()), node.value)
        return ast.copy_location(ast.Assign([node.target], value), node)


def _operation(kind: ast.operator, left: ast.expr, right: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(_OPERATE, ast.Load()), [ast.Constant(type(kind).__name__), left, right], [])
