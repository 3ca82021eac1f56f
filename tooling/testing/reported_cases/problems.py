"""One problem of every environment whose right answer is known, from data sets of one row that stand here."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from grail_core.environment import Environment, Problem
from grail_envs.logic.environment import LogicEnvironment
from grail_envs.registry import load
from grail_envs.sat import SatEnvironment
from grail_envs.trace.environment import TraceEnvironment

EXPRESSION = "x + 1"
FUNCTION = f"def f(x):\n    return {EXPRESSION}"
WRONG_FUNCTION = "def f(x):\n    return 7"
ANSWERED = ("sat", "gsm8k", "math", "affine_trace", "affine_logic")
CODED = ("mbpp", "humaneval")

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k/test.jsonl": {"question": "Seven and five?", "answer": "7 + 5 = 12\n#### 12"},
    "math/math500.jsonl": {
        "problem": "Seven and five?",
        "solution": "It is $\\boxed{12}$.",
        "answer": "12",
        "level": 1,
        "subject": "Prealgebra",
    },
    "mbpp/mbpp.jsonl": {
        "task_id": 601,
        "text": "Write a function f that adds one.",
        "code": FUNCTION,
        "test_setup_code": "",
        "test_list": ["assert f(1) == 2", "assert f(-1) == 0"],
        "challenge_test_list": [],
    },
    "humaneval/HumanEval.jsonl": {
        "task_id": "Own/0",
        "prompt": 'def f(x):\n    """Add one."""\n',
        "entry_point": "f",
        "canonical_solution": f"    return {EXPRESSION}\n",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(-1) == 0\n",
    },
}


@dataclass(frozen=True)
class Asked:
    """A problem, and what stands between answer tags (or within a Python block) where it is answered right."""

    environment: Environment
    problem: Problem
    right: str


@cache
def asked(env_id: str) -> Asked:
    """The problem of seed 0 of this environment.

    Raises:
        ValueError: an environment that is not known here.
    """
    if env_id == "sat":
        sat = SatEnvironment()
        problem = sat.problem(0)
        values = enumerate(problem.payload.planted, start=1)
        return Asked(sat, problem, " ".join(f"x{number}={value}" for number, value in values))
    if env_id in ("affine_trace", "affine_logic"):
        made = TraceEnvironment() if env_id == "affine_trace" else LogicEnvironment(["sudoku"])
        problem = made.problem(0)
        return Asked(made, problem, made.reference(problem).removeprefix("<answer>").removesuffix("</answer>"))
    parameters = {"gsm8k": {"split": "test"}, "math": {"split": "math500"}, "mbpp": {"split": "train"}, "humaneval": {}}
    if env_id not in parameters:
        raise ValueError(f"no environment is called {env_id!r} here")
    environment = load(env_id, data_dir=_data_folder().name, **parameters[env_id])
    return Asked(environment, environment.problem(0), FUNCTION if env_id in CODED else "12")


@cache
def _data_folder() -> tempfile.TemporaryDirectory[str]:
    """Gone with this process."""
    folder = tempfile.TemporaryDirectory(prefix="grail-reported-cases-")
    for name, row in ROWS.items():
        path = Path(folder.name) / name
        path.parent.mkdir()
        path.write_text(json.dumps(row) + "\n")
    return folder
