"""Held-out evaluation: fixed problems, fixed seeds, the network's own sampler, success with its standard error.

Problems and sampling seeds are a tagged hash of an index and nothing else, so any two evaluations of one environment compare
problem by problem. Their seeds come from another hash than those that windows assign; where an environment has so few problems
that two seeds meet in one, only its capability `held_out` (`grail_envs.load_held_out`) keeps the asked from the trained ones.
Sampling is at the policy's temperature, as miners do it, by whatever draws as the protocol says: a model of this process
(`evaluate`), or any `Generator` (`evaluate_with`, `draws_of`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grail_core.environment import Environment, GradeOutcome, Problem
from grail_core.errors import CheckpointError, EngineError
from grail_core.generation.base import Completion, GenerationRequest, Generator
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.protocol.policy import GenerationPolicy
from grail_trainer.graded_samples import GradedSample, SampleFile
from grail_trainer.tiny.constant_answers import constant_baseline

Progress = Callable[[int, int], None]

Draw = Callable[[Sequence[GenerationRequest]], list[Completion]]
"""One completion for each request, in their order."""

REQUESTS_AT_ONCE = 512

_TRIES = 3


@dataclass(frozen=True)
class Evaluation:
    """Shares in 0 … 1; errors are standard errors of the mean over problems, whose samples are averaged first."""

    env_id: str
    problems: int
    samples: int  # of each problem
    success: float  # mean@k: the mean over problems and samples
    success_error: float
    well_formed: float
    well_formed_error: float
    reward: float
    completion_tokens: float  # mean length
    pass_at: dict[int, float]  # k → unbiased estimate that at least one of k samples succeeds
    pass_at_error: dict[int, float]
    constant: float  # the best constant answer on the same problems
    ungraded: int = 0  # samples that the grader came to no result about; they count as not solved

    def to_json(self) -> dict[str, Any]:
        return {
            "env_id": self.env_id,
            "problems": self.problems,
            "samples": self.samples,
            "success": self.success,
            "success_error": self.success_error,
            "well_formed": self.well_formed,
            "well_formed_error": self.well_formed_error,
            "reward": self.reward,
            "completion_tokens": self.completion_tokens,
            "pass_at": {str(k): value for k, value in self.pass_at.items()},
            "pass_at_error": {str(k): value for k, value in self.pass_at_error.items()},
            "constant": self.constant,
            "ungraded": self.ungraded,
        }


def held_out_seed(index: int) -> int:
    """Seed of held-out problem `index`: 64 bits of SHA-256."""
    return _word("grail-trainer/held-out/problem", index)


def held_out_sampling_seed(index: int, sample: int) -> int:
    """Sampling seed of one sample of a held-out problem: 63 bits, as the protocol's are."""
    return _word("grail-trainer/held-out/sample", index, sample) >> 1


