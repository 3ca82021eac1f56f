"""Add numbers: a complete environment in thirty lines, and what it offers beside problems and grades."""

import random
from collections import Counter
from collections.abc import Sequence

from grail_core.capabilities import Capabilities, Stage, Teacher
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_envs.answer_text import tagged_answer
from grail_envs.draws import Draws
from grail_envs.exact_numbers import read_number
from grail_envs.reward_table import CORRECT_AND_FORMAT


def rough_answer(problem: Problem, rng: random.Random) -> str:
    """The form of an answer and a hint of the task: near the sum, seldom the sum."""
    return f"<answer>{sum(problem.payload) + rng.randrange(-9, 10)}</answer>"


def best_constant(environment: object, problems: Sequence[Problem]) -> float:
    """A number solves the problems with that sum, so the commonest sum is the best of them."""
    return Counter(sum(problem.payload) for problem in problems).most_common(1)[0][1] / len(problems)


class SumsEnvironment:
    """Sums of `terms` numbers."""

    capabilities = Capabilities(best_constant=best_constant, teacher=lambda environment: Teacher(stages=(Stage(rough_answer),)))

    def __init__(self, terms: int = 3) -> None:
        self.spec = EnvironmentSpec(env_id="sums", version=1, parameters={"terms": terms})

    def problem(self, seed: int) -> Problem:
        draws = Draws("sums", 1, seed)
        return Problem("sums", seed, tuple(draws.between(1, 99) for _ in range(self.spec.parameters["terms"])))

    def messages(self, problem: Problem) -> list[Message]:
        text = " + ".join(str(number) for number in problem.payload)
        return [Message("user", f"What is {text}? End with <answer>the number</answer>.")]

    def grade(self, problem: Problem, completion: str) -> Grade:
        answer = tagged_answer(completion, limit=64)
        number = read_number(answer) if answer else None
        right = number is not None and number.value == sum(problem.payload)
        values = {"correct": float(right), "format": float(number is not None)}
        return CORRECT_AND_FORMAT.graded(values, success=right, well_formed=number is not None)
