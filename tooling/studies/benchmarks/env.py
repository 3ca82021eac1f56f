"""`env`: problems generated and completions judged, per environment and per family of generated puzzles.

    hatch run bench env          a table
    hatch run bench env --json   one flat object

`env.generate_ms.ID` is the median and `env.generate_worst_ms.ID` the slowest of many seeds, the best of three runs of each
seed (the machine's own pauses are no work of the generator). `env.grade_per_s.ID` is one caller's rate. Environments with a
data set use GRAIL_DATA_DIR, else the small fixtures of the tests. `triton_kernel` (in the interpreter) is measured
where Triton is installed: `hatch run triton:bench`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from importlib.util import find_spec
from typing import Any

from grail_core.environment import Environment, Problem
from grail_envs import load
from tooling import REPOSITORY
from tooling.testing.kernel_answers import ANSWERS

Figures = dict[str, float]
FIXTURES = REPOSITORY / "packages" / "grail-envs" / "tests" / "fixtures"
FAMILIES = (
    "dyck_completion",
    "dyck_prefix",
    "dyck_errors",
    "game_of_n",
    "custom_operators",
    "cryptarithm",
    "boolean_options",
    "sudoku",
)
SEEDS = 2000


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    figures: Figures = {}
    folder = os.environ.get("GRAIL_DATA_DIR") or str(FIXTURES)
    targets: list[tuple[str, Environment, int, int]] = [
        ("sat", load("sat"), SEEDS, 2000),
        *((f"affine_logic.{name}", load("affine_logic", families=[name]), SEEDS, 2000) for name in FAMILIES),
        ("affine_trace", load("affine_trace"), SEEDS, 2000),
        ("gsm8k", load("gsm8k", split="test", data_dir=folder), SEEDS, 2000),
        ("math", load("math", split="math500" if folder != str(FIXTURES) else "train", data_dir=folder), SEEDS, 150),
        ("mbpp", load("mbpp", data_dir=folder), SEEDS, 150),
        ("humaneval", load("humaneval", data_dir=folder), SEEDS, 150),
    ]
    if find_spec("triton") is not None:
        targets.append(("triton_kernel", load("triton_kernel"), SEEDS, 64))
    else:
        print("triton_kernel: not measured, Triton is not installed (hatch run triton:bench)", file=sys.stderr)
    for name, env, seeds, judged in targets:
        median, worst = _generation(env, seeds)
        figures[f"env.generate_ms.{name}"] = median
        figures[f"env.generate_worst_ms.{name}"] = worst
        figures[f"env.grade_per_s.{name}"] = _grading(env, judged)
    logic = [key for key in figures if ".affine_logic." in key]
    for kind, best in (("generate_ms", max), ("generate_worst_ms", max), ("grade_per_s", min)):
        figures[f"env.{kind}.affine_logic"] = best(figures[key] for key in logic if f".{kind}." in key)
    return figures


def _generation(env: Environment, seeds: int) -> tuple[float, float]:
    times = []
    for number in range(seeds):
        seed = number * 0x9E37_79B9_7F4A_7C15 % 2**64
        runs = []
        for _ in range(3):
            started = time.perf_counter()
            env.problem(seed)
            runs.append(time.perf_counter() - started)
        times.append(min(runs))
    return 1000 * statistics.median(times), 1000 * max(times)


def _grading(env: Environment, count: int) -> float:
    problems = [env.problem(seed) for seed in range(64)]
    answers = [_answer(env, problem) for problem in problems]
    env.grade(problems[0], answers[0])
    started = time.perf_counter()
    for number in range(count):
        if not env.grade(problems[number % 64], answers[number % 64]).success:
            raise RuntimeError(f"{env.spec.env_id}: a right answer was not taken")
    return count / (time.perf_counter() - started)


def _answer(env: Any, problem: Problem) -> str:
    """A right answer: what the data set or the generator knows."""
    env_id, payload = env.spec.env_id, problem.payload
    if env_id == "sat":
        return "<answer>" + " ".join(f"x{n}={bit}" for n, bit in enumerate(payload.planted, start=1)) + "</answer>"
    if env_id == "gsm8k":
        return f"<answer>{payload.gold.value}</answer>"
    if env_id == "math":
        return f"<answer>{payload.gold} </answer>"
    if env_id == "mbpp":
        return f"```python\n{payload.reference}\n```"
    if env_id == "triton_kernel":
        return f"```python\n{ANSWERS[payload.name]}\n```"
    if env_id == "humaneval":
        return f"```python\n{payload.prompt}{payload.reference}\n```"
    return str(env.reference(problem))
