"""Timing kernels: the processes that do it, recycled, broken and replaced, on the CPU in the place of a GPU; the settings."""

from __future__ import annotations

import ast
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_envs.kernels.environment import TritonKernelEnvironment
from grail_envs.kernels.gpu.frames import Kind
from grail_envs.kernels.gpu.report import timed_report
from grail_envs.kernels.gpu.settings import TimingSettings
from grail_envs.kernels.gpu.workers import Worker, Workers
from grail_envs.kernels.judging import Judgement
from tooling.testing.wrong_kernels import RIGHT, TASK, WRONG

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed here: hatch run triton:test")
BREAKING = "tooling.testing.breaking_timers"
ON = {"KERNEL_EVAL_BACKEND": "persistent", "GRAIL_GPU_EVAL": "1"}


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, "KERNEL_EVAL_BACKEND"),
        ({**ON, "KERNEL_EVAL_BACKEND": "cuda"}, "KERNEL_EVAL_BACKEND"),
        ({"KERNEL_EVAL_BACKEND": "persistent"}, "GRAIL_GPU_EVAL"),
        ({**ON, "GRAIL_GPU_EVAL": "yes"}, "GRAIL_GPU_EVAL"),
        ({**ON, "KERNEL_EVAL_GPU_IDS": "0,0"}, "KERNEL_EVAL_GPU_IDS"),
        ({**ON, "KERNEL_EVAL_GPU_IDS": "a"}, "KERNEL_EVAL_GPU_IDS"),
        ({**ON, "KERNEL_EVAL_TIMEOUT": "0"}, "KERNEL_EVAL_TIMEOUT"),
        ({**ON, "KERNEL_EVAL_TIMEOUT": "nan"}, "KERNEL_EVAL_TIMEOUT"),
    ],
)
def test_kernels_are_timed_only_where_the_settings_say_so(given: dict[str, str], place: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        TimingSettings.of(given)
    assert raised.value.where == place


def test_a_persistent_worker_and_a_fresh_process_differ_by_the_jobs_of_a_process() -> None:
    both = [
        TimingSettings.of({**ON, "KERNEL_EVAL_BACKEND": name, "KERNEL_EVAL_GPU_IDS": "0, 2"})
        for name in ("persistent", "subprocess")
    ]
    assert [settings.recycle_after for settings in both] == [200, 1]
    assert both[0].gpus == (0, 2)


def test_nothing_that_grades_knows_of_timing() -> None:
    root = Path(__file__).parents[1] / "src/grail_envs"
    for path in root.rglob("*.py"):
        if "gpu" in path.parts or path.name == "cli.py":
            continue
        names = [
            str(node.module)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
        ]
        assert not [name for name in names if ".kernels.gpu" in name], path


@pytest.fixture(scope="module")
def judged() -> Judgement:
    triton = ".".join(version("triton").split(".")[:2])
    problem = TritonKernelEnvironment(tasks=[TASK], triton=triton).problem(0)
    judgement = Judgement(problem.payload, RIGHT, problem.seed)
    assert judgement.grade().success
    return judgement


@pytest.fixture
def breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_TEST_BREAKS", str(tmp_path))
    return tmp_path


def _job(judgement: Judgement) -> dict[str, object]:
    contents = [one.contents for one in judgement.drawn]
    return {"module": judgement.module, "name": "<timed>", "plans": judgement.plans, "contents": contents, "repetitions": 2}


@needs_triton
def test_a_worker_keeps_its_process_until_it_is_recycled(judged: Judgement, breaks: Path) -> None:
    worker = Worker("cpu", TimingSettings((0,), 60.0, 2), BREAKING)
    try:
        assert [worker.ask(Kind.KERNELS, _job(judged)).get("problem") for _ in range(3)] == [None] * 3
        assert worker.started == 2
    finally:
        worker.close()


@needs_triton
@pytest.mark.parametrize("kind", ["sticky", "end"])
def test_a_broken_context_costs_its_process_and_one_retry(judged: Judgement, breaks: Path, kind: str) -> None:
    worker = Worker("cpu", TimingSettings((0,), 60.0, 200), BREAKING)
    try:
        (breaks / f"{kind}1").touch()
        assert worker.ask(Kind.KERNELS, _job(judged))["ms"] > 0
        assert worker.started == 2
        (breaks / f"{kind}1").touch()
        (breaks / f"{kind}2").touch()
        assert worker.ask(Kind.KERNELS, _job(judged))["problem"]
        assert worker.ask(Kind.KERNELS, _job(judged))["ms"] > 0
        assert worker.started == 4
    finally:
        worker.close()


@needs_triton
def test_a_job_that_never_ends_is_ended_and_not_tried_again(judged: Judgement, breaks: Path) -> None:
    worker = Worker("cpu", TimingSettings((0,), 3.0, 200), BREAKING)
    try:
        (breaks / "silent").touch()
        assert "in time" in worker.ask(Kind.KERNELS, _job(judged))["problem"]
        assert worker.started == 1
    finally:
        worker.close()


@needs_triton
def test_a_report_holds_the_grade_and_times_only_what_is_right(judged: Judgement) -> None:
    workers = Workers(TimingSettings((0,), 60.0, 200), devices=("cpu",))
    try:
        report = timed_report(judged, workers, repetitions=2)
        assert (report.right, report.problem) == (True, "")
        assert min(report.kernel_ms or 0, report.reference_ms or 0) > 0
        assert 0 < report.score < 1
        assert report.grade.components.keys() == {"correct", "compiles", "format"}
        wrong = Judgement(judged.task, WRONG[2].code, 0)
        unmeasured = timed_report(wrong, workers)
        assert (unmeasured.kernel_ms, unmeasured.speed_up) == (None, None)
        assert [worker.started for worker in workers.workers] == [1, 1]
    finally:
        workers.close()
