"""Traces: Python prints what the grammar's interpreter says, pinned programs run, and the answer must be the whole output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_envs.sandbox import GraderPool
from grail_envs.trace.environment import TraceEnvironment, job_of


def test_python_prints_what_the_grammars_interpreter_says(pool: GraderPool) -> None:
    env = TraceEnvironment()
    for seed in [*range(60), 2**64 - 1]:
        problem = env.problem(seed)
        ruling = pool.grade(job_of(problem.payload.program))
        assert ruling.passed, (problem.payload.program, ruling)
        assert ruling.output == problem.payload.expected, problem.payload.program
        assert env.grade(problem, env.reference(problem)).reward == 1.0


def test_only_the_whole_output_counts() -> None:
    env = TraceEnvironment()
    problem = env.problem(1)
    expected = problem.payload.expected
    assert env.grade(problem, f"<answer>{expected.replace(chr(10), '  ' + chr(10))}</answer>").success
    assert env.grade(problem, f"<answer>\n```\n{expected}```\n</answer>").success
    assert not env.grade(problem, f"<answer>{expected}1</answer>").success
    assert not env.grade(problem, f"<answer>{expected.splitlines()[0]}</answer>").success
    for text in ("", "<answer></answer>", "<answer>\n```\n```\n</answer>", "<answer>" * 10**5):
        assert env.grade(problem, text).reward == 0.0


def test_pinned_programs_run_and_their_prints_follow_the_seed(data_dir: Path, pool: GraderPool) -> None:
    env = TraceEnvironment("mbpp", data_dir=data_dir)
    for seed in range(4):
        problem = env.problem(seed)
        assert env.grade(problem, env.reference(problem)).success
        assert not env.grade(problem, "<answer>something else</answer>").success
    assert env.spec.data_digest
    with pytest.raises(ConfigurationError):
        TraceEnvironment("elsewhere")


@pytest.mark.skipif(not os.environ.get("GRAIL_DATA_DIR"), reason="GRAIL_DATA_DIR is unset: MBPP is not there")
def test_programs_of_mbpp_run_with_debug_prints(pool: GraderPool) -> None:
    env = TraceEnvironment("mbpp")
    for seed in range(0, 300, 10):
        problem = env.problem(seed)
        ruling = pool.grade(job_of(problem.payload.program))
        assert ruling.passed, (problem.payload.program, ruling)
        assert ruling.output.strip()
