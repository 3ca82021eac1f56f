"""Programs from a pinned set: MBPP's reference solutions, called as in their first test, with debug prints put in by a seed.

A debug print stands right after an assignment and shows only what was assigned there, so a program that ran still runs. A
value that is no number, text, truth value or None is shown by its type's name: no memory address gets into an output.
"""

from __future__ import annotations

import ast
import os
import warnings
from dataclasses import dataclass

from grail_envs.draws import Draws
from grail_envs.mbpp import MbppEnvironment

MAX_MARKS = 6


@dataclass(frozen=True)
class Source:
    """A program of the set before debug prints are put in, and its task."""

    task_id: int
    code: str


def sources(split: str, data_dir: str | os.PathLike[str] | None) -> tuple[list[Source], str]:
    """The rows whose first test compares a call with a value, as programs that print the call; and the digest of the rows."""
    env = MbppEnvironment(split, data_dir=data_dir)
    found = []
    for row in env.rows:
        call = _first_call(row.tests[0])
        if call is not None:
            setup = f"{row.setup}\n" if row.setup else ""
            found.append(Source(row.task_id, f"{row.reference}\n{setup}print({call})\n"))
    return found, env.spec.data_digest


def with_debug_prints(source: Source, draws: Draws) -> str:
    """The program with up to six debug prints after assignments to plain names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # published solutions hold odd escapes
        tree = ast.parse(source.code)
    marks = 0
    for node in ast.walk(tree):
        for block in [getattr(node, name, None) for name in ("body", "orelse")]:
            if not isinstance(block, list) or isinstance(node, ast.ClassDef):
                continue
            for place in range(len(block) - 1, -1, -1):
                name = _assigned(block[place])
                if name and marks < MAX_MARKS and draws.chance(3, 5):
                    block.insert(place + 1, _print(marks, name))
                    marks += 1
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _assigned(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    return ""


def _print(mark: int, name: str) -> ast.stmt:
    plain = f"{name} if isinstance({name}, (int, float, str, type(None))) else type({name}).__name__"
    return ast.parse(f'print("__DBG_{mark}__", {plain})').body[0]


def _first_call(test: str) -> str | None:
    body = ast.parse(test).body
    if len(body) != 1 or not isinstance(body[0], ast.Assert) or not isinstance(body[0].test, ast.Compare):
        return None
    left = body[0].test.left
    return ast.unparse(left) if isinstance(left, ast.Call) else None
