"""Held-out evaluation: fixed problems, fixed seeds, the network's own sampler, success with its standard error.

Problems and sampling seeds are a tagged hash of an index and nothing else, so any two evaluations of one environment compare
problem by problem. Their seeds come from another hash than those that windows assign; where an environment has so few problems
that two seeds meet in one, only its capability `held_out` (`grail_envs.load_held_out`) keeps the asked from the trained ones.
Sampling is at the policy's temperature, as miners do it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grail_core.environment import Environment, Grade
from grail_core.errors import CheckpointError
from grail_core.generation.base import GenerationRequest
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.protocol.policy import GenerationPolicy
from grail_trainer.tiny.constant_answers import constant_baseline

Progress = Callable[[int, int], None]

_REQUESTS_AT_ONCE = 512


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
    constant: float  # the best constant answer on the same problems

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
            "constant": self.constant,
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
    """Sample and grade the first `problems` held-out problems, `samples` times each."""
    from grail_core.generation.hf import HfGenerator

    if problems < 1 or samples < 1:
        raise ValueError(f"at least one problem and one sample, not {problems} and {samples}")
    asked = [environment.problem(held_out_seed(index)) for index in range(problems)]
    prompts = [renderer.render(environment.messages(problem)) for problem in asked]
    _require_room(model, prompts)
    generator = HfGenerator(model, policy, frozenset(end_tokens))
    requests = [
        GenerationRequest(prompts[index], held_out_sampling_seed(index, sample))
        for index in range(problems)
        for sample in range(samples)
    ]
    grades: list[Grade] = []
    texts: list[str] = []
    lengths: list[int] = []
    for start in range(0, len(requests), _REQUESTS_AT_ONCE):
        for completion in generator.generate(requests[start : start + _REQUESTS_AT_ONCE]):
            problem = asked[len(texts) // samples]
            texts.append(renderer.decode_completion(completion.tokens, environment.messages(problem)))
            lengths.append(len(completion.tokens))
            grades.append(environment.grade(problem, texts[-1]))
        progress(len(texts), len(requests))
    solved = np.array([grade.success for grade in grades], dtype=np.float64).reshape(problems, samples)
    formed = np.array([grade.well_formed for grade in grades], dtype=np.float64).reshape(problems, samples)
    successes = solved.sum(axis=1).astype(int)
    return Evaluation(
        env_id=environment.spec.env_id,
        problems=problems,
        samples=samples,
        success=float(solved.mean()),
        success_error=standard_error(solved.mean(axis=1)),
        well_formed=float(formed.mean()),
        well_formed_error=standard_error(formed.mean(axis=1)),
        reward=float(np.mean([grade.reward for grade in grades])),
        completion_tokens=float(np.mean(lengths)),
        pass_at={k: float(np.mean([pass_at_k(samples, int(c), k) for c in successes])) for k in powers_up_to(samples)},
        constant=constant_baseline(environment, asked, texts) if constant else 0.0,
    )


def _require_room(model: PolicyModel, prompts: Sequence[Sequence[int]]) -> None:
    longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    if len(prompts[longest]) >= model.context_length:
        raise CheckpointError(
            f"a prompt of {len(prompts[longest])} tokens leaves no room for an answer in the model's context of "
            f"{model.context_length}",
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


def powers_up_to(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def _word(tag: str, *parts: int) -> int:
    text = "|".join([tag, *map(str, parts)]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
