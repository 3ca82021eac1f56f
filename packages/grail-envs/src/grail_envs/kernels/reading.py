"""What an answer is, read from its syntax tree: its kernels, the launches in reach of `forward`, and what it may not do.

This is the asked form and tells a model early what is wrong; it is not what keeps cheats out, since names can be hidden. That
is what `tracing` and `running` do: there, what is not a launch has no data. What holds the border here is `kernel_language`:
the module of kernels that `Reading` gives consists of nothing else. Runs in a confined process; standard library only.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from grail_envs.kernels.host_language import NESTED, TORCH_NAMES, check_host, instead_of, is_allowed
from grail_envs.kernels.kernel_language import (
    MAX_DEPTH,
    MAX_NODES,
    LanguageError,
    Modules,
    check_kernel,
    check_name,
    constant_value,
    is_constant_annotation,
)

ENTRY: Final = "ModelNew"
ALLOWED_IMPORTS: Final = frozenset({
    "torch", "torch.nn", "torch.nn.functional", "triton", "triton.language", "math", "typing", "dataclasses", "functools",
    "collections", "enum", "__future__",
})  # fmt: skip
_COMPUTING_METHODS = """
abs add addmm all amax amin any argmax argmin bmm clamp cos cumprod cumsum div dot einsum exp gelu log log_softmax
logsumexp masked_fill matmul max mean min mm mul mv norm pow prod relu rsqrt sigmoid sin softmax sort sqrt square std
sub sum tanh topk tril triu var where
"""
COMPUTING_METHODS: Final = frozenset(_COMPUTING_METHODS.split())
_READING_METHODS = """
item tolist numpy data_ptr cpu storage untyped_storage __array__ __dlpack__
"""
READING_METHODS: Final = frozenset(_READING_METHODS.split())


@dataclass(frozen=True)
class Reading:
    """`problem` says why the text is no answer ("" if it is one); `module` holds the kernels and their constants alone."""

    problem: str = ""
    kernels: tuple[str, ...] = ()
    module: str = ""


def read_answer(code: str) -> Reading:
    """Read an answer; never raises for any text that fits into memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code.removeprefix("\ufeff"))
            compile(tree, "<answer>", "exec", dont_inherit=True)
        _check_size(tree)
        return _read(tree)
    except LanguageError as error:
        return Reading(problem=str(error)[:300])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Reading(problem=f"{type(error).__name__}: {str(error)[:200]}")


def _read(tree: ast.Module) -> Reading:
    tree.body = [node for node in tree.body if not _runs_as_a_program(node)]
    modules, functional, aliases = _imports(tree)
    kernels = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and _is_kernel(node, modules)}
    module = _module_of_kernels(tree, kernels, modules)
    check_host(tree, kernels.values(), aliases)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    entry = classes.get(ENTRY)
    if entry is None:
        raise LanguageError(f"there is no class {ENTRY}")
    if not any(method.name == "forward" for method in _methods(entry)):
        raise LanguageError(f"{ENTRY} has no method forward")
    if not kernels:
        raise LanguageError("there is no kernel: no function at the top level has @triton.jit")
    reach = _reach(tree, entry, kernels)
    launched = {name for function in reach for name in _launches(function, kernels)}
    if not launched:
        raise LanguageError(
            "no kernel is launched: nothing in reach of forward calls kernel[grid](…), by the kernel's own name"
        )
    for function in reach:
        _check_host_code(function, functional)
    return Reading(kernels=tuple(kernels), module=module)


