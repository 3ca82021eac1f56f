"""MATH: a formula counts in every way of writing it and nothing else does; hostile formulas cost their limit and no more."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from grail_core.errors import ConfigurationError
from grail_envs.math_env import MathEnvironment, answer_of, grade_formula
from grail_envs.sandbox import pool
from grail_envs.sandbox.pool import GraderPool


def rewritings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("formula_rewritings", Path(__file__).parent / "formula_rewritings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt5, 1-\sqrt{5}\}"),
        ("3,5,7", r"\{7,5,3\}"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
        ("x=5", "5"),
        ("(a+5)(b+2)", "ab+2a+5b+10"),
        ("y = 2x + 3", "y=3+2x"),
        (r"137 \frac{1}{2}", "137.5"),
        (r"x \in [-2,7]", "[-2, 7]"),
        (r"6 - 5i", "-5i + 6"),
        ("10000", "10^4"),
        (r"5.4 \text{ cents}", "5.4"),
        (r"\text{(C)}", "C"),
        (r"\$18.90", "18.9"),
        (r"(0,9) \cup (9,36)", r"(9,36)\cup(0,9)"),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}"),
    ],
)
def test_the_same_thing_in_other_words_counts(gold: str, answer: str, math_pool: GraderPool) -> None:
    assert grade_formula(gold, answer).success


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"2\sqrt{113}", "21.26029"),
        (r"\pi", "3.14159265358979"),
        ("(3,4]", "(3,4)"),
        (r"\{2,4\}", "(2,4)"),
        ("(-2,1)", "(1,-2)"),
        (r"\frac{1}{3}", "0.333333333333333"),
        ("52_8", "52"),
        ("52_8", "42"),
        (".0000672", ".000067"),
        ("3,5,7", "3,5"),
        (r"\text{Evelyn}", r"\text{Evelyn or Navin}"),
        ("2", r"2 \text{ or } 3"),
        ("5", "__import__('os').system('true') or 5"),
    ],
)
def test_what_is_not_equal_does_not_count(gold: str, answer: str, math_pool: GraderPool) -> None:
    assert not grade_formula(gold, answer).success


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}",
        r"\sum_{n=1}^{10^{12}} \sin(n!)",
        r"\sqrt{" * 60 + "2" + "}" * 60,
        "\x00\ufffd" * 100,
    ],
)
def test_a_hostile_formula_costs_its_limit_and_the_next_is_graded_right(answer: str, math_pool: GraderPool) -> None:
    grade = grade_formula("2", answer)
    assert not grade.success
    assert grade.outcome.value == "graded"
    assert grade_formula("2", "4/2").success


def test_the_answer_is_in_the_last_tag_or_box() -> None:
    assert answer_of(r"<answer>3</answer> then <answer>\frac12</answer>") == r"\frac12"
    assert answer_of(r"so \boxed{1} and \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert answer_of(r"<think>\boxed{1}</think> nothing") is None
    assert answer_of("<answer>" + "1" * 1000 + "</answer>") is None
    for completion in ("\\boxed{" * 10**5, "<answer>" * 10**5, "{" * 10**6, "\\boxed{" + "{" * 10**6):
        assert answer_of(completion) is None


def test_filters_and_fixtures(data_dir: Path, math_pool: GraderPool) -> None:
    env = MathEnvironment("train", data_dir=data_dir)
    for seed in range(len(env)):
        problem = env.problem(seed)
        for text in rewritings().same(problem.payload.gold):
            assert env.grade(problem, f"<answer>{text}</answer>").success, (problem.payload.gold, text)
        assert env.grade(problem, f"It is $\\boxed{{{problem.payload.gold}}}$.").success
        assert not env.grade(problem, problem.payload.gold).well_formed
    assert len(MathEnvironment("train", levels=[1], data_dir=data_dir)) == 2
    algebra = MathEnvironment("train", subjects=["Algebra"], data_dir=data_dir)
    assert len(algebra) == 2
    assert algebra.spec.digest != env.spec.digest
    for bad in ({"split": "dev"}, {"levels": [6]}, {"subjects": ["Astrology"]}, {"split": "train", "levels": [5]}):
        with pytest.raises(ConfigurationError):
            MathEnvironment(data_dir=data_dir, **bad)


def test_comparing_formulas_in_ones_own_process_silences_nothing_in_it() -> None:
    from grail_envs.sandbox import math_side

    depth = sys.getrecursionlimit()
    assert math_side.grade({"gold": "1/2", "answer": "0.5"})["passed"]
    assert (logging.root.manager.disable, sys.getrecursionlimit()) == (0, depth)


@pytest.mark.skipif(not os.environ.get("GRAIL_DATA_DIR"), reason="GRAIL_DATA_DIR is unset: MATH-500 is not there")
def test_every_gold_of_math500_equals_its_rewritings_and_nothing_else() -> None:
    from grail_envs.sandbox import math_side

    module = rewritings()
    path = Path(os.environ["GRAIL_DATA_DIR"]) / "math" / "math500.jsonl"
    golds = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()][::4]  # the sweep takes all
    wrong: list[tuple[str, str, str]] = []
    for gold in golds:
        same = module.same(gold)
        assert len(same) >= 9, gold
        wrong += [("refused", gold, one) for one in same if not math_side.grade({"gold": gold, "answer": one})["passed"]]
        different = module.different(gold)
        wrong += [("taken", gold, one) for one in different if math_side.grade({"gold": gold, "answer": one})["passed"]]
    assert wrong == []


def test_the_grading_process_needs_nothing_beside_its_own_folder_and_its_library(tmp_path: Path) -> None:
    """As where the package lies in a folder that its owner alone may enter: of it the own user sees the sandbox's folder."""
    shutil.copytree(Path(pool.__file__).parent, tmp_path / "sandbox")
    site = Path(str(importlib.util.find_spec("flint").origin)).parents[1]  # type: ignore[union-attr]
    program = (
        "import sys, types, os; here = sys.argv[1]; sys.path += sys.argv[2:]\n"
        "for name, place in (('grail_envs', os.path.dirname(here)), ('grail_envs.sandbox', here)):\n"
        "    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = [place]\n"
        "from grail_envs.sandbox import math_side, zygote\n"
        "print(math_side.grade({'gold': '1', 'answer': '2/2'})['passed'])"
    )
    command = [sys.executable, "-s", "-S", "-P", "-B", "-c", program, str(tmp_path / "sandbox"), str(site)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={}, cwd="/")
    assert ended.stdout == "True\n", ended.stderr
