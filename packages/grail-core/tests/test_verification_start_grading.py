"""Starting a grader in no completion's time: whatever an environment does there is told, and ends nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from grail_core.environment import Environment, EnvironmentSpec, Grade, Problem
from grail_core.errors import ConfigurationError
from grail_core.verification.reward import start_grading


@dataclass
class Grader:
    """Of an environment only what starts it; each part does as told."""

    grade_it: Callable[[], Grade]
    pose: Callable[[], Problem] = lambda: Problem("broken", 0, None)
    graded: int = 0

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec("broken", 1)

    def problem(self, seed: int) -> Problem:
        return self.pose()

    def grade(self, problem: Problem, completion: str) -> Grade:
        self.graded += 1
        return self.grade_it()


def raising(error: Exception) -> Callable[[], Any]:
    def raises() -> Any:
        raise error

    return raises


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "could not grade: MemoryError"),
        (OSError(11, "no processes"), "could not grade: BlockingIOError"),
        (ConfigurationError("no sandbox here"), "no sandbox here"),
    ],
)
def test_a_fault_of_the_machine_is_told_and_not_raised(error: Exception, told: str) -> None:
    assert told in start_grading(cast(Environment, Grader(raising(error))))


def test_a_problem_that_cannot_be_posed_is_told_and_not_raised() -> None:
    grader = Grader(lambda: Grade(0.0, False, False), pose=raising(IndexError("no rows")))
    assert start_grading(cast(Environment, grader)) == "its first problem raised IndexError"
    assert grader.graded == 0


def test_a_grader_that_dislikes_an_empty_answer_is_started_all_the_same() -> None:
    grader = Grader(raising(ValueError("empty")))
    assert start_grading(cast(Environment, grader)) == ""
    assert grader.graded == 1
