"""A short supervised warm start: a model made from nothing learns what an answer looks like.

What it is shown, and for how long, are the stages of the environment's teacher (`grail_core.capabilities`); this module only
takes the steps. An environment without stages gets no warm start.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grail_core.capabilities import Demonstrate, Stage, teacher_of
from grail_core.environment import Environment
from grail_core.errors import ConfigurationError
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import TokenSequence
from grail_trainer.tiny.vocabulary import Codec

Progress = Callable[[int, int, float], None]
"""(steps done, steps in all, loss)."""


def stages_for(environment: Environment, *, quick: bool) -> tuple[Stage, ...]:
    """The stages of the environment's teacher, each half as long if `quick`."""
    stages = teacher_of(environment).stages
    return tuple(dataclasses.replace(stage, steps=stage.steps // 2) for stage in stages) if quick else stages


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
    """Train in place. The same seed gives the same weights on the same kind of processor with one thread.

    Raises:
        ConfigurationError: the teacher's vocabulary cannot say what the stage demonstrates.
    """
    _require_words(environment, codec, stage.demonstrate)
    rng = random.Random(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = min(20, stage.steps)
    policy = Policy(module)
    for step in range(stage.steps):
        fall = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        rate = stage.last_learning_rate + (stage.learning_rate - stage.last_learning_rate) * fall
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warmup)
        batch = [_example(environment, codec, stage.demonstrate, rng) for _ in range(rows)]
        tokens = sum(row.completion_length for row in batch)
        loss = policy(batch, _MeanSurprise(tokens)).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        progress(step + 1, stage.steps, loss.item())


@dataclasses.dataclass(frozen=True)
class _MeanSurprise:
    """The mean of −log p over all tokens of a step: what supervised training lowers."""

    tokens: int
    elementwise: bool = True

    def loss(self, logprob: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        return -logprob / self.tokens


def _example(environment: Environment, codec: Codec, demonstrate: Demonstrate, rng: random.Random) -> TokenSequence:
    problem = environment.problem(rng.getrandbits(64))
    prompt = codec.renderer.render(environment.messages(problem))
    return TokenSequence((*prompt, *codec.answer(demonstrate(problem, rng))), len(prompt))


def _require_words(environment: Environment, codec: Codec, demonstrate: Demonstrate) -> None:
    """One demonstration must come back from its tokens, white space aside: a model could never write what has no token."""
    text = demonstrate(environment.problem(0), random.Random(0))
    said = codec.renderer.decode_completion(codec.answer(text))
    if "".join(said.split()) != "".join(text.split()):
        raise ConfigurationError(
            f"the teacher of the environment {environment.spec.env_id} demonstrates what its vocabulary cannot say: "
            f"{text[:80]!r} becomes {said[:80]!r}",
            where="capability `teacher`",
            hint="give its Symbols every word of an answer, or use BytePairs",
        )
