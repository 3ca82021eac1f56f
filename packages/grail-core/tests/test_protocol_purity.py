"""The specification runs without a model, a chain or a network behind it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import grail_core.protocol

FOLDER = Path(grail_core.protocol.__file__).parent


def test_importing_the_protocol_loads_nothing_heavy() -> None:
    program = (
        "import sys, grail_core.protocol, grail_core.protocol.network\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'bittensor', 'bittensor_core', 'httpx', 'boto3', 'pydantic'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_of_the_protocol_has_a_clock_a_file_or_a_log() -> None:
    forbidden = {"time", "datetime", "os", "pathlib", "io", "socket", "logging", "random", "secrets", "threading", "subprocess"}
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not forbidden & {name.split(".")[0] for name in names}, f"{path.name}: {names}"
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open"), path.name


def test_every_public_name_exists() -> None:
    assert all(hasattr(grail_core.protocol, name) for name in grail_core.protocol.__all__)
