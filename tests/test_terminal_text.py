"""Strangers' text reaches a terminal by `grail_core.telemetry.console` alone, and nobody prints markup."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tooling import REPOSITORY

THE_CONSOLE = REPOSITORY / "packages/grail-core/src/grail_core/telemetry/console.py"
REFUSED = {
    "rich.console": {"Console"},
    "rich": {"print", "print_json", "get_console", "inspect", "markup", "console"},
    "rich.markup": {"render", "escape"},
    "rich.progress": {"TextColumn", "track"},
    "rich.prompt": {"Prompt"},
    "rich.logging": {"RichHandler"},
    "rich.traceback": {"install"},
}


def sources() -> list[Path]:
    found = [*REPOSITORY.glob("packages/*/src/**/*.py"), *REPOSITORY.glob("tooling/**/*.py")]
    return [path for path in found if path != THE_CONSOLE]


def faults_of(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in REFUSED:
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name in REFUSED[node.module]]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "rich"]
        elif isinstance(node, ast.Attribute) and node.attr == "from_markup":
            found.append("from_markup")
        elif isinstance(node, ast.keyword) and node.arg in ("markup", "emoji") and ast.unparse(node.value) != "False":
            found.append(f"{node.arg}=")
    return found


def test_nothing_prints_with_markup() -> None:
    faults = {str(path): faults_of(ast.parse(path.read_text(encoding="utf-8"))) for path in sources()}
    assert {path: found for path, found in faults.items() if found} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from rich.console import Console",
        "from rich import print",
        "import rich",
        "Text.from_markup(x)",
        "console.print(x, markup=True)",
        "from rich.progress import TextColumn",
    ],
)
def test_what_would_is_found(line: str) -> None:
    assert faults_of(ast.parse(line))
