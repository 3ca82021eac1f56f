"""Task sets of `verifiers` from 0.4: a package of its template, and ours exported, scored by the library and adapted back."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import verifiers.v1 as vf
from click.testing import CliRunner

from grail_core.capabilities import teacher_of
from grail_core.errors import EnvironmentUnavailableError
from grail_envs.cli import main
from grail_envs.registry import load
from tests.adapters.exported_package import install_exported
from tooling import REPOSITORY
from tooling.testing.foreign_packages import write_package

DATA = REPOSITORY / "packages/grail-envs/tests/fixtures"


def word_problems(**parameters: Any) -> Any:
    return load("verifiers", package="word-problems", data_dir=DATA, **parameters)


def test_a_package_of_the_template_is_asked_and_judged_by_its_rewards() -> None:
    environment = word_problems(arguments={"num_tasks": 5})
    gold = {row["question"]: row["answer"].rpartition("####")[2].strip() for row in gsm8k_rows()}
    assert len(environment) == 5
    for seed in range(5):
        problem = environment.problem(seed)
        system, asked = environment.messages(problem)
        assert (system.role, asked.role) == ("system", "user")
        right = environment.grade(problem, f"<think>so</think>It is <answer>{gold[asked.content]}</answer>")
        assert (right.reward, right.success) == (1.0, True)
        assert right.components.keys() == {"right", "form"}
        wrong = environment.grade(problem, "<answer>-7</answer>")
        assert (wrong.reward, wrong.success) == (0.1, False)
        assert environment.grade(problem, "").reward == 0.0


@pytest.mark.timeout(900)  # a package is loaded four times and judges some hundreds of texts
def test_check_passes_a_package_of_the_template() -> None:
    result = CliRunner().invoke(main, ["check", "word-problems", "--data-dir", str(DATA), "--seeds", "20", "--json"])
    findings = {row["check"]: row for row in json.loads(result.stdout)}
    assert [row for row in findings.values() if not row["passed"]] == []
    assert {"determinism", "bounds", "loads", "rewards", "state", "chance", "rewards_in_bounds", "sources"} < findings.keys()


def test_the_spec_binds_version_files_library_arguments_and_rows() -> None:
    spec = word_problems(arguments={"num_tasks": 5}).spec
    assert spec.parameters["package_version"] == "0.1.0"
    assert spec.parameters["requires"].keys() == {"verifiers"}
    assert spec.digest == word_problems(arguments='{"num_tasks": 5}').spec.digest
    other = word_problems(arguments={"num_tasks": 4}).spec
    assert (other.digest != spec.digest, other.data_digest != spec.data_digest) == (True, True)
    with pytest.raises(EnvironmentUnavailableError, match=r"pip install 'verifiers==0\.0\.1'"):
        load("verifiers", **{**spec.parameters, "requires": {"verifiers": "0.0.1"}})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": {"judges": [{"id": "reference"}]}}, "name code to be imported"),
        ({"system_prompt": "/etc/hostname"}, "name a file"),
        ({"task": {"rewards": {"right": {"fn": "os:system"}}}}, "name code to be imported"),
        ({"split": "none"}, "FileNotFoundError"),
        ({"no_such": 1}, "ValidationError"),
        ({"num_tasks": 0}, "no rows"),
    ],
)
def test_what_cannot_be_adapted_says_why(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(EnvironmentUnavailableError, match=said):
        word_problems(arguments=arguments)


MIXED = """
import verifiers.v1 as vf

class Data(vf.TaskData):
    gold: str

class Sum(vf.Task[Data]):
    @vf.reward(weight=1.0)
    async def right(self, trace: vf.Trace) -> float:
        return float(self.data.gold in trace.last_reply)

    @vf.reward(weight=-0.5)
    async def rambling(self, trace: vf.Trace) -> float:
        return min(1.0, trace.last_reply.count(" ") / trace.last_reply.count("."))

class Dear(vf.Task[Data]):
    @vf.reward(weight=3.0)
    async def right(self, trace: vf.Trace) -> float:
        return 1.0

class Prepared(Sum):
    async def setup(self, *words, **named):
        raise RuntimeError("needs a machine")

class Config(vf.TasksetConfig):
    second: str = "Sum"

class MixedTaskset(vf.Taskset[Sum, Config]):
    def load(self):
        kinds = [Sum, globals()[self.config.second]]
        return [kinds[n % 2](Data(prompt=f"{n}+{n}?", gold=str(2 * n)), self.config.task) for n in range(10, 14)]

__all__ = ["MixedTaskset"]
"""


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    write_package(tmp_path, "mixed-tasks", {"mixed_tasks/__init__.py": MIXED}, requires="verifiers")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(("second", "said"), [("Dear", "other reward functions or weights"), ("Prepared", "setup of its own")])
def test_every_task_of_a_set_is_looked_at(second: str, said: str, mixed: None) -> None:
    with pytest.raises(EnvironmentUnavailableError, match=said):
        load("verifiers", package="mixed-tasks", arguments={"second": second})


def test_an_answer_that_breaks_a_penalty_is_not_paid(mixed: None) -> None:
    environment = load("verifiers", package="mixed-tasks")
    problem = environment.problem(0)
    asked = environment.messages(problem)[0].content
    right = str(2 * int(asked.partition("+")[0]))
    kept, broken = environment.grade(problem, f"{right}."), environment.grade(problem, right)
    assert (kept.reward, kept.success) == (1.0, True)
    assert (broken.reward, broken.success) == (0.0, False)


def test_an_exported_environment_is_scored_by_the_library_as_by_us_and_so_when_it_is_adapted_back(tmp_path: Path) -> None:
    ours = load("sat")
    install_exported(ours, tmp_path, 6)
    module = importlib.import_module("grail_sat")
    tasks = list(module.GrailSatTaskset(config()))
    back = load("verifiers", package="grail-sat")
    rewards = set()
    for seed, task in enumerate(tasks):
        problem = ours.problem(seed)
        again = next(one for one in map(back.problem, range(6)) if one.payload.row == seed)
        assert back.messages(again) == ours.messages(problem)
        guess = teacher_of(ours).stages[0].demonstrate(problem, random.Random(seed))
        for text in ("", "no answer", guess):
            grade = ours.grade(problem, text)
            assert asyncio.run(scored(task, text)) == (grade.reward, float(grade.success))
            returned = back.grade(again, text)
            assert (returned.reward, returned.success) == (grade.reward, grade.success)
            rewards.add(grade.reward)
    assert len(rewards) > 2


def config() -> Any:
    from verifiers.v1.utils.loaders import taskset_config_type

    return taskset_config_type("grail_sat")(id="grail_sat")


async def scored(task: Any, text: str) -> tuple[float, float]:
    """Reward and success as the library gives them to a rollout of one reply."""
    trace = vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=[vf.MessageNode(message=vf.AssistantMessage(content=text), sampled=True)],
    )
    await task.score(trace)
    return trace.reward, trace.metrics["grail_success"]


def gsm8k_rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / "gsm8k/test.jsonl").read_text().splitlines()]
