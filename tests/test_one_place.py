"""What is written once stays written once: each test fails where a second place appears (see docs/architecture.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tooling import REPOSITORY

CORE = Path("packages/grail-core/src/grail_core")


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in (*sorted((REPOSITORY / "packages").glob("*/src")), REPOSITORY / "tooling"):
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(REPOSITORY), ast.parse(path.read_text(encoding="utf-8"))


def strings(tree: ast.Module) -> Iterator[str]:
    """Every string constant but docstrings, the parts of f-strings among them."""
    told = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def names_in(node: ast.AST) -> set[str]:
    found = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return found | {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


def test_the_order_of_checks_is_written_in_examine_alone() -> None:
    checks = {"check_schema", "check_prompts", "check_termination", "check_rewards", "sample_statistics"}
    places = {path for path, tree in sources() if len(checks & names_in(tree)) > 1}
    assert places == {CORE / "verification/examine.py"}


def test_waiting_for_a_window_is_written_in_waiting_alone() -> None:
    """Whoever catches that a beacon round is not there yet, or tries again after a beacon's fault, is waiting for a window."""
    faults = {"BeaconError", "RoundNotYetError"}
    places = {
        path
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is not None and faults & names_in(node.type)
    }
    assert places - {CORE / "beacon/drand.py"} == {CORE / "participant/waiting.py"}


def test_block_time_is_reckoned_in_chain_base_alone() -> None:
    """The development chain makes its blocks and is asked for them like any other."""
    places = {
        path
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv)
        and any("block_time_ms" in names_in(side) for side in (node.left, node.right))
    }
    made = {path for path in places if path.is_relative_to(CORE / "chain/development")}
    assert places - made == {CORE / "chain/base.py"}


@pytest.mark.parametrize("part", ["windows", "verdicts", "checkpoints", "objects", "training", "probe", "doctor"])
def test_bucket_keys_are_made_in_the_layout_alone(part: str) -> None:
    """But for an object's, which the trainer signs and the manifest therefore makes; adversaries forge what they like."""
    places = {path for path, tree in sources() if any(re.match(rf"grail/{part}\b(?!-)", text) for text in strings(tree))}
    first = CORE / ("protocol/manifest.py" if part == "objects" else "storage/layout.py")
    assert {path for path in places if not path.is_relative_to("tooling/adversaries")} == {first}
