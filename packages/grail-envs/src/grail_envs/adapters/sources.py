"""What the sources of a package use that a judge should not: read for `grail-envs check`, never run.

A help for who decides whether to mine a package, and no proof: names are followed through imports and plain references, not
through what a program computes, and a library that a package calls may do anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from grail_envs.adapters.installed_files import OwnModule, sources_of

BUILTINS: Final = frozenset({"exec", "eval", "compile", "__import__"})
RUNS: Final = BUILTINS - {"compile"} | {
    *("system", "popen", "Popen", "check_output", "check_call", "getoutput", "getstatusoutput", "posix_spawn", "fork"),
    *("execv", "execve", "execvp", "execl", "spawnv", "spawnl", "create_subprocess_exec", "create_subprocess_shell"),
    *("sympify", "parse_expr", "lambdify", "run_path", "run_module", "runsource", "runcode"),
    *("read_pickle", "Unpickler", "unsafe_load"),
}
"""Names that run what they are given, or evaluate it as code, whoever's they are; a method `compile` is something else."""

RUNS_OF: Final = {
    **dict.fromkeys(("pickle", "_pickle", "dill", "cloudpickle", "marshal", "joblib"), frozenset({"load", "loads"})),
    "subprocess": frozenset({"run", "call"}),
    "sympy": frozenset({"S", "simplify"}),
    "numexpr": frozenset({"evaluate"}),
    "pandas": frozenset({"query"}),
    "shelve": frozenset({"open"}),
    "yaml": frozenset({"load"}),
    "torch": frozenset({"load"}),
    "code": frozenset({"InteractiveInterpreter", "InteractiveConsole", "interact"}),
}
"""The same of names that are harmless elsewhere, by the module that they are imported from."""

TOLD: Final = {
    "network": {"socket", "requests", "httpx", "aiohttp", "urllib", "openai", "anthropic", "websockets", "http"},
    "chance": {"random", "secrets", "uuid"},
    "the clock": {"time", "datetime"},
    "the machine": {"platform"},
    "processes": {"subprocess", "multiprocessing", "threading", "signal"},
}
MACHINE: Final = {"uname", "cpu_count", "getpid", "gethostname", "statvfs", "disk_usage", "st_atime", "st_atime_ns", "getnode"}
"""Names whose values differ from machine to machine, or from process to process."""


def what_sources_use(modules: Sequence[OwnModule]) -> tuple[bool, str]:
    """Whether nothing in the sources of the modules is seen to run a text, and what they use beside."""
    runs: list[str] = []
    told: dict[str, str] = {}
    for module in modules:
        for name, path in sources_of(module):
            if not name.endswith(".py"):
                continue
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            known = _imported_names(tree)
            for node in ast.walk(tree):
                place = f"in {name}, line {getattr(node, 'lineno', 0)}"
                for full in _referred(node, known):
                    if _runs(full, known):
                        runs.append(f"{full.removeprefix('.')} {place}")
                    if full.rpartition(".")[2] in MACHINE or full == "id":
                        told.setdefault("the machine", f"the machine ({full.rpartition('.')[2]} {place})")
                for imported in _modules(node):
                    for what, names in TOLD.items():
                        if imported in names:
                            told.setdefault(what, f"{what} ({imported} {place})")
    if runs:
        return False, "; ".join([f"it may run what an answer says, in the process that judges it: {runs[0]}", *told.values()])
    uses = f"uses {'; '.join(told.values())}" if told else "nothing of the network, the clock or chance"
    return True, f"{uses}; a reading, no proof"


def _runs(full: str, known: Mapping[str, str]) -> bool:
    home, _, last = full.rpartition(".")
    if home in ("", "builtins") and last in BUILTINS:
        return True
    if last == "query":  # of a DataFrame, where the file has any
        return "pandas" in known.values()
    return last in RUNS or last in RUNS_OF.get(home.partition(".")[0], ())


def _referred(node: ast.AST, known: Mapping[str, str]) -> Iterator[str]:
    """Full names that a node calls or hands on; of an attribute of no name, a dot and its own name."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield _full(node, known)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        yield from (
            f"{_full(node.args[0], known)}.{word.value}"
            for word in node.args[1:2]
            if isinstance(word, ast.Constant) and isinstance(word.value, str)
        )


def _full(node: ast.AST, known: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    return f"{_full(node.value, known)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """What the names of a file stand for, as far as its imports say."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return known


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    return []
