"""Code environments: reference solutions pass, wrong and forged answers fail, the prompt hides what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs import humaneval, mbpp
from grail_envs.answer_text import last_python
from grail_envs.code_blocks import MAX_CHARACTERS, MAX_LINES, code_blocks
from grail_envs.humaneval import HumanEvalEnvironment
from grail_envs.mbpp import MbppEnvironment
from grail_envs.sandbox import GraderPool, Job


def fenced(code: str) -> str:
    return f"Here is the code:\n\n```python\n{code}\n```\nDone."


def test_own_fixtures_pass_with_their_reference_and_fail_with_another(data_dir: Path, pool: GraderPool) -> None:
    he = HumanEvalEnvironment(data_dir=data_dir)
    for seed in range(len(he)):
        problem = he.problem(seed)
        row = problem.payload
        for code in (row.prompt + row.reference, row.reference):
            grade = he.grade(problem, fenced(code))
            assert grade.success, grade
            assert grade.reward == 1.0
        wrong = he.grade(problem, fenced(f"def {row.entry_point}(x):\n    return 7\n"))
        assert (wrong.success, wrong.well_formed) == (False, True)
        assert wrong.reward == pytest.approx(0.1)
        assert not he.grade(problem, row.reference).well_formed
    for subset in ("full", "sanitized"):
        env = MbppEnvironment("train", subset, data_dir=data_dir)
        for seed in range(len(env)):
            problem = env.problem(seed)
            assert env.grade(problem, fenced(problem.payload.reference)).success
            assert not env.grade(problem, fenced("pass")).success
            assert not env.grade(problem, fenced("def f(:")).well_formed


def test_a_replaced_helper_of_the_prompt_is_not_what_the_tests_call(data_dir: Path, pool: GraderPool) -> None:
    env = HumanEvalEnvironment(data_dir=data_dir)
    problem = next(env.problem(seed) for seed in range(2) if env.problem(seed).payload.entry_point == "radius_of")
    forged = (
        "def area(radius):\n    return 0.0\n\ndef radius_of(surface):\n    return 0.0\nimport math\nmath.fabs = lambda x: 0.0\n"
    )
    assert not env.grade(problem, fenced(forged)).success


ROW = {
    "task_id": "Own/9",
    "prompt": 'def f(x):\n    """Add one."""\n',
    "entry_point": "f",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
}


def human_eval(folder: Path, **changed: str) -> HumanEvalEnvironment:
    (folder / "humaneval").mkdir(exist_ok=True)
    rows = [ROW, {**ROW, **changed}]
    (folder / "humaneval" / "HumanEval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return HumanEvalEnvironment(data_dir=folder)


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("prompt", "def f(x):\n", "row 1 .* prompt .*expected an indented block"),
        ("prompt", "def f(x):\n    # Add one.\n", "prompt"),
        ("prompt", "def f(x):\n    for _ in range(1):\n", "prompt"),
        ("prompt", "import math\n\n@staticmethod\n", "prompt"),
        ("prompt", 'def f(x):\n    """Add one.\n', "prompt"),
        ("prompt", "Write a function f that adds one.", "prompt"),
        ("prompt", "return 1\n", "prompt .*outside function"),
        ("prompt", "import math\nfrom __future__ import annotations\n", "prompt"),
        ("prompt", "x = '\x00'\n", "prompt"),
        ("prompt", "(" * 100_000, "prompt"),
        ("test", "def check(candidate)\n", "test"),
        ("entry_point", "f(x)", "entry_point"),
        ("entry_point", "class", "entry_point"),
    ],
)
def test_a_row_that_no_answer_could_pass_is_refused_when_the_set_is_loaded(
    tmp_path: Path, field: str, text: str, says: str
) -> None:
    with pytest.raises(EnvironmentUnavailableError, match=says) as raised:
        human_eval(tmp_path, **{field: text})
    assert raised.value.where
    assert raised.value.hint


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("from __future__ import annotations\ndef f(x: Late) -> Late:\n    'Add one.'\n", "def f(x: Late):\n    return x + 1"),
        ("from __future__ import annotations\ndef f(x):\n    'Add one.'\n", "    return x + 1"),
        ("def f(x):\n    'Add one.'\n    ", "    return x + 1"),
        ("def f(x):\n    'Add one.'", "    return x + 1"),
        ("import math\ndef f(x):\n    'Add one.'", "def f(x):\n    return x + int(math.exp(0))"),
        ("def f(x):\r\n    'Add one.'\r\n", "    return x + 1"),
    ],
)
def test_an_answer_goes_on_from_its_prompt_or_stands_alone(tmp_path: Path, pool: GraderPool, prompt: str, code: str) -> None:
    env = human_eval(tmp_path, prompt=prompt)
    problem = next(problem for problem in map(env.problem, range(2)) if problem.payload.prompt == prompt)
    assert env.grade(problem, f"```python\n{code}\n```").success


