"""Environments of Gymnasium and OpenEnv, built with the real libraries: one reset that asks, one step that pays and ends."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from grail_envs.registry import load

GYMNASIUM = pytest.param("gymnasium", {"entry": "one_step.gym:OneStep/Backwards-v0"}, id="Gymnasium, by the registry")
CLASS = pytest.param("gymnasium", {"entry": "one_step.gym:Backwards"}, id="Gymnasium, by the class")
OPENENV = pytest.param("openenv", {"entry": "one_step.openenv:Backwards", "action": "one_step.openenv:Say"}, id="OpenEnv")


@pytest.mark.parametrize(("form", "parameters"), [GYMNASIUM, CLASS, OPENENV])
def test_a_word_is_asked_and_what_is_said_is_paid(form: str, parameters: dict[str, Any]) -> None:
    if not find_spec(form):
        pytest.skip(f"{form} has another environment of hatch (hatch.toml)")
    environment = load(form, package="one-step", **parameters, arguments={"length": 2}, most_rows=6)
    assert len(environment) == 6  # type: ignore[arg-type]
    for seed in range(6):
        problem = environment.problem(seed)
        word = environment.messages(problem)[0].content.removeprefix("Spell backwards: ")
        grades = [environment.grade(problem, text) for text in (word[::-1], "x" * len(word), "")]
        assert [(grade.reward, grade.success) for grade in grades] == [(1.0, True), (0.5, False), (0.0, False)]
