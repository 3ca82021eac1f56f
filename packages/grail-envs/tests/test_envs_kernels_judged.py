"""Kernels judged for real: in the interpreter, compiled for sm_90, each stage in its confined process. Needs Triton."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.environment import GradeOutcome
from grail_envs.kernels.environment import TritonKernelEnvironment
from grail_envs.kernels.judging import COMPILER, LIMITS, Judgement
from grail_envs.kernels.tasks import OWN_TASKS
from grail_envs.kernels.tasks.form import OwnTask, model
from grail_envs.sandbox.pool import shared_pool
from tooling.testing.honest_kernels import HONEST
from tooling.testing.kernel_answers import ANSWERS
from tooling.testing.paid_kernels import PAID_LATER
from tooling.testing.wrong_kernels import COPY, HOSTILE, NOTHING, PAID, RIGHT, TASK, WRONG, module

if find_spec("triton") is None:
    pytest.skip("Triton is not installed here: hatch run triton:test", allow_module_level=True)

pytestmark = pytest.mark.timeout(600)


def judged_here(**parameters: Any) -> TritonKernelEnvironment:
    """The environment of a network whose Triton is the one that is installed."""
    return TritonKernelEnvironment(triton=".".join(version("triton").split(".")[:2]), **parameters)


def said(code: str) -> str:
    return f"I think so.\n\n```python\n{code}\n```"


@pytest.mark.parametrize("name", OWN_TASKS)
def test_the_right_answer_of_an_own_task_is_right_and_makes_a_binary_for_sm_90(name: str, tmp_path: Path) -> None:
    environment = judged_here(tasks=[name])
    problem = environment.problem(1)
    judgement = Judgement(problem.payload, ANSWERS[name], problem.seed)
    grade = judgement.grade()
    assert (grade.detail, grade.reward, grade.success) == ("", 1.0, True)
    message = {"stage": "compile", "code": ANSWERS[name], "plans": judgement.plans, "keep": True}
    ptx = json.loads(shared_pool(COMPILER).ask(message, LIMITS).output)["ptx"]
    assert ptx
    spec = find_spec("triton")
    assert spec is not None
    assert spec.origin is not None
    assembler = Path(spec.origin).parent / "backends/nvidia/bin/ptxas"
    for variant, text in ptx.items():
        source = tmp_path / f"{variant}.ptx"
        source.write_text(text, encoding="utf-8")
        made = [str(assembler), "-arch=sm_90a", str(source), "-o", str(tmp_path / "kernel.cubin")]
        assert subprocess.run(made, capture_output=True, check=False).returncode == 0
        assert (tmp_path / "kernel.cubin").stat().st_size > 1000


@pytest.mark.parametrize("wrong", [*WRONG, *HOSTILE, *PAID, *PAID_LATER], ids=lambda wrong: wrong.name)
def test_a_wrong_kernel_fails_for_its_reason(wrong: Any) -> None:
    environment = judged_here(tasks=[wrong.task])
    grade = environment.grade(environment.problem(0), said(wrong.code))
    assert wrong.detail in grade.detail
    assert not grade.success
    assert grade.outcome is GradeOutcome.GRADED
    assert tuple(name for name in ("format", "compiles", "correct") if grade.components[name]) == wrong.earned


@pytest.mark.parametrize(
    "wrong", [one for one in (*WRONG, *HOSTILE, *PAID, *PAID_LATER) if one.unread], ids=lambda wrong: wrong.name
)
def test_what_its_form_would_give_away_meets_another_border_behind(wrong: Any) -> None:
    environment = judged_here(tasks=[wrong.task])
    problem = environment.problem(0)
    grade = Judgement(problem.payload, wrong.code, 0).grade(unread=True)
    assert wrong.unread in grade.detail
    assert not grade.success
    assert grade.outcome is GradeOutcome.GRADED


@pytest.mark.parametrize("name", HONEST)
def test_a_right_answer_passes_however_it_is_written(name: str) -> None:
    environment = judged_here(tasks=[TASK])
    grade = environment.grade(environment.problem(0), said(HONEST[name]))
    assert (grade.detail, grade.success) == ("", True)


def test_a_copy_beside_a_kernel_that_does_nothing_is_not_the_kernels_work(tmp_path: Path) -> None:
    """The outputs are right to the bit, and no kernel has written them."""
    folder = tmp_path / "kernelbench"
    folder.mkdir()
    body = model("x):\nreturn x.t().contiguous()", inputs="torch.randn(4, 6)")
    row = {"name": "transpose", "problem_id": 1, "level": 1, "code": OwnTask("transpose", body).source({})}
    (folder / "level_1.jsonl").write_text(json.dumps(row), encoding="utf-8")
    environment = judged_here(source="kernelbench", data_dir=str(tmp_path))
    beside = module("nothing[(1,)](x, x, 1, BLOCK=16)\nreturn x.t().contiguous()", kernel=NOTHING)
    assert "was not written by a kernel" in environment.grade(environment.problem(0), said(beside)).detail
    copied = module(
        "y = x.t().contiguous()\nz = torch.empty_like(y)\ncopy[(y.shape[0],)](y, z, y.shape[1], BLOCK=8)\nreturn z", kernel=COPY
    )
    assert environment.grade(environment.problem(0), said(copied)).success


def test_two_judgements_of_one_answer_are_equal_and_so_are_those_of_its_rivals() -> None:
    environment = judged_here(tasks=[TASK])
    grades = [environment.grade(environment.problem(3), said(RIGHT)) for _ in range(2)]
    assert grades[0].components == grades[1].components
    assert grades[0].success


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (OWN_TASKS[TASK].source({"ROWS": 4096, "COLS": 4096}), "without a GPU"),
        (OwnTask("complex", model("x):\nreturn torch.complex(x, x)", inputs="torch.randn(4, 4)")).source({}), "no values"),
        (OwnTask("broken", model("x):\nreturn x @ x", inputs="torch.randn(4, 3)")).source({}), "gives no reference"),
        (
            OwnTask("constant", model("x):\nreturn F.relu(x - 100)", inputs="torch.randn(4, 4)")).source({}),
            "the same right",
        ),
        (OwnTask("nearly", model("x):\nreturn x.mean()", inputs="torch.rand(500, 1000)")).source({}), "the same right"),
        (OwnTask("permuted", model("x):\nreturn x", inputs="torch.randperm(4)")).source({}), "draws by randperm"),
    ],
)
def test_a_task_that_cannot_be_judged_is_nobodys_fault(code: str, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "kernelbench"
    folder.mkdir()
    row = {"name": "row", "problem_id": 1, "level": 1, "code": code}
    (folder / "level_1.jsonl").write_text(json.dumps(row), encoding="utf-8")
    environment = judged_here(source="kernelbench", data_dir=str(tmp_path))
    grade = environment.grade(environment.problem(0), said(RIGHT))
    assert grade.outcome is GradeOutcome.INCONCLUSIVE
    assert reason in grade.detail


def test_every_own_task_has_right_outputs_that_follow_from_its_inputs() -> None:
    """An answer that ignores them would be right otherwise; tried with several sizes of each."""
    environment = judged_here()
    assert environment.own_checks()[0][1:] == (True, "42 tasks have right outputs that follow from their inputs")


def test_a_task_of_a_quarter_of_a_million_elements_is_judged(tmp_path: Path) -> None:
    folder = tmp_path / "kernelbench"
    folder.mkdir()
    code = OwnTask("relu", model("x):\nreturn torch.relu(x)", inputs="torch.randn(256, 1024)")).source({})
    row = {"name": "relu", "problem_id": 1, "level": 1, "code": code}
    (folder / "level_1.jsonl").write_text(json.dumps(row), encoding="utf-8")
    environment = judged_here(source="kernelbench", data_dir=str(tmp_path))
    grade = environment.grade(environment.problem(0), said(ANSWERS["relu"]))
    assert (grade.detail, grade.success) == ("", True)


def test_bfloat16_is_computed_and_rounded_as_a_gpu_does() -> None:
    """What the interpreter does by itself is noise: it adds the bits and cuts off what it stores."""
    environment = judged_here(tasks=["add_bf16"])
    grade = environment.grade(environment.problem(0), said(ANSWERS["add_bf16"]))
    assert grade.success
    wrong = ANSWERS["add_bf16"].replace("a + 0.5 * b", "a + 0.53 * b")
    assert "tolerance" in environment.grade(environment.problem(0), said(wrong)).detail


def test_what_is_no_whole_number_becomes_the_same_one_on_every_processor() -> None:
    from grail_envs.kernels.interpreter import whole_numbers

    values = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, -1.9, 2.5], dtype=np.float32)
    top, bottom = 2**31 - 1, -(2**31)
    assert whole_numbers(values, np.int32).tolist() == [0, top, bottom, top, bottom, -1, 2]
    assert whole_numbers(values[:3], np.int64).tolist() == [0, 2**63 - 1, -(2**63)]
    assert whole_numbers(values[:5], np.uint8).tolist() == [0, 255, 0, 255, 0]


def test_the_sample_of_the_page_is_right() -> None:
    page = (Path(__file__).parents[3] / "docs/kernels.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    environment = judged_here(tasks="relu")
    grade = environment.grade(environment.problem(3), said(code))
    assert (grade.detail, grade.success) == ("", True)
