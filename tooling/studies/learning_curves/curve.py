"""One learning curve: what localnet's trainer would learn, without chain, miners or validators.

Each window the policy that was published two windows ago answers fresh problems (as on a network, where a checkpoint comes
into force two windows after the rollouts it was trained on), their behaviour log-probabilities are measured by the proof's own
forward pass, and the trainer's own `learn_window` runs on them. Checkpoints are evaluated on the same held-out problems.
What is simplified: one process draws all rollouts, and nothing is proved or refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grail_trainer.hyper_parameters import HyperParameters
from tooling.studies.learning_curves.task import environments_of, model_of


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that a curve is a function of, besides the code. `model`: a folder; None: made for the seed."""

    task: str
    seed: int
    settings: HyperParameters
    windows: int
    groups: int  # of 16 rollouts, each window
    stale: int  # windows from rollout to checkpoint
    problems: int  # held out
    every: int  # windows between evaluations
    model: str | None = None

    @property
    def loss(self) -> str:
        return self.settings.update.loss

    @property
    def is_control(self) -> bool:
        return self.settings.optimiser.learning_rate == 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"settings": self.settings.to_json()}


@dataclasses.dataclass(frozen=True)
class Point:
    """One checkpoint of one run; `window` windows of training are in it. What follows `constant` is of the last of these."""

    window: int
    success: float
    success_error: float
    well_formed: float
    completion_tokens: float
    constant: float
    rollout_success: float | None = None  # of the rollouts it was trained on
    groups: int = 0  # that varied
    loss: float = 0.0
    entropy: float = 0.0
    gradient_norm: float = 0.0
    clip_share: float = 0.0
    kl_behaviour: float = 0.0
    changed_share: float = 0.0
    undone: str = ""
    seconds_train: float = 0.0


def curve(run: Run, *, cache_dir: Path | None = None) -> Iterator[Point]:
    """The points of one run, the checkpoint before any training first."""
    folder = Path(run.model) if run.model else model_of(run.task, run.seed, cache_dir)
    try:
        yield from _points(run, folder)
    finally:
        if run.model is None:
            shutil.rmtree(folder.parent)


def _points(run: Run, folder: Path) -> Iterator[Point]:
    import torch

    from grail_core.generation.defaults import sampling_defaults
    from grail_core.model.policy_model import PolicyModel
    from grail_core.model.prompts import PromptRenderer
    from grail_trainer.evaluate import evaluate
    from grail_trainer.learning.guarded import learn_window
    from grail_trainer.learning.optimiser import Masters

    torch.set_num_threads(1)
    environment, held_out = environments_of(run.task)
    defaults, renderer = sampling_defaults(folder), PromptRenderer(folder)
    policy, ends = defaults.policy, frozenset(defaults.end_tokens)
    update = dataclasses.replace(run.settings.update, seed=run.seed)
    settings = dataclasses.replace(run.settings, update=update)
    masters = Masters.load(folder, settings.optimiser)
    reference = PolicyModel.load(folder).module if update.kl_coefficient else None
    serving = PolicyModel.load(folder)
    published = [masters.published()] * run.stale

    def point(window: int, **more: Any) -> Point:
        serving.load_state(published[-1])
        found = evaluate(
            serving, renderer, held_out, policy, tuple(ends), problems=run.problems, samples=1, constant=window == 0
        )
        return Point(
            window, found.success, found.success_error, found.well_formed, found.completion_tokens, found.constant, **more
        )

    yield point(0)
    for window in range(run.windows):
        serving.load_state(published[window])
        batch, solved = rollouts(serving, renderer, environment, policy, ends, run.groups, f"{run.seed}|{window}")
        start = time.perf_counter()
        learned = learn_window(
            masters,
            batch,
            settings,
            window=window,
            temperature=policy.temperature,
            token_limit=policy.max_tokens,
            reference=reference,
        )
        seconds, statistics = time.perf_counter() - start, learned.statistics
        published.append(masters.published())
        if (window + 1) % run.every == 0 or window + 1 == run.windows:
            yield point(
                window + 1,
                rollout_success=solved,
                groups=len(batch),
                loss=statistics.loss,
                entropy=statistics.entropy,
                gradient_norm=statistics.gradient_norm,
                clip_share=statistics.clip_share,
                kl_behaviour=statistics.kl_behaviour,
                changed_share=_changed(published[-2], published[-1]),
                undone=learned.undone,
                seconds_train=seconds,
            )


def rollouts(
    model: Any, renderer: Any, environment: Any, policy: Any, ends: frozenset[int], groups: int, tag: str
) -> tuple[list[Any], float]:
    """Groups of one window that vary, with behaviour log-probabilities, and the mean success of all."""
    from grail_core.generation.base import GenerationRequest
    from grail_core.generation.hf import HfGenerator
    from grail_core.proof.batch import prove_rollouts
    from grail_core.proof.sketches import projections
    from grail_core.protocol import Randomness
    from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
    from grail_core.protocol.types import Digest
    from grail_trainer.learning.advantages import varies
    from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence

    window_seed = Digest(hashlib.sha256(f"learn|{tag}".encode()).digest())
    signs = projections(Randomness(Digest(bytes(32))), window_seed, model.hidden_size)
    problems = [environment.problem(_word(window_seed, group)) for group in range(groups)]
    prompts = [renderer.render(environment.messages(problem)) for problem in problems]
    requests = [
        GenerationRequest(prompt, _word(window_seed, group, r) >> 1)
        for group, prompt in enumerate(prompts)
        for r in range(ROLLOUTS_PER_PROBLEM)
    ]
    completions = HfGenerator(model, policy, ends).generate(requests)
    batch, successes = [], []
    for group, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
        answers = completions[group * ROLLOUTS_PER_PROBLEM : (group + 1) * ROLLOUTS_PER_PROBLEM]
        asked = environment.messages(problem)
        grades = [environment.grade(problem, renderer.decode_completion(answer.tokens, asked)) for answer in answers]
        successes += [grade.success for grade in grades]
        if not varies([grade.reward for grade in grades]):
            continue
        rows = [TokenSequence((*prompt, *answer.tokens), len(prompt)) for answer in answers]
        proofs = prove_rollouts(model, [row.tokens for row in rows], [len(prompt)] * len(rows), signs)
        batch.append(
            RolloutGroup(
                str(group),
                tuple(
                    Rollout(
                        row,
                        grade.reward,
                        grade.success,
                        proof.logprobs,
                        truncated=row.tokens[-1] not in ends,
                        well_formed=grade.well_formed,
                    )
                    for row, grade, proof in zip(rows, grades, proofs, strict=True)
                ),
            )
        )
    return batch, sum(successes) / len(successes)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> float:
    """Share of published weights that differ."""
    changed = sum(int((old[name] != new[name]).sum()) for name in new)
    return changed / sum(int(tensor.numel()) for tensor in new.values())


def _word(seed: bytes, *parts: int) -> int:
    return int.from_bytes(hashlib.sha256(seed + repr(parts).encode()).digest()[:8], "big")
