"""`load_environment` of `verifiers` before 0.4: a package with a rubric, and ours exported, scored and adapted back."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grail_core.capabilities import teacher_of
from grail_core.errors import EnvironmentUnavailableError
from grail_envs.cli import main
from grail_envs.registry import load
from tests.adapters.exported_package import install_exported
from tooling.testing.foreign_packages import write_package


def sums(**arguments: Any) -> Any:
    return load("verifiers", package="classic-sums", arguments={"count": 8, **arguments}, success_at="2/3")


def test_a_rubric_is_run_to_its_end_and_its_weights_are_the_bounds() -> None:
    environment = sums()
    for seed in range(8):
        problem = environment.problem(seed)
        system, asked = environment.messages(problem)
        first, second = asked.content.removeprefix("What is ").removesuffix("?").split(" + ")
        said = f"<answer>{int(first) + int(second)}</answer>"
        assert system.role == "system"
        assert (environment.bounds.lowest, environment.bounds.highest) == (-0.5, 1)
        grades = [environment.grade(problem, text) for text in (said + " " * 40, said, "<answer>1</answer>", "x" * 41)]
        assert [grade.reward for grade in grades] == pytest.approx([1, 2 / 3, 0, 1 / 3])
        assert [grade.success for grade in grades] == [True, True, False, False]
        assert grades[1].components["characters"] == len(said)


@pytest.mark.timeout(900)  # a package is loaded four times and judges some hundreds of texts
def test_a_package_from_the_index_is_asked_judged_and_passes_check() -> None:
    """`staros-stardata`: poems by form, judged by prosody; its environment lies in a module of another name."""
    place = {"package": "staros-stardata", "module": "stardata.envs.constraint_gym"}
    environment = load("verifiers", **place, arguments={"forms": ["acrostic"]})
    problem = environment.problem(0)
    assert "FROST" in environment.messages(problem)[0].content
    poem = "Fans hum all night\nRacks glow in blue\nOver the floor\nSmall lights blink on\nTill morning comes through"
    good, poor = environment.grade(problem, poem), environment.grade(problem, "a\nb\nc\nd\ne")
    assert 0.0 <= poor.reward < good.reward <= 1.0
    options = ["--param", f"module={place['module']}", "--param", 'arguments={"forms": ["acrostic", "haiku"]}']
    options += ["--seeds", "10", "--json"]
    result = CliRunner().invoke(main, ["check", place["package"], *options])
    assert [row for row in json.loads(result.stdout) if not row["passed"]] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"turns": 3}, "no SingleTurnEnv"), ({"judge": True}, "it asks a model"), ({"nonsense": 1}, "TypeError")],
)
def test_what_is_more_than_one_turn_judged_by_code_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(EnvironmentUnavailableError, match=said):
        sums(**arguments)


RAMBLING = """
import verifiers as vf
from datasets import Dataset

def right(completion, answer, **more):
    return float(answer in completion[-1]["content"])

def rambling(completion, **more):
    return completion[-1]["content"].count(" ") / completion[-1]["content"].count(".")

async def late(completion):
    return 0 / len(completion[-1]["content"].replace("late.", ""))

def told(completion):
    return {"more": "than a number"}  # of no weight: whatever it gives, it pays nothing

def load_environment():
    rows = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(10, 14)]
    rubric = vf.Rubric(funcs=[right, rambling, late, told], weights=[1.0, -0.5, -0.5, 0.0])
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), rubric=rubric)
"""


def test_an_answer_that_breaks_a_penalty_is_not_paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library counts what a reward function raises as 0, the best that a penalty can be."""
    tmp_path.chmod(0o755)
    write_package(tmp_path, "rambling-sums", {"rambling_sums/__init__.py": RAMBLING}, requires="verifiers")
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = load("verifiers", package="rambling-sums")
    problem = environment.problem(0)
    right = str(2 * int(environment.messages(problem)[-1].content.partition(" ")[0]))
    rewards = [environment.grade(problem, text) for text in (f"{right}.", right, "late.")]
    assert [(grade.reward, grade.success) for grade in rewards] == [(1.0, True), (0.0, False), (0.0, False)]
    assert [grade.detail.rpartition(" ")[2] for grade in rewards] == ["", "ZeroDivisionError", "ZeroDivisionError"]


TWICE = """
import verifiers as vf
from datasets import Dataset

def reward_of(function):
    def reward(completion, answer):
        return function(completion[-1]["content"], answer)
    return reward

def load_environment():
    hidden = reward_of(lambda said, answer: 5.0 if said == "hack" else float(said == answer))
    rubric = vf.Rubric(funcs=[hidden, reward_of(lambda said, answer: float(said == answer))], weights=[1.0, 4.0])
    return vf.SingleTurnEnv(dataset=Dataset.from_list([{"question": "1?", "answer": "1"}]), rubric=rubric)
"""


def test_a_reward_is_not_hidden_behind_another_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    write_package(tmp_path, "rambling-sums", {"rambling_sums/__init__.py": TWICE}, requires="verifiers")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EnvironmentUnavailableError, match="two of its reward functions are called reward"):
        load("verifiers", package="rambling-sums")


def test_an_exported_environment_is_scored_by_the_library_as_by_us_and_so_when_it_is_adapted_back(tmp_path: Path) -> None:
    ours = load("sat")
    install_exported(ours, tmp_path, 4)
    exported = importlib.import_module("grail_sat").load_environment()
    back = load("verifiers", package="grail-sat")
    rewards = set()
    for seed in range(4):
        problem = ours.problem(seed)
        again = next(one for one in map(back.problem, range(4)) if one.payload.row == seed)
        assert back.messages(again) == ours.messages(problem)
        guess = teacher_of(ours).stages[0].demonstrate(problem, random.Random(seed))
        for text in ("", "no answer", guess):
            grade, returned = ours.grade(problem, text), back.grade(again, text)
            assert asyncio.run(scored(exported, seed, text)) == (grade.reward, float(grade.success))
            assert (returned.reward, returned.success) == (grade.reward, grade.success)
            rewards.add(grade.reward)
    assert len(rewards) > 2


async def scored(environment: Any, seed: int, text: str) -> tuple[float, float]:
    """Reward and success as the library's rubric gives them to a rollout of one reply."""
    from verifiers.types import State

    row = environment.get_dataset()[seed]
    said = [{"role": "assistant", "content": text}]
    state = State(input=row, prompt=row["prompt"], completion=said, answer="", info=row["info"], trajectory=[])
    state["timing"] = {"scoring_ms": 0.0, "total_ms": 0.0}
    score = environment.rubric.score_rollout
    await score(state, **({"score_sem": nullcontext()} if "score_sem" in signature(score).parameters else {}))
    return state["reward"], state["metrics"]["grail_success"]