@pytest.mark.parametrize(
    "text",
    [
        "> " * 60 + "a\n" + "b\n" * 20_000,
        ("+ " * 30 + "a\n") * 20_000,
        "".join(">" * (i % 40) + "a\n" for i in range(20_000)),
        "```\n" * 400_000,
        "`" * 2_000_000,
        "[a]: /b 'c\n" * 20_000,
        "- ```\n  a\n  ```\n" * 20_000,
        "\ud800\x00```\x0b\n" * 20_000,
    ],
)
def test_no_text_costs_more_than_the_largest_that_is_parsed(text: str) -> None:
    assert code_blocks(text) == []
    bounded = "".join(text.splitlines(keepends=True)[: MAX_LINES // 2])[: MAX_CHARACTERS // 2]
    assert last_python(bounded + "\n\n```python\npass", limit=10) in ("pass", None)


@pytest.mark.skipif(
    not os.environ.get("GRAIL_DATA_DIR"), reason="GRAIL_DATA_DIR is unset: the reference solutions are not there"
)
def test_public_reference_solutions_pass_under_load(pool: GraderPool) -> None:
    jobs: list[tuple[str, Job]] = []
    for row in HumanEvalEnvironment().rows:
        jobs.append((row.task_id, humaneval.job_of(row, row.reference)))
    for subset in ("full", "sanitized"):
        for split in mbpp.SPLITS:
            jobs += [
                (f"{subset}/{row.task_id}", mbpp.job_of(row, row.reference)) for row in MbppEnvironment(split, subset).rows
            ]
    jobs = jobs[::12]  # `hatch run sweep` grades them all
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with ThreadPoolExecutor(4) as executor:
            rulings = list(executor.map(lambda job: (job[0], pool.grade(job[1])), jobs))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert [(name, ruling) for name, ruling in rulings if not ruling.passed] == []
    assert len(rulings) > 100


def test_the_prompt_shows_one_test_and_hides_the_others(data_dir: Path) -> None:
    env = MbppEnvironment("train", data_dir=data_dir)
    for seed in range(len(env)):
        problem = env.problem(seed)
        text = env.messages(problem)[1].content
        assert problem.payload.tests[0] in text
        assert not any(test in text for test in problem.payload.tests[1:])


def test_splits_and_missing_sets_are_clear_errors(data_dir: Path, tmp_path: Path) -> None:
    assert len(MbppEnvironment("test", data_dir=data_dir)) == 1
    with pytest.raises(ConfigurationError, match="no split"):
        MbppEnvironment("dev", data_dir=data_dir)
    with pytest.raises(EnvironmentUnavailableError, match="no row of the split"):
        MbppEnvironment("validation", data_dir=data_dir)
    with pytest.raises(EnvironmentUnavailableError) as raised:
        HumanEvalEnvironment(data_dir=tmp_path)
    assert "humaneval/HumanEval.jsonl" in raised.value.hint