def _runs_as_a_program(node: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__":`, which no answer is; no name of that form is ever given another value."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


def _check_size(tree: ast.Module) -> None:
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    count = 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise LanguageError("the code is larger or nested deeper than an answer may be")
        stack += [(child, depth + 1) for child in ast.iter_child_nodes(node)]


def _imports(tree: ast.Module) -> tuple[Modules, set[str], dict[str, str]]:
    """The names of Triton's modules, those of `torch.nn.functional`, and what every name of a module stands for."""
    modules = Modules(set(), set(), set())
    functional: set[str] = set()
    aliases: dict[str, str] = {}
    places = {
        "triton": modules.triton, "triton.language": modules.language, "math": modules.mathematics,
        "torch.nn.functional": functional,
    }  # fmt: skip

    def bind(name: str, path: str) -> None:
        if aliases.setdefault(name, path) != path:
            raise LanguageError(f"the name {name[:40]!r} stands for two modules")
        places.get(path, set()).add(name)

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level or name not in ALLOWED_IMPORTS or any(alias.name == "*" for alias in node.names):
                raise LanguageError(f"it imports from {name[:60] or 'a package of its own'}")
            for alias in node.names:
                path = f"{name}.{alias.name}"
                if path in NESTED:
                    bind(alias.asname or alias.name, path)
                elif name == "torch.nn.functional":
                    raise LanguageError(f"it imports {alias.name[:60]} of torch.nn.functional, which computes")
                elif not is_allowed(path):
                    raise LanguageError(f"it imports {path[:60]}{instead_of(path)}")
                elif path == "triton.jit":
                    modules.jit.add(alias.asname or alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in ALLOWED_IMPORTS:
                    raise LanguageError(f"it imports {alias.name[:60]}")
                root = alias.name.partition(".")[0]
                bind(*((alias.asname, alias.name) if alias.asname else (root, root)))
    return modules, functional, aliases


def _is_kernel(node: ast.FunctionDef, modules: Modules) -> bool:
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Name) and target.id in modules.jit:
            return True
        if (
            isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id in modules.triton
            and target.attr == "jit"
        ):
            return True
    return False


def _module_of_kernels(tree: ast.Module, kernels: dict[str, ast.FunctionDef], modules: Modules) -> str:
    """The text of a module with the kernels, the constants they may use, and imports of our own."""
    constants: dict[str, object] = {}
    lines = ["import triton", "import triton.language as tl"]  # the interpreter looks for it among the globals
    lines += [f"import triton as {name}" for name in sorted(modules.triton)]
    lines += [f"import triton.language as {name}" for name in sorted(modules.language - {"tl"})]
    used = {node.id for kernel in kernels.values() for node in ast.walk(kernel) if isinstance(node, ast.Name)}
    for node in tree.body:
        target = _constant_target(node)
        if target is None or target[0] not in used:
            continue
        name, value = target
        check_name(name, "a module")
        if name in constants or name in kernels:
            raise LanguageError(f"the constant {name[:40]!r} of kernels is given more than one value")
        constants[name] = constant_value(value, constants, modules)
        lines.append(f"{name} = triton.language.constexpr({_written(constants[name])})")
    for kernel in kernels.values():
        _drop_messages(kernel, modules)
    known = {*constants, *kernels}
    if known & (modules.triton | modules.language | modules.mathematics | {"triton", "tl"}):
        raise LanguageError("a kernel or a constant has the name of a module")
    for kernel in kernels.values():
        check_kernel(kernel, known, modules)
        plain = ast.FunctionDef(
            kernel.name, _parameters(kernel.args, modules), kernel.body, [], None, None, lineno=1, col_offset=0
        )
        lines += ["", "@triton.jit", ast.unparse(plain)]
    return "\n".join(lines) + "\n"


def _drop_messages(kernel: ast.FunctionDef, modules: Modules) -> None:
    """Leave out what `tl.static_assert` would say: the only text that may be made in a kernel."""
    for node in ast.walk(kernel):
        if isinstance(node, ast.Call) and modules.language_name(node.func) == "static_assert" and node.args:
            node.args, node.keywords = node.args[:1], []


def _parameters(given: ast.arguments, modules: Modules) -> ast.arguments:
    """The parameters of a kernel with the one annotation that Triton needs, as text the interpreter knows."""
    for one in (*given.args, *given.kwonlyargs):
        is_constant = one.annotation is not None and is_constant_annotation(one.annotation, modules)
        one.annotation = ast.parse("tl.constexpr", mode="eval").body if is_constant else None
    return given


def _written(value: object) -> str:
    """A constant as Python writes it; a type of Triton's as the answer does."""
    if isinstance(value, ast.expr):
        return ast.unparse(value)
    return f"float('{value}')" if isinstance(value, float) and not math.isfinite(value) else repr(value)


def _constant_target(node: ast.stmt) -> tuple[str, ast.expr] | None:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return node.target.id, node.value
    return None


def _reach(tree: ast.Module, entry: ast.ClassDef, kernels: dict[str, ast.FunctionDef]) -> list[ast.FunctionDef]:
    """`forward` and the functions and methods that it names, directly or through others; also those of classes within `entry`.

    What makes a module (`__init__`) is not in reach: it has no inputs.
    """
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    defined: dict[str, list[ast.FunctionDef]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and kernels.get(node.name) is not node and node.name != "__init__":
            defined.setdefault(node.name, []).append(node)
    for name, node in classes.items():
        if node is not entry:  # calling an instance, `apply` of a Function: whatever it has is in reach by its name
            defined.setdefault(name, []).extend(_methods(node))
    found: list[ast.FunctionDef] = []
    waiting = [method for method in _methods(entry) if method.name == "forward"]
    waiting += [
        method for name in _names(entry) if name in classes and name != entry.name for method in _methods(classes[name])
    ]
    while waiting:
        function = waiting.pop()
        if function in found:
            continue
        found.append(function)
        for name in _names(function):
            waiting += defined.get(name, [])
    return found


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """All but what makes an instance and what differentiates: a `backward` is in reach only by its name."""
    return [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name not in ("__init__", "backward")]


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _launches(function: ast.FunctionDef, kernels: dict[str, ast.FunctionDef]) -> Iterator[str]:
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name)):
            continue
        if node.func.value.id in kernels:
            yield node.func.value.id


def _check_host_code(function: ast.FunctionDef, functional: set[str]) -> None:
    for node in ast.walk(function):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            raise LanguageError(f"line {node.lineno}: a product of matrices outside of a kernel")
        if not isinstance(node, ast.Attribute):
            continue
        base = ast.unparse(node.value) if isinstance(node.value, ast.Name | ast.Attribute) else ""
        if base == "torch" and node.attr not in TORCH_NAMES and f"torch.{node.attr}" not in NESTED:
            raise LanguageError(f"line {node.lineno}: torch.{node.attr[:40]} outside of a kernel")
        if base in ("torch.nn.functional", "nn.functional", *functional):
            raise LanguageError(f"line {node.lineno}: {base}.{node.attr[:40]} computes outside of a kernel")
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            base = ast.unparse(node.func.value) if isinstance(node.func.value, ast.Name) else ""
            if base in ("math", "triton", "tl"):
                continue
            if node.func.attr in COMPUTING_METHODS:
                raise LanguageError(f"line {node.lineno}: .{node.func.attr}(…) computes outside of a kernel")
            if node.func.attr in READING_METHODS:
                raise LanguageError(f"line {node.lineno}: .{node.func.attr}(…) reads values outside of a kernel")
