"""Code environments: reference solutions pass, wrong and forged answers fail, the prompt hides what it should."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs import humaneval, mbpp
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