def evaluate(
    model: PolicyModel,
    renderer: PromptRenderer,
    environment: Environment,
    policy: GenerationPolicy,
    end_tokens: Sequence[int],
    *,
    problems: int,
    samples: int,
    constant: bool = True,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Sample and grade the first `problems` held-out problems, `samples` times each, with a model of this process."""
    from grail_core.generation.hf import HfGenerator

    return evaluate_with(
        HfGenerator(model, policy, frozenset(end_tokens)).generate,
        renderer,
        environment,
        context_length=model.context_length,
        problems=problems,
        samples=samples,
        constant=constant,
        progress=progress,
    )


def evaluate_with(
    draw: Draw,
    renderer: PromptRenderer,
    environment: Environment,
    *,
    context_length: int,
    problems: int,
    samples: int,
    constant: bool = True,
    at_once: int = REQUESTS_AT_ONCE,
    kept: SampleFile | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """As `evaluate`, with whatever `draw` draws with.

    Args:
        at_once: requests that are drawn together. kept: where samples lie of an evaluation that was interrupted, and go.

    Raises:
        CheckpointError: a prompt leaves no room for an answer.
    """
    if problems < 1 or samples < 1:
        raise ValueError(f"at least one problem and one sample, not {problems} and {samples}")
    asked = [environment.problem(held_out_seed(index)) for index in range(problems)]
    prompts = [renderer.render(environment.messages(problem)) for problem in asked]
    _require_room(context_length, prompts)
    total = problems * samples
    graded = list(kept.samples[:total]) if kept is not None else []
    progress(len(graded), total)
    for start in range(len(graded), total, at_once):
        places = [divmod(index, samples) for index in range(start, min(start + at_once, total))]
        requests = [GenerationRequest(prompts[one], held_out_sampling_seed(one, sample)) for one, sample in places]
        block = [
            _graded(environment, renderer, asked[one], completion, index)
            for index, ((one, _), completion) in enumerate(zip(places, draw(requests), strict=True), start)
        ]
        if kept is not None:
            kept.add(block)
        graded += block
        progress(len(graded), total)
    return _evaluation(environment, asked, graded, samples, constant=constant)


def draws_of(generator: Generator) -> Draw:
    """What a generator draws with the weights that it serves.

    Raises (when it is asked):
        EngineError: it fails for good, or leaves a request out again and again: figures over the others would be biased.
    """

    def draw(requests: Sequence[GenerationRequest]) -> list[Completion]:
        found: dict[int, Completion] = {}
        for _ in range(_TRIES):
            left = [index for index in range(len(requests)) if index not in found]
            if not left:
                break
            for one in generator.generate([requests[index] for index in left], _never):
                found[left[one.index]] = one.completion
        if len(found) < len(requests):
            raise EngineError(
                f"{len(requests) - len(found)} of {len(requests)} requests were not answered in {_TRIES} tries",
                hint="the log names each (row_lost); see docs/engines.md",
            )
        return [found[index] for index in range(len(requests))]

    return draw


def _graded(
    environment: Environment, renderer: PromptRenderer, problem: Problem, completion: Completion, index: int
) -> GradedSample:
    text = renderer.decode_completion(completion.tokens, environment.messages(problem))
    grade = environment.grade(problem, text)
    concluded = grade.outcome is GradeOutcome.GRADED
    success = bool(grade.success) and concluded
    return GradedSample(index, success, bool(grade.well_formed), float(grade.reward), len(completion.tokens), text, concluded)


def _evaluation(
    environment: Environment, asked: Sequence[Problem], graded: Sequence[GradedSample], samples: int, *, constant: bool
) -> Evaluation:
    solved = np.array([one.success for one in graded], dtype=np.float64).reshape(len(asked), samples)
    formed = np.array([one.well_formed for one in graded], dtype=np.float64).reshape(len(asked), samples)
    successes = solved.sum(axis=1).astype(int)
    passes = {k: np.array([pass_at_k(samples, int(c), k) for c in successes]) for k in ks_up_to(samples)}
    return Evaluation(
        env_id=environment.spec.env_id,
        problems=len(asked),
        samples=samples,
        success=float(solved.mean()),
        success_error=standard_error(solved.mean(axis=1)),
        well_formed=float(formed.mean()),
        well_formed_error=standard_error(formed.mean(axis=1)),
        reward=float(np.mean([one.reward for one in graded])),
        completion_tokens=float(np.mean([one.tokens for one in graded])),
        pass_at={k: float(values.mean()) for k, values in passes.items()},
        pass_at_error={k: standard_error(values) for k, values in passes.items()},
        constant=constant_baseline(environment, asked, [one.text for one in graded]) if constant else 0.0,
        ungraded=sum(not one.concluded for one in graded),
    )


def _require_room(context_length: int, prompts: Sequence[Sequence[int]]) -> None:
    longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    if len(prompts[longest]) >= context_length:
        raise CheckpointError(
            f"a prompt of {len(prompts[longest])} tokens leaves no room for an answer in the model's context of "
            f"{context_length}",
            where=f"max_position_embeddings in config.json; held-out problem {longest}",
            hint="evaluate a model with a longer context, or in an environment with shorter problems (--env)",
        )


def pass_at_k(samples: int, successes: int, k: int) -> float:
    """Unbiased pass@k (Chen et al. 2021): 1 − C(n − c, k) / C(n, k)."""
    if not 1 <= k <= samples or not 0 <= successes <= samples:
        raise ValueError(f"pass@{k} of {samples} samples with {successes} successes")
    return 1.0 - math.comb(samples - successes, k) / math.comb(samples, k)


def standard_error(values: np.ndarray) -> float:
    """Of the mean; 0 for fewer than two values."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def ks_up_to(samples: int) -> list[int]:
    """The k that pass@k is told for: powers of two, and all samples."""
    return sorted({samples, *(2**i for i in range(samples.bit_length()) if 2**i <= samples)})


def _never() -> bool:
    return False


def _word(tag: str, *parts: int) -> int:
    text = "|".join([tag, *map(str, parts)]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
