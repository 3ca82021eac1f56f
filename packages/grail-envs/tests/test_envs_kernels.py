"""Kernels as far as no Triton is needed: what is read of an answer, plans, tolerances, tasks, rewards, the spec."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.cli import main
from grail_envs.kernels import comparing, judging, rewards
from grail_envs.kernels.comparing import Expected, difference
from grail_envs.kernels.drawing import fresh_seeds
from grail_envs.kernels.environment import TritonKernelEnvironment
from grail_envs.kernels.plan import Plan, PlanError
from grail_envs.kernels.reading import read_answer
from grail_envs.kernels.rewards import KERNEL_REWARDS, timed_score
from grail_envs.kernels.tasks import OWN_TASKS
from tooling.testing.kernel_answers import ANSWERS
from tooling.testing.paid_kernels import PAID_LATER
from tooling.testing.wrong_kernels import HOSTILE, KERNEL, PAID, RIGHT, WRONG

BY_FORM = [wrong for wrong in (*WRONG, *HOSTILE, *PAID, *PAID_LATER) if not wrong.earned]


def test_every_own_task_has_a_right_answer_that_is_read() -> None:
    assert len(OWN_TASKS) >= 24
    assert OWN_TASKS.keys() == ANSWERS.keys()
    assert {
        name: reading.problem for name, reading in ((n, read_answer(code)) for n, code in ANSWERS.items())
    } == dict.fromkeys(ANSWERS, "")


@pytest.mark.parametrize("wrong", BY_FORM, ids=lambda wrong: wrong.name)
def test_an_answer_without_the_form_is_refused_with_its_reason(wrong: Any) -> None:
    assert wrong.detail in read_answer(wrong.code).problem


def test_the_module_that_runs_holds_kernels_and_constants_alone() -> None:
    code = RIGHT.replace(
        KERNEL, "SCALE = 2 * 3.5\nprint('x')\nTABLE = [1]\n" + KERNEL.replace("tl.exp(v", "tl.exp(SCALE * 0 + v")
    )
    reading = read_answer(code)
    assert reading.problem == ""
    kinds = {type(node) for node in ast.parse(reading.module).body}
    assert kinds == {ast.Import, ast.Assign, ast.FunctionDef}
    assert "SCALE = triton.language.constexpr(7.0)" in reading.module
    assert "print" not in reading.module
    assert "TABLE" not in reading.module
    assert "ModelNew" not in reading.module


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import os", "it imports os"),
        ("open('/etc/passwd')", "'open'"),
        ("x.handle", "'handle'"),
        ("9 ** 9 ** 9 ** 9", "a power"),
        ("tl.core.inspect", "core.inspect"),
        ("tl.inline_asm_elementwise('', '', [], tl.int32, True, 1)", "inline_asm"),
        ("[i for i in range(3)]", "ListComp"),
        ("lambda: 0", "Lambda"),
        ("f'{x}'", "JoinedStr"),
        ("softmax_kernel.fn", "'fn'"),
        ("tl = 0", "another meaning"),
        ("global other", "no statement"),
        ("x.shape = 1", "that is set"),
        ("tl.sum(*x)", "by *"),
        ("tl.extra.libdevice.exp(v)", "extra"),
        ("triton.jit", "'jit'"),
        ("__import__('os')", "__import__"),
        ("t = 'a'", "text"),
        ("t = '%s' % x", "text"),
        ("t = x in (y, 1)", "or `in`"),
        ("t = tl.view(v, (BLOCK,))", "write tl.reshape"),
        ("t = tl.cat(v, v, True)", "can_reorder"),
        ("t = v ** cols", "exponent"),
        ("for t in (1, 2):\n        pass", "a loop over"),
        ("(tl.exp)(v)[0]()", "call of what is no name"),
    ],
)
def test_what_triton_does_not_compile_never_runs_in_a_kernel(line: str, reason: str) -> None:
    code = RIGHT.replace("    v = tl.exp", f"    {line}\n    v = tl.exp")
    assert reason in read_answer(code).problem


@pytest.mark.parametrize("text", ["", "(" * 5000, "x = " + "-" * 5000 + "1", "\x00", "a.b" * 10, "def f(:"])
def test_no_text_hurts_whoever_reads_it(text: str) -> None:
    assert read_answer(text).problem != ""


def _plan(**changes: Any) -> dict[str, Any]:
    view = {"buffer": 0, "dtype": "float32", "shape": [2, 2], "stride": [2, 1], "offset": 0}
    launch = {"do": "launch", "kernel": "k", "grid": [1, 1, 1], "arguments": {"x": view, "n": 3}, "options": {"num_warps": 4}}
    said: dict[str, Any] = {"buffers": [{"size": 16, "source": ""}], "steps": [launch], "outputs": [view]}
    return {**said, **changes}


def test_a_plan_is_read_back_as_it_was_said() -> None:
    plan = Plan.read(json.loads(json.dumps(_plan())))
    assert [launch.kernel for launch in plan.launches] == ["k"]
    assert plan.outputs[0].shape == (2, 2)


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        _plan(buffers=[{"size": 2**40, "source": ""}]),
        _plan(buffers=[{"size": 15, "source": ""}]),
        _plan(buffers=[{"size": -1, "source": ""}]),
        _plan(outputs=[{"buffer": 1, "dtype": "float32", "shape": [], "stride": [], "offset": 0}]),
        _plan(outputs=[{"buffer": 0, "dtype": "object", "shape": [], "stride": [], "offset": 0}]),
        _plan(outputs=[{"buffer": 0, "dtype": "float32", "shape": [2], "stride": [-1], "offset": 1}]),
        _plan(outputs=[{"buffer": 0, "dtype": "float32", "shape": [2, 2], "stride": [1], "offset": 0}]),
        _plan(steps=[{"do": "matmul"}]),
        _plan(steps=[{"do": "fill", "view": _plan()["outputs"][0], "value": "1"}]),
        _plan(steps=[{**_plan()["steps"][0], "grid": [2**20, 2**20, 1]}]),
        _plan(steps=[{**_plan()["steps"][0], "grid": [1, 2**16, 1]}]),
        _plan(steps=[{**_plan()["steps"][0], "arguments": {"x": {"type": "object"}}}]),
        _plan(steps=[{**_plan()["steps"][0], "arguments": {"x": [1]}}]),
        _plan(steps=[{**_plan()["steps"][0], "options": {"num_warps": 3}}]),
        _plan(steps=[_plan()["steps"][0]] * 2000),
    ],
)
def test_a_forged_plan_is_refused(said: Any) -> None:
    with pytest.raises(PlanError):
        Plan.read(said)


def _expected(values: Any, dtype: str, terms: int) -> Expected:
    array = np.asarray(values, dtype=np.float64)
    return Expected(dtype, array.shape, array, terms)


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 2.0**-24), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_rounding_passes_and_a_few_times_as_much_does_not(dtype: str, unit: float) -> None:
    right = np.random.RandomState(0).standard_normal(1000)
    expected = _expected(right, dtype, 1)
    assert difference(expected, dtype, (1000,), right * (1 + unit)) == ""
    assert "differ" in difference(expected, dtype, (1000,), right * (1 + 64 * unit))


def test_a_longer_sum_may_differ_by_more_and_by_no_more_than_its_root() -> None:
    right = np.ones(10)
    off = right + 32 * 2.0**-24 * 10
    assert difference(_expected(right, "float32", 400), "float32", (10,), off) == ""
    assert "differ" in difference(_expected(right, "float32", 4), "float32", (10,), off)


def test_nan_infinities_shapes_types_and_whole_numbers_are_exact() -> None:
    right = _expected([1.0, np.inf], "float32", 4)
    assert difference(right, "float32", (2,), np.array([1.0, np.inf])) == ""
    assert "NaN" in difference(right, "float32", (2,), np.array([np.nan, np.inf]))
    assert "infinite" in difference(right, "float32", (2,), np.array([1.0, 1e30]))
    assert "differ" in difference(right, "float32", (2,), np.array([np.inf, np.inf]))
    assert "shape" in difference(right, "float32", (2, 1), np.array([[1.0], [np.inf]]))
    assert "type" in difference(right, "float16", (2,), np.array([1.0, np.inf]))
    whole = Expected("int32", (2,), np.array([3, 4], dtype=np.int32), 1)
    assert difference(whole, "int32", (2,), np.array([3, 4], dtype=np.int32)) == ""
    assert "1 of 2" in difference(whole, "int32", (2,), np.array([3, 5], dtype=np.int32))


def test_bfloat16_is_read_from_its_bytes() -> None:
    values = comparing.array_of("bfloat16", (2,), np.array([0x3F80, 0xC040], dtype=np.uint16).tobytes())
    assert values.tolist() == [1.0, -3.0]
    with pytest.raises(ValueError, match="reshape"):
        comparing.array_of("float32", (3,), b"\0" * 8)


def test_inputs_follow_from_the_problem_and_from_every_letter_and_plan_of_the_answer() -> None:
    environment = TritonKernelEnvironment()
    task = environment.problem(5).payload
    seeds = fresh_seeds(task, "code", 5, [])
    assert len({*seeds}) == len(task.draws) >= 5
    assert seeds == fresh_seeds(task, "code", 5, [])
    for other in (fresh_seeds(task, "code ", 5, []), fresh_seeds(task, "code", 6, []), fresh_seeds(task, "code", 5, [_plan()])):
        assert not {*seeds} & {*other}


def test_a_problem_shows_one_choice_of_sizes_and_answers_meet_others() -> None:
    environment = TritonKernelEnvironment(tasks=["matmul"])
    sources = [environment.problem(seed).payload.draws for seed in range(8)]
    assert all(draws[0] == draws[1] for draws in sources)
    assert all(len({*draws}) > 1 for draws in sources)
    text = environment.messages(environment.problem(0))[1].content
    assert environment.problem(0).payload.source in text
    assert all(compile(source, "<task>", "exec") for draws in sources for source in draws)


def test_no_problem_has_the_least_sizes_alone() -> None:
    """Where a side is 1, a softmax is 1 and a largest place is 0, whatever the input."""
    environment = TritonKernelEnvironment()
    for seed in range(500):
        task = environment.problem(seed).payload
        least = {f"{name} = {values[0]}\n" for name, values in OWN_TASKS[task.name].sizes.items()}
        assert not any(line in source for source in (task.draws[0], task.draws[-1]) for line in least)


def test_no_clock_and_no_setting_has_a_part_in_what_validators_compare() -> None:
    """The timed score is in no grade, and what makes grades cannot read a clock."""
    assert [component.name for component in KERNEL_REWARDS.components] == ["correct", "compiles", "format"]
    for module in (judging, comparing, rewards):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"time", "os", "datetime"}
        assert not any(".kernels.gpu" in name for name in imported)
    assert "timed_score" not in Path(str(judging.__file__)).read_text(encoding="utf-8")


def test_the_timed_score_is_the_sigmoid_of_the_design() -> None:
    assert timed_score(correct=True, speed_up=1.0) == pytest.approx(1 / (1 + np.exp(-0.2)))
    assert timed_score(correct=True, speed_up=9.0) == timed_score(correct=True, speed_up=3.0)
    assert timed_score(correct=False, speed_up=9.0) == pytest.approx(1 / (1 + np.exp(1.8)))


def test_the_spec_names_the_triton_that_judges_and_the_tasks() -> None:
    first, other = TritonKernelEnvironment(tasks=["relu"]), TritonKernelEnvironment(tasks=["softmax"])
    assert first.spec.parameters["triton"] == "3.9"
    assert first.spec.digest == TritonKernelEnvironment(tasks=["relu"]).spec.digest != other.spec.digest


def test_unknown_parameters_are_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match="no source"):
        TritonKernelEnvironment(source="web")
    with pytest.raises(ConfigurationError, match="no task"):
        TritonKernelEnvironment(tasks=["sofmax"])
    with pytest.raises(ConfigurationError, match="no version"):
        TritonKernelEnvironment(triton="newest")


def test_another_triton_than_the_networks_is_refused_where_the_environment_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grail_envs.kernels.triton_version.version", lambda name: "3.7.1")
    with pytest.raises(EnvironmentUnavailableError, match=r"3\.9, and 3\.7\.1"):
        TritonKernelEnvironment()
    assert TritonKernelEnvironment(triton="3.7").spec.parameters["triton"] == "3.7"


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="Triton is installed here")
def test_without_triton_problems_are_made_and_judging_says_what_to_install() -> None:
    environment = TritonKernelEnvironment()
    assert environment.grade(environment.problem(0), "no code").reward == 0.0
    with pytest.raises(EnvironmentUnavailableError) as raised:
        environment.grade(environment.problem(0), f"```python\n{RIGHT}\n```")
    assert "grail-envs[triton]" in raised.value.hint
    with pytest.raises(EnvironmentUnavailableError, match="triton is not installed"):  # before `grail-envs check` says a word
        environment.own_checks()
    checked = CliRunner().invoke(main, ["check", "triton_kernel"])
    assert (checked.exit_code, checked.stdout) == (7, "")


def test_kernelbench_rows_are_read_from_a_folder_by_level_and_name(tmp_path: Path) -> None:
    folder = tmp_path / "kernelbench"
    folder.mkdir()
    rows = [
        {"name": f"{number}_task", "problem_id": number, "level": 1, "code": OWN_TASKS[name].source({"ROWS": 2, "COLS": 3})}
        for number, name in ((2, "relu"), (1, "softmax"))
    ]
    (folder / "level_1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    environment = TritonKernelEnvironment(source="kernelbench", data_dir=str(tmp_path))
    assert sorted(environment.problem(seed).payload.name for seed in range(2)) == ["1_task", "2_task"]
    one = TritonKernelEnvironment(source="kernelbench", tasks=["2_task"], data_dir=str(tmp_path))
    assert {one.problem(seed).payload.name for seed in range(4)} == {"2_task"}
    assert one.spec.digest != environment.spec.digest
    with pytest.raises(ConfigurationError, match="no task"):
        TritonKernelEnvironment(source="kernelbench", tasks=["3_task"], data_dir=str(tmp_path))
    (folder / "level_1.jsonl").write_text(json.dumps({**rows[0], "code": "class:"}), encoding="utf-8")
    with pytest.raises(EnvironmentUnavailableError, match="row 0"):
        TritonKernelEnvironment(source="kernelbench", data_dir=str(tmp_path))


def test_the_version_in_the_spec_is_the_one_of_the_projects_triton_environment() -> None:
    assert importlib.metadata.version("grail-envs")
    hatch = (Path(__file__).parents[3] / "hatch.toml").read_text(encoding="utf-8")
    assert '"triton==3.9.0"' in hatch
