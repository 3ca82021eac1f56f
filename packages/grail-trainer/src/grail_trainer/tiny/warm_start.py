"""A short supervised warm start: a model made from nothing learns what an answer looks like.

For `sat` it has two stages, because the format alone leaves nothing for reinforcement to hold on to. First the answers give
each variable the sign it has in most clauses (a rule of thumb, not a solver), so that attention learns where a variable's
literals stand; then the same answers with 40 % of the values flipped at random, so that the model samples diffusely: well
formed nearly always, right about as often as guessing. What is left to learn is to trust what it sees, and reinforcement does
that. Environments whose answer is a number learn the tags around some number, and nothing of the task.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from grail_core.environment import Environment, Problem
from grail_trainer.logprobs import TokenRow, completion_logprobs
from grail_trainer.tiny.vocabulary import ANSWER_TAGS, Codec

Progress = Callable[[int, int, float], None]
"""(steps done, steps in all, loss)."""


class Teacher(Protocol):
    """Writes an answer to a problem, as text."""

    def __call__(self, problem: Problem, rng: random.Random) -> str: ...


@dataclass(frozen=True)
class Stage:
    """Supervised steps on one teacher's answers; the learning rate falls on a cosine from the first value to the second."""

    teacher: Teacher
    steps: int
    learning_rate: float
    last_learning_rate: float


def stages_for(environment: Environment, *, quick: bool) -> tuple[Stage, ...]:
    """The stages for an environment; none where the form of its answers is not known here."""
    factor = 2 if quick else 1
    if environment.spec.env_id == "sat":
        return (
            Stage(majority_answer, 400 // factor, 5e-3, 1.5e-3),
            Stage(_flipped(0.4), 100 // factor, 1.5e-3, 1.5e-4),
        )
    if environment.spec.env_id in ("gsm8k", "math"):
        return (Stage(number_answer, 240 // factor, 5e-3, 5e-4),)
    return ()


def run_stage(
    module: Any,
    environment: Environment,
    codec: Codec,
    stage: Stage,
    *,
    rows: int,
    seed: int,
    progress: Progress = lambda done, total, loss: None,
) -> None:
    """Train in place. The same seed gives the same weights on the same kind of processor with one thread."""
    rng = random.Random(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = min(20, stage.steps)
    module.train()
    for step in range(stage.steps):
        fall = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        rate = stage.last_learning_rate + (stage.learning_rate - stage.last_learning_rate) * fall
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warmup)
        batch = [_example(environment, codec, stage.teacher, rng) for _ in range(rows)]
        loss = -completion_logprobs(module, batch).logprob.mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        progress(step + 1, stage.steps, loss.item())


def majority_answer(problem: Problem, rng: random.Random) -> str:
    """`sat`: every variable as most of its literals want it; ties by a coin."""
    return _assignment(_majority(problem, rng))


def number_answer(problem: Problem, rng: random.Random) -> str:
    """Environments whose answer is a number: some small integer."""
    return f"{ANSWER_TAGS[0]}{rng.randrange(100)}{ANSWER_TAGS[1]}"


def _flipped(share: float) -> Teacher:
    def teacher(problem: Problem, rng: random.Random) -> str:
        return _assignment([value ^ (rng.random() < share) for value in _majority(problem, rng)])

    return teacher


def _majority(problem: Problem, rng: random.Random) -> list[int]:
    balance = [0] * problem.payload.variables
    for clause in problem.payload.clauses:
        for literal in clause:
            balance[abs(literal) - 1] += 1 if literal > 0 else -1
    return [int(value > 0) if value else rng.getrandbits(1) for value in balance]


def _assignment(values: list[int]) -> str:
    from grail_envs.sat import format_answer

    return format_answer(tuple(values))


def _example(environment: Environment, codec: Codec, teacher: Teacher, rng: random.Random) -> TokenRow:
    problem = environment.problem(rng.getrandbits(64))
    prompt = codec.renderer.render(environment.messages(problem))
    return TokenRow((*prompt, *codec.answer(teacher(problem, rng))), len(prompt))
